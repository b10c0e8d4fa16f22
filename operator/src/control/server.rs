//! The listener of the control API, with a certificate that is renewed while it serves.

use super::ControlService;
use crate::pki::PkiError;
use crate::pki::installation::InstallationCas;
use jiff::{SignedDuration, Timestamp};
use nestling_control_api::v1alpha1::control_server::ControlServer;
use nestling_runtime::error::chain;
use nestling_runtime::tls::{self, Certificate, CertificateError};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// Life of the serving certificate, short because minting one is cheap.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24);
const RENEW_EVERY: Duration = Duration::from_secs(8 * 3600);

/// Callers keep streams open for long; a lost one is noticed after about twice this time.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// A call (not counting what streams after its answer) that takes longer is ended.
const CALL: Duration = Duration::from_secs(20);
/// A request is a CSR at most.
const MAX_REQUEST: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
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

/// The bound port of the control API; connections wait in the kernel until [`ControlListener::serve`].
pub(crate) struct ControlListener {
    listener: TcpListener,
    certificate: Arc<Certificate>,
    installation: Arc<InstallationCas>,
    host: String,
}

impl ControlListener {
    /// Binds `address`, with a certificate for `host`.
    pub(crate) async fn bind(address: SocketAddr, host: String, installation: Arc<InstallationCas>) -> Result<Self, ServerError> {
        let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Bind { address, source })?;
        let certificate = Arc::default();
        mint(&certificate, &installation, &host)?;
        Ok(Self { listener, certificate, installation, host })
    }

    #[cfg(test)]
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until shutdown.
    pub(crate) async fn serve(self, service: ControlService, shutdown: CancellationToken) -> Result<(), ServerError> {
        let config = Arc::new(tls::server_config(self.certificate.clone(), None, &[tls::ALPN_H2]));
        let incoming = tls::incoming(self.listener, config);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .timeout(CALL)
            .add_service(ControlServer::new(service).max_decoding_message_size(MAX_REQUEST))
            .serve_with_incoming_shutdown(incoming, shutdown.cancelled());
        tokio::select! {
            ended = server => ended.map_err(ServerError::Serve),
            () = renew(&self.certificate, &self.installation, &self.host) => Ok(()),
        }
    }
}

/// Replaces the certificate now and then, for ever.
async fn renew(certificate: &Certificate, installation: &InstallationCas, host: &str) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if let Err(error) = mint(certificate, installation, host) {
            tracing::error!(error = chain(&error), "cannot renew the certificate of the control API; retrying in {RENEW_EVERY:?}");
        }
    }
}

fn mint(certificate: &Certificate, installation: &InstallationCas, host: &str) -> Result<(), ServerError> {
    let identity = installation.control_server(&[host.to_owned()], Timestamp::now(), LIFETIME)?;
    Ok(certificate.set_pem(identity.certificate.as_bytes(), identity.key.as_bytes())?)
}
