//! The simulated APIs of all tenants: each listens at the address of its tenant's Service with the certificate that the
//! operator made for it, and can be made to refuse connections or to answer nothing any more.

use super::tenant_api::{FIRST_NODES, TenantApi};
use anyhow::{Context, Result};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Secret;
use nestling_runtime::tls::{ALPN_H2, ALPN_HTTP1, Certificate, roots, server_config};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Port of the Service.
const PORT: u16 = 443;
/// How often each node of a tenant reports.
const HEARTBEAT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Serving,
    /// Connections stay, and nothing is read or answered.
    Silent,
    /// Connections are closed, and new ones are refused.
    Refusing,
}

/// By `namespace/name` of the cluster.
#[derive(Default)]
pub(crate) struct Fleet(Mutex<BTreeMap<String, Arc<Seat>>>);

/// One tenant's API.
pub(crate) struct Seat {
    pub(crate) api: TenantApi,
    mode: watch::Sender<Mode>,
}

impl Seat {
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Fleet {
    pub(crate) fn seat(&self, cluster: &str) -> Result<Arc<Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned().with_context(|| format!("{cluster} has no API yet"))
    }

    fn all(&self) -> Vec<Arc<Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Starts the API of a tenant unless it runs. `certificates` is what its kube-apiserver mounts.
    pub(crate) async fn open(&self, cluster: &str, address: IpAddr, certificates: &Secret) -> Result<()> {
        if self.seat(cluster).is_ok() {
            return Ok(());
        }
        let address = SocketAddr::new(address, PORT);
        let tls = tls(certificates).with_context(|| format!("certificates of {cluster}"))?;
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let seat = Arc::new(Seat { api: TenantApi::new(), mode: watch::channel(Mode::Serving).0 });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster.to_owned(), seat.clone());
        tokio::spawn(serve(seat, address, listener, tls));
        Ok(())
    }

    /// One more node in every tenant.
    pub(crate) fn add_nodes(&self) {
        self.all().iter().for_each(|seat| seat.api.add_node());
    }

    /// Lets the nodes of all tenants report, evenly spread over time.
    pub(crate) async fn heartbeats(&self) {
        loop {
            let seats = self.all();
            let reports = u32::try_from(seats.len() * FIRST_NODES).unwrap_or(u32::MAX);
            for node in 0..FIRST_NODES {
                for seat in &seats {
                    tokio::time::sleep(HEARTBEAT / reports).await;
                    seat.api.heartbeat(node);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn tls(certificates: &Secret) -> Result<Arc<ServerConfig>> {
    let data = certificates.data.as_ref().context("no data")?;
    let file = |name: &str| data.get(name).map(|file| file.0.as_slice()).with_context(|| format!("no {name}"));
    let certificate = Certificate::from_pem(file("tls.crt")?, file("tls.key")?)?;
    let clients = WebPkiClientVerifier::builder(Arc::new(roots(file("ca.crt")?)?)).build()?;
    Ok(Arc::new(server_config(Arc::new(certificate), Some(clients), &[ALPN_H2, ALPN_HTTP1])))
}

async fn serve(seat: Arc<Seat>, address: SocketAddr, listener: TcpListener, tls: Arc<ServerConfig>) {
    let mut mode = seat.mode.subscribe();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let now = *mode.borrow_and_update();
        match (now, &listener) {
            (Mode::Serving, Some(open)) => tokio::select! {
                Ok((tcp, _)) = open.accept() => {
                    connections.spawn(connection(seat.clone(), tcp, tls.clone()));
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                _ = mode.changed() => {}
            },
            (Mode::Serving, None) => match TcpListener::bind(address).await {
                Ok(again) => listener = Some(again),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            (Mode::Silent, _) => {
                let _ = mode.changed().await;
            }
            (Mode::Refusing, _) => {
                listener = None;
                connections.shutdown().await;
                let _ = mode.changed().await;
            }
        }
    }
}

/// Serves one connection, and leaves it as it is while the API is silent.
async fn connection(seat: Arc<Seat>, tcp: TcpStream, tls: Arc<ServerConfig>) {
    let _ = tcp.set_nodelay(true);
    let Ok(stream) = TlsAcceptor::from(tls).accept(tcp).await else { return };
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
    let mut mode = seat.mode.subscribe();
    let service = service_fn(move |request| {
        let seat = seat.clone();
        async move { Ok::<_, Infallible>(seat.api.answer(request).await) }
    });
    let mut served = pin!(async {
        let io = TokioIo::new(stream);
        if is_h2 {
            drop(http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new()).serve_connection(io, service).await);
        } else {
            drop(http1::Builder::new().serve_connection(io, service).await);
        }
    });
    loop {
        if mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() {
            return;
        }
        tokio::select! {
            () = &mut served => return,
            _ = mode.wait_for(|mode| *mode == Mode::Silent) => {}
        }
    }
}
