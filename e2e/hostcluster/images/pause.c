/* Holds a pod's namespaces and reaps what its containers leave behind (shared process namespaces). */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void reap(int signal_number) { (void)signal_number; while (waitpid(-1, 0, WNOHANG) > 0); }
static void leave(int signal_number) { (void)signal_number; _exit(0); }

int main(void) {
  signal(SIGINT, leave);
  signal(SIGTERM, leave);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
