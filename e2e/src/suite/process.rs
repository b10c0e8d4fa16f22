//! Child processes with a deadline: a hanging command fails a test, it never hangs it.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a finished process left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The output of a success; a failure becomes an error with what the program said.
    pub fn ok(self, what: &str) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{what}: {}\n{}{}", self.status, self.stdout, self.stderr)
    }
}

/// Runs a command to its end, with `input` on its standard input.
pub fn run(command: &mut Command, input: Option<&str>, deadline: Duration) -> Result<Finished> {
    let mut running = Running::start(command)?;
    if let Some(text) = input {
        running.write(text)?;
    }
    running.close_input();
    running.wait(deadline)
}

/// A process that goes on while the test looks at its output. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    stdout: Stream,
    stderr: Stream,
}

impl Running {
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = format!("{command:?}");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("start {name}"))?;
        let stdout = Stream::read(child.stdout.take().context("stdout is piped")?);
        let stderr = Stream::read(child.stderr.take().context("stderr is piped")?);
        Ok(Self { name, child, stdout, stderr })
    }

    pub fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).with_context(|| format!("write to {}", self.name))
    }

    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for the end; past the deadline the process is killed and its output is the error.
    pub fn wait(mut self, deadline: Duration) -> Result<Finished> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().with_context(|| format!("wait for {}", self.name))? {
                self.stdout.finish();
                self.stderr.finish();
                return Ok(Finished { status, stdout: self.stdout(), stderr: self.stderr() });
            }
            if Instant::now() >= end {
                bail!("{} took longer than {deadline:?}\n{}{}", self.name, self.stdout(), self.stderr());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ending a process that has ended is the normal case and no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0u8; 8192];
            while let Ok(n) = from.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..n]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            // A reader never panics; its end is all that counts.
            let _ = reader.join();
        }
    }
}
