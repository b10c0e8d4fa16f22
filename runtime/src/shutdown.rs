//! Graceful termination: the first signal makes the program drain; a second signal, or the drain's time limit, ends it at once.

use futures::{Stream, StreamExt as _};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    #[error("a second {0} came before the program had drained")]
    Aborted(&'static str),
    #[error("the program did not drain within {0:?}")]
    Deadline(Duration),
}

/// SIGTERM and SIGINT as they arrive.
pub fn signals() -> io::Result<impl Stream<Item = &'static str>> {
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    let stream = |signal, name| {
        futures::stream::unfold(signal, move |mut signal: tokio::signal::unix::Signal| async move {
            signal.recv().await.map(|()| (name, signal))
        })
    };
    Ok(futures::stream::select(stream(terminate, "SIGTERM").boxed(), stream(interrupt, "SIGINT").boxed()))
}

/// Runs `program` to its end. The first signal cancels `token`, and any task may cancel it to end the
/// program; from then on `program` has `limit` to return.
pub async fn supervise<T>(
    signals: impl Stream<Item = &'static str>,
    token: CancellationToken,
    limit: Duration,
    program: impl Future<Output = T>,
) -> Result<T, ShutdownError> {
    let mut signals = pin!(signals.fuse());
    let mut program = pin!(program);
    tokio::select! {
        output = &mut program => return Ok(output),
        Some(name) = signals.next() => {
            tracing::info!(signal = name, "draining");
            token.cancel();
        }
        () = token.cancelled() => {}
    }
    tokio::select! {
        output = &mut program => Ok(output),
        Some(name) = signals.next() => Err(ShutdownError::Aborted(name)),
        () = tokio::time::sleep(limit) => Err(ShutdownError::Deadline(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    const LIMIT: Duration = Duration::from_secs(10);

    fn after(seconds: &[u64]) -> impl Stream<Item = &'static str> {
        stream::iter(seconds.to_vec()).then(|s| async move {
            tokio::time::sleep(Duration::from_secs(s)).await;
            "SIGTERM"
        })
    }

    async fn drains_in(token: CancellationToken, seconds: u64) -> &'static str {
        token.cancelled().await;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        "drained"
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_drains() {
        let token = CancellationToken::new();
        let output = supervise(after(&[1]), token.clone(), LIMIT, drains_in(token, 9)).await;
        assert_eq!(output.unwrap(), "drained");
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_signal_aborts() {
        let token = CancellationToken::new();
        let output = supervise(after(&[1, 2]), token.clone(), LIMIT, drains_in(token, 9)).await;
        assert!(matches!(output, Err(ShutdownError::Aborted("SIGTERM"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_has_a_limit() {
        let token = CancellationToken::new();
        let output = supervise(after(&[1]), token.clone(), LIMIT, drains_in(token, 11)).await;
        assert!(matches!(output, Err(ShutdownError::Deadline(LIMIT))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_may_end_by_itself() {
        let output = supervise(stream::pending(), CancellationToken::new(), LIMIT, async { 7 }).await;
        assert_eq!(output.unwrap(), 7);
    }
}
