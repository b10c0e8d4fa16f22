//! TLS of the kubelet API: a serving certificate that may be renewed, client certificates that are always required and
//! verified against a bundle that may change, and the [`Caller`] that a client certificate names.

use jiff::Timestamp;
use nestling_control_api::consts::TENANT_URI;
use nestling_crds::names::TenantUid;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the client CA bundle cannot be parsed")]
    Bundle(#[source] nestling_runtime::tls::CertificateError),
    #[error("no verifier can be built from the client CA bundle")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("the cryptography provider lacks a TLS version")]
    Protocol(#[source] rustls::Error),
}

/// The certificate authorities that callers' certificates must chain to: the installation's kubelet-client CA. Clones
/// share one bundle. Until the first [`ClientCas::replace`] every handshake is refused.
#[derive(Clone, Debug)]
pub(crate) struct ClientCas {
    provider: Arc<CryptoProvider>,
    current: Arc<RwLock<Option<Arc<dyn ClientCertVerifier>>>>,
}

impl Default for ClientCas {
    fn default() -> Self {
        Self { provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()), current: Arc::default() }
    }
}

impl ClientCas {
    /// Verifies all later handshakes against this PEM bundle. On an error the former bundle stays in use.
    pub(crate) fn replace(&self, pem: &[u8]) -> Result<(), TlsError> {
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
/// session would not be verified against the current bundle.
pub(super) fn server_config(serving: Arc<dyn ResolvesServerCert>, clients: ClientCas) -> Result<ServerConfig, TlsError> {
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

#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the TLS handshake was not finished within {0:?}")]
    Deadline(Duration),
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the client certificate names no caller")]
    ClientCert(#[from] ClientCertError),
}

/// The handshake, within `limit`, and whom the verified client certificate names.
pub(super) async fn accept(tls: &TlsAcceptor, tcp: TcpStream, limit: Duration) -> Result<(TlsStream<TcpStream>, Caller), HandshakeError> {
    let handshake = tokio::time::timeout(limit, tls.accept(tcp));
    let stream = handshake.await.map_err(|_| HandshakeError::Deadline(limit))?.map_err(HandshakeError::Tls)?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let caller = Caller::from_certificate(certificate.map_or(&[], |certificate| certificate.as_ref()))?;
    Ok((stream, caller))
}

/// Every caller with a verified certificate is in this group.
const AUTHENTICATED: &str = "system:authenticated";

/// Who calls, as the client certificate states it. The certificate must have been verified against the installation's
/// kubelet-client CA, whose key the operator alone holds: only then can its tenant be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) tenant: TenantUid,
    pub(super) user: String,
    pub(super) groups: Vec<String>,
    /// When the certificate expires; a connection may outlive it.
    pub(super) not_after: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ClientCertError {
    #[error("the client certificate cannot be parsed")]
    Parse(#[source] x509_parser::error::X509Error),
    #[error("the client certificate carries no tenant URI, or more than one")]
    NoTenantUri,
    #[error("the client certificate has no common name")]
    NoUser,
    #[error("the client certificate's notAfter is out of range")]
    NotAfter,
}

impl Caller {
    fn from_certificate(der: &[u8]) -> Result<Self, ClientCertError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| match error {
            x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => ClientCertError::Parse(error),
            x509_parser::nom::Err::Incomplete(_) => ClientCertError::Parse(x509_parser::error::X509Error::InvalidCertificate),
        })?;
        let mut tenants = certificate
            .subject_alternative_name()
            .map_err(ClientCertError::Parse)?
            .into_iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix(TENANT_URI),
                _ => None,
            });
        let tenant = match (tenants.next(), tenants.next()) {
            (Some(tenant), None) if !tenant.is_empty() && !tenant.contains('/') => TenantUid::new(tenant),
            _ => return Err(ClientCertError::NoTenantUri),
        };
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
        let user = certificate.subject().iter_common_name().next().and_then(text).filter(|user| !user.is_empty());
        let groups = certificate.subject().iter_organization().filter_map(text).chain([AUTHENTICATED.to_owned()]).collect();
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).map_err(|_| ClientCertError::NotAfter)?;
        Ok(Self { tenant, user: user.ok_or(ClientCertError::NoUser)?, groups, not_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(user: Option<&str>, uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(user) = user {
            params.distinguished_name.push(DnType::CommonName, user);
        }
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_names_tenant_user_and_groups() {
        let caller = Caller::from_certificate(&certificate(Some("kubelet-client"), &["https://other", "nestling://tenants/u-1"])).unwrap();
        assert_eq!(caller.tenant, TenantUid::new("u-1"));
        assert_eq!(caller.user, "kubelet-client");
        assert_eq!(caller.groups, ["system:masters", "system:authenticated"]);
        assert_eq!(caller.not_after, "2040-01-01T00:00:00Z".parse().unwrap());
    }

    #[test]
    fn a_certificate_that_does_not_name_exactly_one_tenant_is_refused() {
        for uris in [&[][..], &["nestling://tenants/"], &["nestling://tenants/a/b"], &["nestling://tenants/a", "nestling://tenants/b"]] {
            let error = Caller::from_certificate(&certificate(Some("x"), uris)).unwrap_err();
            assert!(matches!(error, ClientCertError::NoTenantUri), "{uris:?}: {error}");
        }
        assert!(matches!(Caller::from_certificate(&certificate(None, &["nestling://tenants/a"])), Err(ClientCertError::NoUser)));
        assert!(matches!(Caller::from_certificate(b"no certificate"), Err(ClientCertError::Parse(_))));
    }
}
