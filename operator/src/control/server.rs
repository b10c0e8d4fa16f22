//! Listens for the control API, with a certificate that is renewed while it serves.

use super::service::ControlService;
use crate::pki::PkiError;
use crate::pki::installation::InstallationCas;
use jiff::{SignedDuration, Timestamp};
use nestling_control_api::v1alpha1::control_server::ControlServer;
use nestling_runtime::tls::{self, Certificate, CertificateError};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// Life of the serving certificate. It costs nothing to mint, so it need not live long.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24);
const RENEW_EVERY: Duration = Duration::from_secs(8 * 3600);

/// Callers keep streams open for long; one that has vanished is noticed after so long.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// A call (not counting what streams after its answer) that takes longer is ended.
const CALL: Duration = Duration::from_secs(20);
/// A request is a CSR at most.
const MAX_REQUEST: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address} for the control API")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot mint the certificate of the control API")]
    Mint(#[from] PkiError),
    #[error("cannot use the certificate of the control API")]
    Certificate(#[from] CertificateError),
    #[error("the control API has ended")]
    Serve(#[source] tonic::transport::Error),
}

/// The control API on its port; requests wait in the kernel until [`ControlListener::serve`].
pub struct ControlListener {
    listener: TcpListener,
    certificate: Arc<Certificate>,
    installation: Arc<InstallationCas>,
    host: String,
}

impl ControlListener {
    /// Binds `address`, with a certificate for `host`.
    pub async fn bind(address: SocketAddr, host: String, installation: Arc<InstallationCas>) -> Result<Self, ServerError> {
        let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Bind { address, source })?;
        let listener = Self { listener, certificate: Arc::default(), installation, host };
        listener.mint()?;
        Ok(listener)
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn serve(self, service: ControlService, stop: CancellationToken) -> Result<(), ServerError> {
        let config = Arc::new(tls::server_config(self.certificate.clone(), None, &[tls::ALPN_H2]));
        let renewer = Renewer { certificate: self.certificate.clone(), installation: self.installation.clone(), host: self.host.clone() };
        let incoming = tls::incoming(self.listener, config);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .timeout(CALL)
            .add_service(ControlServer::new(service).max_decoding_message_size(MAX_REQUEST))
            .serve_with_incoming_shutdown(incoming, stop.cancelled());
        tokio::select! {
            ended = server => ended.map_err(ServerError::Serve),
            never = renewer.run() => match never {},
        }
    }

    fn mint(&self) -> Result<(), ServerError> {
        mint(&self.certificate, &self.installation, &self.host)
    }
}

struct Renewer {
    certificate: Arc<Certificate>,
    installation: Arc<InstallationCas>,
    host: String,
}

impl Renewer {
    async fn run(self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if let Err(error) = mint(&self.certificate, &self.installation, &self.host) {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot renew the certificate of the control API");
            }
        }
    }
}

fn mint(certificate: &Certificate, installation: &InstallationCas, host: &str) -> Result<(), ServerError> {
    let identity = installation.control_server(&[host.to_owned()], Timestamp::now(), LIFETIME)?;
    Ok(certificate.set_pem(identity.certificate.as_bytes(), identity.key.as_bytes())?)
}
