//! Copies bytes between two connections until one of them ends.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Held per direction; a stream's memory is twice this.
const BUFFER: usize = 16 * 1024;
/// For the last bytes and the farewell of a connection whose other side has ended.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why copying ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// One side closed its connection, or broke it.
    Closed,
    /// Nothing moved for as long as allowed.
    Idle,
    /// The agent stops.
    Cancelled,
}

/// Copies both ways. As upstream's proxies do, the end of either direction ends both: SPDY and WebSocket have their own
/// half-close, and a peer that closed its connection reads nothing more.
pub async fn splice<A, B>(a: A, b: B, idle: Duration, cancel: &CancellationToken) -> Ended
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let clock = Activity::new();
    let ended = tokio::select! {
        _ = copy(&mut a_read, &mut b_write, &clock) => Ended::Closed,
        _ = copy(&mut b_read, &mut a_write, &clock) => Ended::Closed,
        () = clock.idle_for(idle) => Ended::Idle,
        () = cancel.cancelled() => Ended::Cancelled,
    };
    // Errors here are those of connections that are gone already.
    let _ = tokio::time::timeout(FAREWELL, async { tokio::join!(a_write.shutdown(), b_write.shutdown()) }).await;
    ended
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), clock: &Activity) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.flush().await;
        }
        clock.now();
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
        clock.now();
    }
}

/// When bytes last moved, in milliseconds since the beginning.
struct Activity {
    began: Instant,
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    fn now(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    async fn idle_for(&self, limit: Duration) {
        loop {
            let last = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed));
            if last.elapsed() >= limit {
                return;
            }
            tokio::time::sleep_until(last + limit).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn bytes_go_both_ways_until_one_side_closes() {
        let (mut client, a) = duplex(64);
        let (mut server, b) = duplex(64);
        let spliced = tokio::spawn(async move { splice(a, b, LONG, &CancellationToken::new()).await });
        client.write_all(b"ping").await.unwrap();
        let mut seen = [0; 4];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"ping");

        // All that one side wrote before it closed arrives.
        let big = vec![7; 100_000];
        let writer = tokio::spawn(async move {
            server.write_all(&big).await.unwrap();
            server.shutdown().await.unwrap();
        });
        let mut got = vec![];
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, vec![7; 100_000]);
        writer.await.unwrap();
        assert_eq!(spliced.await.unwrap(), Ended::Closed);
    }

    #[tokio::test]
    async fn an_idle_stream_ends_and_a_busy_one_does_not() {
        let (mut client, a) = duplex(64);
        let (_server, b) = duplex(64);
        let limit = Duration::from_secs(1);
        let began = Instant::now();
        let spliced = tokio::spawn(async move { splice(a, b, limit, &CancellationToken::new()).await });
        for _ in 0..4 {
            tokio::time::sleep(limit / 3).await;
            client.write_all(b"x").await.unwrap();
        }
        assert_eq!(spliced.await.unwrap(), Ended::Idle);
        assert!(began.elapsed() >= limit * 2);
    }

    #[tokio::test]
    async fn the_agent_can_end_it() {
        let (_client, a) = duplex(64);
        let (_server, b) = duplex(64);
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert_eq!(splice(a, b, LONG, &cancel).await, Ended::Cancelled);
    }
}
