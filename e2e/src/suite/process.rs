//! Child processes and conditions with a deadline: a command that hangs fails a test instead of hanging it.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Status and output of a process that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Standard output of a success; the error of a failure has all output.
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

/// A process that runs while the test reads its output. Killed when dropped.
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
        // Fails when the process has ended already.
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
            // A reader does not panic.
            let _ = reader.join();
        }
    }
}

const PERIOD: Duration = Duration::from_millis(200);

/// Tries until it succeeds; the error has the last failure before the deadline.
pub fn eventually<T>(what: &str, deadline: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("not within {deadline:?}: {what}"));
            }
            Err(_) => std::thread::sleep(PERIOD),
        }
    }
}

/// Checks repeatedly for `period`; the first failure is the error.
pub fn hold(what: &str, period: Duration, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + period;
    let mut checks = 0;
    while Instant::now() < end {
        check().with_context(|| format!("no longer: {what}"))?;
        checks += 1;
        std::thread::sleep(PERIOD);
    }
    ensure!(checks > 0, "never checked: {what}");
    Ok(())
}
