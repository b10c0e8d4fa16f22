//! Replays an upgrade at the runtime's streaming server and joins the two connections.

use crate::server::limits::Slot;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For the connection to the streaming server, which is on this machine.
const DIAL_LIMIT: Duration = Duration::from_secs(5);
/// For its answer, as long as a kubelet allows for the creation of streams.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// An error text of the runtime longer than this is cut off.
const MAX_ERROR: usize = 64 * 1024;
/// Held per direction; a stream's memory is twice this.
const BUFFER: usize = 16 * 1024;
/// For the last bytes and the orderly close of a connection whose other side has ended.
const CLOSING: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("the runtime's streaming URL cannot be parsed")]
    Url(#[source] http::uri::InvalidUri),
    #[error("the runtime streams over something other than plain HTTP, which is not supported: turn off TLS of its streaming server")]
    NotHttp,
    /// Streams carry what users type: they stay on the machine, and the agent is no proxy to other places.
    #[error("the runtime's streaming server is not on the loopback interface")]
    NotLoopback,
    #[error("the container runtime's streaming server cannot be reached")]
    Dial(#[source] io::Error),
    #[error("the connection to the container runtime's streaming server failed")]
    Exchange(#[source] hyper::Error),
    #[error("the container runtime's streaming server did not answer in time")]
    Deadline,
    #[error("invalid upgrade response: status code {0}")]
    NotUpgraded(StatusCode),
}

/// Starts streams. Clones share the tasks in which streams live and the gauge that counts them.
#[derive(Clone)]
pub(in crate::server) struct Relay {
    /// A stream on which nothing moves for this long is ended.
    pub(in crate::server) idle: Duration,
    /// Streams outlive the request that opened them; the server waits for these tasks.
    pub(in crate::server) tasks: TaskTracker,
    /// Ends all streams.
    pub(in crate::server) cut: CancellationToken,
    pub(in crate::server) open: Gauge,
}

/// Counts a stream until dropped.
struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Relay {
    /// Answers with what the runtime answers at `url`. When it upgrades, a task copies bytes both ways and keeps `slot`
    /// until the stream ends.
    pub(super) async fn start(&self, url: &str, slot: Arc<Slot>, request: Request) -> Response {
        self.try_start(url, slot, request).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot relay a stream to the container runtime");
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        })
    }

    async fn try_start(&self, url: &str, slot: Arc<Slot>, mut request: Request) -> Result<Response, RelayError> {
        let target = Target::parse(url)?;
        if !wants_upgrade(request.headers()) {
            return Ok((StatusCode::BAD_REQUEST, "Upgrade request required").into_response());
        }
        let stream = timeout(DIAL_LIMIT, dial(&target)).await.map_err(|_| RelayError::Deadline)?.map_err(RelayError::Dial)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(RelayError::Exchange)?;
        // Ends with the answer, with the upgrade, or when the sender is dropped.
        self.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the streaming server ended");
            }
        });

        let mut replayed = http::Request::new(Empty::<Bytes>::new());
        *replayed.method_mut() = request.method().clone();
        *replayed.uri_mut() = target.path_and_query.parse().map_err(RelayError::Url)?;
        *replayed.headers_mut() = upgrade_headers(request.headers());
        if let Ok(host) = HeaderValue::from_str(&target.authority) {
            replayed.headers_mut().insert(HOST, host);
        }
        let answer = timeout(ANSWER_LIMIT, sender.send_request(replayed)).await;
        let mut answer = answer.map_err(|_| RelayError::Deadline)?.map_err(RelayError::Exchange)?;

        let status = answer.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let headers = upgrade_headers(answer.headers());
            self.copy_until_end(hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer), slot);
            return Ok((status, headers, Body::empty()).into_response());
        }
        if status.is_client_error() || status.is_server_error() {
            let text = timeout(ANSWER_LIMIT, Limited::new(answer.into_body(), MAX_ERROR).collect()).await;
            let text = text.map_err(|_| RelayError::Deadline)?.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let plain = [(http::header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            return Ok((status, plain, text).into_response());
        }
        Err(RelayError::NotUpgraded(status))
    }

    /// Spawns the task of one stream.
    fn copy_until_end(&self, caller: hyper::upgrade::OnUpgrade, runtime: hyper::upgrade::OnUpgrade, slot: Arc<Slot>) {
        let (idle, cut) = (self.idle, self.cut.clone());
        self.open.inc();
        let open = OpenStream(self.open.clone());
        self.tasks.spawn(async move {
            let (_slot, _open) = (slot, open);
            match timeout(ANSWER_LIMIT, async { tokio::try_join!(caller, runtime) }).await {
                Ok(Ok((caller, runtime))) => {
                    let ended = splice(TokioIo::new(caller), TokioIo::new(runtime), idle, &cut).await;
                    tracing::debug!(?ended, "stream ended");
                }
                Ok(Err(error)) => tracing::debug!(%error, "stream not opened: one side closed its connection"),
                Err(_) => tracing::warn!("stream not opened: the upgrade did not finish in time"),
            }
        });
    }
}

