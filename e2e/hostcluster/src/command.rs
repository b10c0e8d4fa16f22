//! Runs other programs with a deadline, and prints the steps of long work to standard error.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot start `{command}`")]
    Start { command: String, source: std::io::Error },
    #[error("cannot read the output of `{command}`")]
    Pipe { command: String, source: std::io::Error },
    #[error("`{command}` did not end within {} s", .after.as_secs())]
    Deadline { command: String, after: Duration },
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed { command: String, status: std::process::ExitStatus, stderr: String },
}

/// One run of a program. Killed when dropped or when the deadline passes.
#[derive(Debug)]
pub(crate) struct Run {
    argv: Vec<OsString>,
    stdin: Option<Vec<u8>>,
    deadline: Duration,
}

impl Run {
    pub(crate) fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self { argv: argv.into_iter().map(|arg| arg.as_ref().to_owned()).collect(), stdin: None, deadline: Duration::from_secs(30) }
    }

    #[must_use]
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    #[must_use]
    pub(crate) fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn shown(&self) -> String {
        let mut shown = self.argv.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
        if shown.len() > 300 {
            let cut = (0..=300).rev().find(|at| shown.is_char_boundary(*at)).unwrap_or(0);
            shown.truncate(cut);
            shown.push('…');
        }
        shown
    }

    /// Standard output of a program that exits with success.
    pub(crate) async fn output(self) -> Result<Vec<u8>, CommandError> {
        let command = self.shown();
        let mut argv = self.argv.iter();
        let mut process = Command::new(argv.next().map_or(OsStr::new(""), OsString::as_os_str));
        process.args(argv).stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        process.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = process.spawn().map_err(|source| CommandError::Start { command: command.clone(), source })?;
        let pipe = child.stdin.take();
        let input = self.stdin.unwrap_or_default();
        let feed = async move {
            if let Some(mut pipe) = pipe {
                // A program that ends early closes the pipe; the reason is in its status and standard error.
                let _ = pipe.write_all(&input).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(self.deadline, both)
            .await
            .map_err(|_| CommandError::Deadline { command: command.clone(), after: self.deadline })?
            .map_err(|source| CommandError::Pipe { command: command.clone(), source })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(CommandError::Failed { command, status: output.status, stderr: tail(&output.stderr) })
    }

    pub(crate) async fn text(self) -> Result<String, CommandError> {
        self.output().await.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    }
}

/// The last lines, which have the reason of a failure.
fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

pub(crate) fn note(line: &str) {
    eprintln!("{line}");
}

/// Runs `work` and prints a line when it starts, one every `every` while it runs, and one with the time it took.
pub(crate) async fn step<T, E>(label: &str, every: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let started = Instant::now();
    note(&format!("{label} …"));
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    loop {
        tokio::select! {
            result = &mut work => {
                let seconds = started.elapsed().as_secs_f64();
                note(&format!("{label} {} {seconds:.1} s", if result.is_ok() { "done in" } else { "FAILED after" }));
                return result;
            }
            _ = tick.tick() => note(&format!("{label} … {} s", started.elapsed().as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_reaches_the_program_and_output_comes_back() {
        assert_eq!(Run::new(["cat"]).stdin("hello\n").text().await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn failure_carries_standard_error() {
        let error = Run::new(["sh", "-c", "echo no luck >&2; exit 3"]).output().await.unwrap_err();
        assert!(matches!(&error, CommandError::Failed { stderr, .. } if stderr == "no luck"), "{error}");
    }

    #[tokio::test]
    async fn deadline_ends_a_program() {
        let error = Run::new(["sleep", "20"]).deadline(Duration::from_millis(50)).output().await.unwrap_err();
        assert!(matches!(error, CommandError::Deadline { .. }), "{error}");
    }
}
