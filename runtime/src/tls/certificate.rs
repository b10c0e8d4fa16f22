//! A certificate that may be replaced at any time, on either side of a connection.

use arc_swap::ArcSwapOption;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificates are not PEM")]
    Chain(#[source] pem::Error),
    #[error("there is no certificate in the PEM")]
    Empty,
    #[error("the key is not a PEM private key")]
    Key(#[source] pem::Error),
    #[error("the key cannot be used")]
    UnusableKey(#[source] rustls::Error),
    #[error("the key does not belong to the certificate")]
    Mismatch(#[source] rustls::Error),
    #[error("a root certificate cannot be used")]
    Root(#[source] rustls::Error),
}

/// A key with its chain, empty until first set; a handshake without it fails. New handshakes take the newest one.
#[derive(Default)]
pub struct Certificate(ArcSwapOption<CertifiedKey>);

impl Certificate {
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let certificate = Self::default();
        certificate.set_pem(chain, key)?;
        Ok(certificate)
    }

    /// Replaces chain (leaf first) and key, both PEM.
    pub fn set_pem(&self, chain: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        self.set(chain, &PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?)
    }

    /// Replaces chain (leaf first, PEM) and key. On an error the old ones stay.
    pub fn set(&self, chain: &[u8], key: &PrivateKeyDer<'static>) -> Result<(), CertificateError> {
        let chain = parse(chain)?;
        let key = any_supported_type(key).map_err(CertificateError::UnusableKey)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(CertificateError::Mismatch(error)),
        }
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }
}

// The key must not end up in a log.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("set", &self.0.load().is_some()).finish()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for Certificate {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// The certificates of a PEM bundle as trust anchors.
pub fn roots(bundle: &[u8]) -> Result<RootCertStore, CertificateError> {
    let mut store = RootCertStore::empty();
    for certificate in parse(bundle)? {
        store.add(certificate).map_err(CertificateError::Root)?;
    }
    Ok(store)
}

fn parse(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(CertificateError::Chain)?;
    if chain.is_empty() { Err(CertificateError::Empty) } else { Ok(chain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    #[test]
    fn the_newest_pair_is_shown() {
        let (chain, key) = pair("a");
        let certificate = Certificate::default();
        assert!(!certificate.has_certs());
        certificate.set_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let first = ResolvesClientCert::resolve(&certificate, &[], &[]).unwrap();
        let (chain, key) = pair("b");
        certificate.set_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let second = ResolvesClientCert::resolve(&certificate, &[], &[]).unwrap();
        assert_ne!(first.cert, second.cert);
    }

    #[test]
    fn a_wrong_pair_is_refused_and_the_old_one_stays() {
        let ((chain, key), (_, other)) = (pair("a"), pair("b"));
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert!(matches!(certificate.set_pem(chain.as_bytes(), other.as_bytes()), Err(CertificateError::Mismatch(_))));
        assert!(matches!(certificate.set_pem(b"", key.as_bytes()), Err(CertificateError::Empty)));
        assert!(certificate.has_certs());
    }

    #[test]
    fn bundles_are_read_whole() {
        let bundle = format!("{}{}", pair("a").0, pair("b").0);
        assert_eq!(roots(bundle.as_bytes()).unwrap().len(), 2);
        assert!(matches!(roots(b"none"), Err(CertificateError::Empty)));
    }
}