/// A stream's address on this machine, and the path that opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// Tried in order.
    addresses: Vec<SocketAddr>,
    /// `host:port`, as the runtime wrote it.
    authority: String,
    path_and_query: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, RelayError> {
        let uri: Uri = url.parse().map_err(RelayError::Url)?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(RelayError::NotHttp);
        }
        let authority = uri.authority().ok_or(RelayError::NotHttp)?;
        let port = authority.port_u16().unwrap_or(80);
        let hosts = match authority.host() {
            "localhost" => vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)],
            host => match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
                Ok(ip) if ip.is_loopback() => vec![ip],
                _ => return Err(RelayError::NotLoopback),
            },
        };
        Ok(Self {
            addresses: hosts.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(),
            authority: authority.to_string(),
            path_and_query: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

async fn dial(target: &Target) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target.addresses.as_slice()).await?;
    // Keystrokes are small and must not wait for one another.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    let upgrades =
        |value: &HeaderValue| value.to_str().is_ok_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")));
    headers.contains_key(UPGRADE) && headers.get_all(CONNECTION).iter().any(upgrades)
}

/// The headers that negotiate an upgrade, and no others: nothing about the caller reaches the runtime.
fn upgrade_headers(headers: &HeaderMap) -> HeaderMap {
    let negotiates = |name: &HeaderName| {
        [CONNECTION, UPGRADE].contains(name) || name.as_str().starts_with("sec-websocket-") || name == "x-stream-protocol-version"
    };
    headers.iter().filter(|(name, _)| negotiates(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Why copying ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// One side closed its connection, or broke it.
    Closed,
    /// Nothing moved for the idle limit.
    Idle,
    /// The agent is shutting down.
    Cancelled,
}

/// Copies both ways. As upstream's proxies do, the end of either direction ends both: SPDY and WebSocket have their own
/// half-close, and a peer that closed its connection reads nothing more.
async fn splice<A, B>(a: A, b: B, idle: Duration, cancel: &CancellationToken) -> Ended
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
    let _ = tokio::time::timeout(CLOSING, async { tokio::join!(a_write.shutdown(), b_write.shutdown()) }).await;
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
    async fn the_agent_can_end_a_stream() {
        let (_client, a) = duplex(64);
        let (_server, b) = duplex(64);
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert_eq!(splice(a, b, LONG, &cancel).await, Ended::Cancelled);
    }

    #[test]
    fn streaming_servers_on_loopback_are_dialled() {
        let target = Target::parse("http://127.0.0.1:40000/exec/To_k-en?x=1").unwrap();
        assert_eq!(target.addresses, ["127.0.0.1:40000".parse().unwrap()]);
        assert_eq!((target.authority.as_str(), target.path_and_query.as_str()), ("127.0.0.1:40000", "/exec/To_k-en?x=1"));
        assert_eq!(Target::parse("http://[::1]:1/").unwrap().addresses, ["[::1]:1".parse().unwrap()]);
        assert_eq!(Target::parse("http://localhost:1/x").unwrap().addresses.len(), 2);
    }

    #[test]
    fn streaming_servers_elsewhere_are_refused() {
        for url in [
            "http://10.0.0.1:1/x",
            "http://169.254.169.254/",
            "http://example.com:1/x",
            "http://0.0.0.0:1/x",
            "http://[::ffff:10.0.0.1]:1/",
        ] {
            assert!(matches!(Target::parse(url), Err(RelayError::NotLoopback)), "{url}");
        }
        for url in ["https://127.0.0.1:1/x", "/exec/token", "127.0.0.1:1"] {
            assert!(matches!(Target::parse(url), Err(RelayError::NotHttp)), "{url}");
        }
        assert!(matches!(Target::parse("http://a b"), Err(RelayError::Url(_))));
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_request_for_an_upgrade_is_recognized() {
        assert!(wants_upgrade(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")])));
        assert!(!wants_upgrade(&headers(&[("connection", "keep-alive"), ("upgrade", "SPDY/3.1")])));
        assert!(!wants_upgrade(&headers(&[("connection", "upgrade")])));
    }

    #[test]
    fn only_headers_of_the_negotiation_are_passed_on() {
        let mut given = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("authorization", "Bearer secret"),
            ("x-forwarded-for", "10.0.0.1"),
        ]);
        given.append("x-stream-protocol-version", HeaderValue::from_static("v4.channel.k8s.io"));
        given.append("x-stream-protocol-version", HeaderValue::from_static("v3.channel.k8s.io"));
        let passed = upgrade_headers(&given);
        assert_eq!(passed.len(), 5);
        assert_eq!(passed.get_all("x-stream-protocol-version").iter().count(), 2);
        assert!(!passed.contains_key("authorization") && !passed.contains_key("x-forwarded-for"));
    }
}
