//! TLS of the kubelet API: a serving certificate that may be renewed, and client certificates that are always asked for
//! and verified against a bundle that may change.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use std::sync::{Arc, PoisonError, RwLock};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the client CA bundle cannot be read")]
    Bundle(#[source] nestling_runtime::tls::CertificateError),
    #[error("the client CA bundle makes no verifier")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("the cryptography provider lacks a TLS version")]
    Protocol(#[source] rustls::Error),
}

/// The certificate authorities that callers' certificates must come from: the installation's kubelet-client CA. Clones
/// share one bundle. Until the first [`ClientCas::replace`] nobody is let in.
#[derive(Clone, Debug)]
pub struct ClientCas {
    provider: Arc<CryptoProvider>,
    current: Arc<RwLock<Option<Arc<dyn ClientCertVerifier>>>>,
}

impl Default for ClientCas {
    fn default() -> Self {
        Self { provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()), current: Arc::default() }
    }
}

impl ClientCas {
    /// Takes a PEM bundle for all handshakes from now on. On an error the former bundle stays.
    pub fn replace(&self, pem: &[u8]) -> Result<(), TlsError> {
        let roots = nestling_runtime::tls::roots(pem).map_err(TlsError::Bundle)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(verifier.map_err(TlsError::Verifier)?);
        Ok(())
    }

    fn current(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientCertVerifier for ClientCas {
    /// None: a reference to a bundle that changes cannot be handed out, and callers have one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verifier = self.current().ok_or(rustls::Error::General("no client CA bundle yet".into()))?;
        verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The server's side of TLS. HTTP/1.1 alone, since SPDY and WebSocket upgrades need it; no resumption, since a resumed
/// session would not be verified against the bundle of now.
pub fn server_config(serving: Arc<dyn ResolvesServerCert>, clients: ClientCas) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(clients.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Protocol)?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![nestling_runtime::tls::ALPN_HTTP1.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
