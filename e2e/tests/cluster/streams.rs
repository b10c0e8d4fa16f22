//! The kubelet API: logs, exec, attach, port-forward, cp.

use anyhow::{Context, Result, ensure};
use nestling_e2e::suite::{AGNHOST, BUSYBOX, Namespace, Running, eventually, run, shared};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

/// A pod that prints a line a second and has a shell.
fn shell_pod(ns: &Namespace, script: &str) -> Result<()> {
    let script = serde_json::to_string(script)?;
    ns.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: shell}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{BUSYBOX}', stdin: true, command: [sh, -c, {script}]}}]}}}}"
    ))?;
    ns.wait_for("pod/shell", "condition=Ready", 60)
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn logs_follow_tail_and_previous() -> Result<()> {
    let ns = shared()?.namespace("logs")?;
    shell_pod(&ns, "i=0; while [ $i -lt 600 ]; do echo line-$i; i=$((i+1)); sleep 0.2; done")?;
    let follow = ns.start(&["logs", "-f", "shell"])?;
    eventually("lines keep coming", Duration::from_secs(20), || {
        let text = follow.stdout();
        ensure!(text.starts_with("line-0\nline-1\n") && text.contains("line-10\n"), "{text}");
        Ok(())
    })?;
    let tail = ns.run(&["logs", "shell", "--tail=2"])?;
    ensure!(tail.lines().count() == 2 && tail.starts_with("line-"), "{tail}");
    let stamped = ns.run(&["logs", "shell", "--tail=1", "--timestamps"])?;
    ensure!(stamped.split(' ').next().is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok()), "{stamped}");
    ensure!(ns.run(&["logs", "shell", "--limit-bytes=4"])? == "line");
    ensure!(!ns.run(&["logs", "shell", "--since=1s"])?.contains("line-0\n"));
    let none = ns.output(&["logs", "shell", "--previous"])?;
    ensure!(!none.status.success() && none.stderr.contains("previous terminated container"), "{none:?}");
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn logs_of_the_previous_container_after_a_restart() -> Result<()> {
    let ns = shared()?.namespace("logs-previous")?;
    ns.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: shell}}, spec: {{terminationGracePeriodSeconds: 1, volumes: [{{name: v, emptyDir: {{}}}}], containers: [{{name: c, image: '{BUSYBOX}', volumeMounts: [{{name: v, mountPath: /v}}], command: [sh, -c, 'if [ -e /v/seen ]; then echo second; sleep 3600; else touch /v/seen; echo first; fi']}}]}}}}"
    ))?;
    eventually("the container restarted", Duration::from_secs(60), || {
        ensure!(ns.run(&["logs", "shell"])?.trim() == "second");
        Ok(())
    })?;
    ensure!(ns.run(&["logs", "shell", "--previous"])?.trim() == "first");
    ensure!(ns.field("pod/shell", ".status.containerStatuses[0].restartCount")? == "1");
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn exec_carries_input_output_exit_code_and_a_terminal() -> Result<()> {
    let ns = shared()?.namespace("exec")?;
    shell_pod(&ns, "sleep 3600")?;
    ensure!(ns.run(&["exec", "shell", "--", "echo", "hello"])?.trim() == "hello");
    let echoed = run(&mut ns.command(&["exec", "-i", "shell", "--", "cat"]), Some("through\n"), Duration::from_secs(30))?.ok("exec -i")?;
    ensure!(echoed == "through\n", "{echoed}");
    let failed = ns.output(&["exec", "shell", "--", "sh", "-c", "echo problem >&2; exit 3"])?;
    ensure!(failed.status.code() == Some(3) && failed.stderr.contains("problem"), "{failed:?}");

    // `script` gives kubectl a terminal.
    let line = format!("{:?}", ns.command(&["exec", "-it", "shell", "--", "sh"])).replace('"', "'");
    let mut terminal = Running::start(Command::new("script").args(["-qec", &line, "/dev/null"]))?;
    terminal.write("tty; echo $((40+2))\nexit\n")?;
    let session = terminal.wait(Duration::from_secs(30))?;
    ensure!(session.stdout.contains("/dev/pts/") && session.stdout.contains("42"), "{session:?}");
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn attach_reaches_the_running_process() -> Result<()> {
    let ns = shared()?.namespace("attach")?;
    shell_pod(&ns, "while read line; do echo got-$line; done")?;
    let mut attached = ns.start(&["attach", "-i", "shell"])?;
    eventually("input comes back", Duration::from_secs(20), || {
        attached.write("word\n")?;
        ensure!(attached.stdout().contains("got-word"), "{}{}", attached.stdout(), attached.stderr());
        Ok(())
    })
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn port_forward_reaches_the_pod() -> Result<()> {
    let ns = shared()?.namespace("port-forward")?;
    ns.run(&["run", "web", "--image", AGNHOST, "--command", "--", "/agnhost", "netexec", "--http-port=8080"])?;
    ns.wait_for("pod/web", "condition=Ready", 60)?;
    let forward = ns.start(&["port-forward", "pod/web", ":8080"])?;
    let port: u16 = eventually("kubectl listens", Duration::from_secs(20), || {
        let text = forward.stdout();
        let rest = text.split("127.0.0.1:").nth(1).with_context(|| format!("{text}{}", forward.stderr()))?;
        Ok(rest.split(' ').next().unwrap_or_default().parse()?)
    })?;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /hostname HTTP/1.0\r\nHost: web\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.ends_with("web"), "{answer}");
    }
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn cp_copies_both_ways() -> Result<()> {
    let ns = shared()?.namespace("cp")?;
    shell_pod(&ns, "sleep 3600")?;
    let folder = tempfile::tempdir()?;
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&there, &content)?;
    ns.run(&["cp", &there.to_string_lossy(), "shell:/tmp/file"])?;
    ns.run(&["cp", "shell:/tmp/file", &back.to_string_lossy()])?;
    ensure!(std::fs::read(&back)? == content, "the file came back changed");
    Ok(())
}
