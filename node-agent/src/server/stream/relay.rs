//! Replays an upgrade at the runtime's streaming server and joins the two connections.

use super::splice::splice;
use super::target::Target;
use crate::server::context::Context;
use crate::server::limits::Slot;
use crate::server::respond::{self, Body};
use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// To reach the streaming server on this machine.
const DIAL_LIMIT: Duration = Duration::from_secs(5);
/// For its answer, as long as a kubelet gives the creation of streams.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// An error text of the runtime longer than this is cut off.
const MAX_ERROR: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("the container runtime's streaming server cannot be reached")]
    Dial(#[source] io::Error),
    #[error("the container runtime's streaming server broke off")]
    Exchange(#[source] hyper::Error),
    #[error("the container runtime's streaming server did not answer in time")]
    Deadline,
    #[error("invalid upgrade response: status code {0}")]
    NotUpgraded(StatusCode),
}

/// Answers with what the runtime answers. When it upgrades, a task that the server waits for copies bytes both ways and
/// keeps `slot` until its end.
pub async fn relay(
    context: &Context,
    target: &Target,
    slot: Arc<Slot>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, RelayError> {
    if !wants_upgrade(request.headers()) {
        return Ok(respond::text(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    let stream = tokio::time::timeout(DIAL_LIMIT, dial(target)).await.map_err(|_| RelayError::Deadline)?.map_err(RelayError::Dial)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(RelayError::Exchange)?;
    // Ends with the answer, with the upgrade, or when the sender below is dropped.
    context.streams.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "streaming server's connection ended");
        }
    });

    let mut replayed = Request::new(Empty::<Bytes>::new());
    *replayed.method_mut() = request.method().clone();
    *replayed.uri_mut() = target.path_and_query.parse().map_err(|_| RelayError::NotUpgraded(StatusCode::BAD_REQUEST))?;
    *replayed.headers_mut() = upgrade_headers(request.headers());
    if let Ok(host) = HeaderValue::from_str(&target.authority) {
        replayed.headers_mut().insert(HOST, host);
    }
    let answer = tokio::time::timeout(ANSWER_LIMIT, sender.send_request(replayed)).await;
    let mut answer = answer.map_err(|_| RelayError::Deadline)?.map_err(RelayError::Exchange)?;

    let status = answer.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let mut response = Response::new(respond::full(Bytes::new()));
        *response.status_mut() = status;
        *response.headers_mut() = upgrade_headers(answer.headers());
        let theirs = hyper::upgrade::on(&mut answer);
        let ours = hyper::upgrade::on(&mut request);
        let (idle, cut, open) = (context.limits.stream_idle, context.cut.clone(), context.metrics.stream());
        context.streams.spawn(async move {
            let (_slot, _open) = (slot, open);
            match tokio::time::timeout(ANSWER_LIMIT, async { tokio::try_join!(ours, theirs) }).await {
                Ok(Ok((ours, theirs))) => {
                    let ended = splice(TokioIo::new(ours), TokioIo::new(theirs), idle, &cut).await;
                    tracing::debug!(?ended, "stream ended");
                }
                Ok(Err(error)) => tracing::debug!(%error, "stream not begun: a side went away"),
                Err(_) => tracing::warn!("stream not begun: the upgrade was not finished"),
            }
        });
        return Ok(response);
    }
    if status.is_client_error() || status.is_server_error() {
        let text = tokio::time::timeout(ANSWER_LIMIT, Limited::new(answer.into_body(), MAX_ERROR).collect()).await;
        let text = text.map_err(|_| RelayError::Deadline)?.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        return Ok(respond::with_type(status, "text/plain; charset=utf-8", text));
    }
    Err(RelayError::NotUpgraded(status))
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

/// The headers that negotiate an upgrade, and no others: the runtime is told nothing of the caller.
fn upgrade_headers(headers: &HeaderMap) -> HeaderMap {
    let negotiates = |name: &HeaderName| {
        [CONNECTION, UPGRADE].contains(name) || name.as_str().starts_with("sec-websocket-") || name == "x-stream-protocol-version"
    };
    headers.iter().filter(|(name, _)| negotiates(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn knows_an_upgrade() {
        assert!(wants_upgrade(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")])));
        assert!(!wants_upgrade(&headers(&[("connection", "keep-alive"), ("upgrade", "SPDY/3.1")])));
        assert!(!wants_upgrade(&headers(&[("connection", "upgrade")])));
    }

    #[test]
    fn passes_on_what_negotiates_alone() {
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
