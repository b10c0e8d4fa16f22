//! The kubelet API of every tenant on this node, on one port.
//!
//! Data flow: a connection is accepted here; [`tls`] verifies its client certificate against the installation's
//! kubelet-client CA and reads the tenant, user and groups from it; [`limits`] gives it a place. For each request, [`auth`]
//! has the tenant's apiserver review the access; [`router`] picks the handler in `logs`, `stream`, `pods` or `stats`; and
//! [`pods`] finds what runs for the pod that the path names, in this tenant and no other. What a kubelet shows of its
//! machine is refused: it is not one tenant's to see.

mod auth;
mod limits;
mod logs;
mod pods;
mod router;
mod stats;
mod stream;
mod tls;

#[cfg(test)]
mod tests;

pub(crate) use limits::Limits;
pub(crate) use tls::{ClientCas, TlsError};

use crate::cri::Cri;
use crate::tenant::Tenants;
use auth::Authorizer;
use axum::Router;
use http::StatusCode;
use http::header::RETRY_AFTER;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use limits::PerTenant;
use logs::LogRoots;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use router::Context;
use rustls::server::ResolvesServerCert;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use stream::Relay;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where kubelets keep container logs.
pub(crate) const POD_LOGS: &str = "/var/log/pods";

/// After accepting failed, which is when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The largest header that is read; it carries the command of an `exec`.
const MAX_HEADER: usize = 256 * 1024;

pub(crate) struct ServerConfig {
    pub addr: SocketAddr,
    /// The current serving certificate, signed by the node-serving CA.
    pub serving: Arc<dyn ResolvesServerCert>,
    /// What client certificates must chain to.
    pub client_cas: ClientCas,
    pub tenants: Tenants,
    pub cri: Arc<dyn Cri>,
    /// Directories that log files may lie in: [`POD_LOGS`], and Docker's container directory where there is one.
    pub log_roots: Vec<PathBuf>,
    pub limits: Limits,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("the kubelet API cannot listen on {addr}")]
    Listen {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("TLS of the kubelet API cannot be configured")]
    Tls(#[source] TlsError),
}

/// A server that listens and does not serve yet.
pub(crate) struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
}

/// What all connections share.
struct Shared {
    limits: Limits,
    per_tenant: Arc<PerTenant>,
    context: Context,
    /// No new requests.
    drain: CancellationToken,
    /// Ends all connections and streams.
    cut: CancellationToken,
}

impl Server {
    pub(crate) async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        let ServerConfig { addr, serving, client_cas, tenants, cri, log_roots, limits } = config;
        let tls = tls::server_config(serving, client_cas).map_err(ServerError::Tls)?;
        let listener = TcpListener::bind(addr).await.map_err(|source| ServerError::Listen { addr, source })?;
        let cut = CancellationToken::new();
        let relay = Relay { idle: limits.stream_idle, tasks: TaskTracker::new(), cut: cut.clone(), open: Gauge::default() };
        let context = Context {
            authorizer: Arc::new(Authorizer::new(tenants)),
            cri,
            log_roots: LogRoots::new(log_roots),
            relay,
            requests: Family::default(),
        };
        let per_tenant = PerTenant::new(limits.connections_per_tenant);
        let shared = Arc::new(Shared { limits, per_tenant, context, drain: CancellationToken::new(), cut });
        Ok(Self { listener, tls: TlsAcceptor::from(Arc::new(tls)), shared })
    }

    /// The address it listens on: where port 0 was requested, the port that was assigned.
    #[cfg(test)]
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Adds the server's metrics to a registry.
    pub(crate) fn register_metrics(&self, registry: &mut Registry) {
        let context = &self.shared.context;
        registry.register("requests", "Requests to the kubelet API, by function and answer", context.requests.clone());
        registry.register("streams", "Exec, attach and port-forward streams that are open", context.relay.open.clone());
    }

    /// Serves until `shutdown`, then ends the open requests and streams within [`Limits::drain`].
    pub(crate) async fn serve(self, shutdown: CancellationToken) {
        let Self { listener, tls, shared } = self;
        let places = Arc::new(Semaphore::new(shared.limits.connections));
        // Connections, and the streams that some of them become.
        let tasks = shared.context.relay.tasks.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the kubelet API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(%peer, "refused a connection to the kubelet API: too many are open");
                continue;
            };
            tasks.spawn(serve_connection(Arc::clone(&shared), tls.clone(), tcp, peer, place));
        }
        drop(listener);
        shared.drain.cancel();
        tasks.close();
        if tokio::time::timeout(shared.limits.drain, tasks.wait()).await.is_err() {
            shared.cut.cancel();
            tasks.wait().await;
        }
    }
}

/// One connection, until the caller or the agent ends it or a stream takes it over, and with it the `place`.
async fn serve_connection(shared: Arc<Shared>, tls: TlsAcceptor, tcp: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
    let limits = &shared.limits;
    tune(&tcp);
    let (stream, caller) = match tls::accept(&tls, tcp, limits.handshake).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::info!(%peer, error = &error as &dyn std::error::Error, "refused a connection to the kubelet API");
            return;
        }
    };
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).max_buf_size(MAX_HEADER);
    let router = if let Some(slot) = shared.per_tenant.take(&caller.tenant, place) {
        http.header_read_timeout(limits.idle);
        router::for_connection(shared.context.clone(), caller, slot)
    } else {
        tracing::warn!(tenant = %caller.tenant, "refused a connection to the kubelet API: the tenant has too many");
        http.header_read_timeout(limits.handshake).keep_alive(false);
        let text = "too many connections of this cluster to this node";
        Router::new().fallback(move || async move { (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "1")], text) })
    };
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = shared.cut.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection to the kubelet API broke");
    }
}

/// A peer that vanished is noticed by the kernel within about two minutes, though a followed log may be silent for days.
fn tune(tcp: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let tuned = tcp.set_nodelay(true).and_then(|()| {
        setsockopt(tcp, sockopt::KeepAlive, &true)?;
        setsockopt(tcp, sockopt::TcpKeepIdle, &60)?;
        setsockopt(tcp, sockopt::TcpKeepInterval, &15)?;
        setsockopt(tcp, sockopt::TcpKeepCount, &4)?;
        Ok(())
    });
    if let Err(error) = tuned {
        tracing::debug!(%error, "cannot set TCP options of a connection");
    }
}
