//! One connection: handshake, the caller's identity, its requests one after another.

use super::context::Context;
use super::handle::{Caller, handle};
use super::identity::{Identity, IdentityError};
use super::respond;
use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The largest header that is read; the command of an `exec` stands in it.
const MAX_HEADER: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the handshake was not finished in time")]
    HandshakeDeadline,
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the caller is nobody's")]
    Identity(#[source] IdentityError),
    #[error("the connection broke off")]
    Http(#[source] hyper::Error),
}

/// Serves until the caller or the agent ends the connection, or a stream takes it over, and with it the `place`.
pub async fn serve(context: Arc<Context>, tls: TlsAcceptor, tcp: TcpStream, place: OwnedSemaphorePermit) -> Result<(), ConnectionError> {
    let handshake = tokio::time::timeout(context.limits.handshake, tls.accept(tcp));
    let stream = handshake.await.map_err(|_| ConnectionError::HandshakeDeadline)?.map_err(ConnectionError::Handshake)?;
    let identity = identify(&stream)?;
    let slot = context.per_tenant.take(&identity.tenant, place);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(context.limits.idle).max_buf_size(MAX_HEADER);
    let io = TokioIo::new(stream);

    let (drain, cut) = (context.drain.clone(), context.cut.clone());
    if let Some(slot) = slot {
        let caller = Arc::new(Caller { identity, slot: Arc::new(slot) });
        let service = service_fn(move |request| {
            let (context, caller) = (Arc::clone(&context), Arc::clone(&caller));
            async move { Ok::<_, Infallible>(handle(context, caller, request).await) }
        });
        let mut connection = std::pin::pin!(http.serve_connection(io, service).with_upgrades());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = cut.cancelled() => Ok(()),
                }
            }
        };
        return ended.map_err(ConnectionError::Http);
    }

    tracing::warn!(tenant = %identity.tenant, "tenant has too many connections to the kubelet API");
    let refuse = service_fn(|_| async {
        Ok::<_, Infallible>(respond::retry_after(StatusCode::TOO_MANY_REQUESTS, 1, "too many connections of this cluster to this node"))
    });
    let refused = http.keep_alive(false).serve_connection(io, refuse);
    tokio::time::timeout(context.limits.handshake, refused).await.map_or(Ok(()), |ended| ended.map_err(ConnectionError::Http))
}

/// TLS has verified the certificate; who it names is read here.
fn identify(stream: &TlsStream<TcpStream>) -> Result<Identity, ConnectionError> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    Identity::from_certificate(certificate.map_or(&[], |certificate| certificate.as_ref())).map_err(ConnectionError::Identity)
}
