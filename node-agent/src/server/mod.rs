//! The kubelet API of every tenant on this node, on one port.
//!
//! Data flow: a [`connection`] is accepted and its client certificate verified against the installation's kubelet-client
//! CA ([`tls`]); the certificate names the tenant, user and groups ([`identity`]). Each request becomes a [`route`] and
//! the access it needs; the tenant's apiserver says whether that is allowed ([`authorize`]); [`pods`] finds what runs
//! for the pod that the path names, in this tenant and no other; and `logs`, `stream`, `listing` or `stats` answers.
//! What a kubelet shows of its machine is refused: it is not one tenant's to see.

mod authorize;
mod connection;
mod context;
mod handle;
mod identity;
mod limits;
mod listing;
mod logs;
mod metrics;
mod pods;
mod respond;
mod route;
mod stats;
mod stream;
mod tls;

#[cfg(test)]
mod tests;

pub use limits::Limits;
pub use tls::{ClientCas, TlsError};

use crate::cri::Cri;
use crate::tenant::Tenants;
use connection::ConnectionError;
use context::Context;
use metrics::Metrics;
use prometheus_client::registry::Registry;
use rustls::server::ResolvesServerCert;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where kubelets keep container logs.
pub const POD_LOGS: &str = "/var/log/pods";

/// After accepting failed, which is when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub struct ServerConfig {
    pub addr: SocketAddr,
    /// The serving certificate of now, signed by the node-serving CA.
    pub serving: Arc<dyn ResolvesServerCert>,
    /// Whose client certificates are good.
    pub client_cas: ClientCas,
    pub tenants: Tenants,
    pub cri: Arc<dyn Cri>,
    /// Directories that log files may lie in: [`POD_LOGS`], and Docker's container directory where there is one.
    pub log_roots: Vec<PathBuf>,
    pub limits: Limits,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the kubelet API cannot listen on {addr}")]
    Listen {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the kubelet API has no TLS")]
    Tls(#[source] TlsError),
}

/// Listens and serves until `shutdown`, then ends what is under way within [`Limits::drain`].
pub async fn run(config: ServerConfig, shutdown: CancellationToken) -> Result<(), ServerError> {
    Server::bind(config).await?.serve(shutdown).await;
    Ok(())
}

/// A server that listens and does not serve yet.
pub struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    context: Arc<Context>,
}

impl Server {
    pub async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        let ServerConfig { addr, serving, client_cas, tenants, cri, log_roots, limits } = config;
        let tls = tls::server_config(serving, client_cas).map_err(ServerError::Tls)?;
        let listener = TcpListener::bind(addr).await.map_err(|source| ServerError::Listen { addr, source })?;
        let context = Context {
            tenants,
            cri,
            log_roots: logs::LogRoots::new(log_roots),
            per_tenant: limits::PerTenant::new(limits.connections_per_tenant),
            limits,
            authorizer: authorize::Authorizer::default(),
            metrics: Metrics::default(),
            streams: TaskTracker::new(),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        Ok(Self { listener, tls: TlsAcceptor::from(Arc::new(tls)), context: Arc::new(context) })
    }

    /// Where it listens: with port 0 asked for, the port that was given.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Adds the server's metrics to a registry.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.context.metrics.register(registry);
    }

    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { listener, tls, context } = self;
        let places = Arc::new(Semaphore::new(context.limits.connections));
        let connections = TaskTracker::new();
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
                tracing::warn!(%peer, "too many connections to the kubelet API");
                continue;
            };
            tune(&tcp);
            let (context, tls) = (Arc::clone(&context), tls.clone());
            connections.spawn(async move {
                match connection::serve(context, tls, tcp, place).await {
                    Ok(()) => {}
                    Err(error @ ConnectionError::Http(_)) => tracing::debug!(%peer, %error, source = ?std::error::Error::source(&error)),
                    Err(error) => tracing::info!(%peer, %error, source = ?std::error::Error::source(&error), "caller turned away"),
                }
            });
        }
        drop(listener);
        context.drain.cancel();
        connections.close();
        context.streams.close();
        let ended = async { tokio::join!(connections.wait(), context.streams.wait()) };
        if tokio::time::timeout(context.limits.drain, ended).await.is_err() {
            context.cut.cancel();
            connections.wait().await;
            context.streams.wait().await;
        }
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
        tracing::debug!(%error, "connection not tuned");
    }
}
