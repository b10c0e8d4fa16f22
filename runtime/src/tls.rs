//! TLS as Nestling uses it everywhere: rustls over aws-lc-rs, certificates that are replaced while connections live, and a
//! listener as the stream of connections that tonic takes.

use arc_swap::ArcSwapOption;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt as _};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// HTTP/2, for gRPC.
pub const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1, for what is upgraded to a byte stream.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Concurrent handshakes; further peers wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Pause after an error of the listener itself, such as no file descriptor being left.
const PAUSE: Duration = Duration::from_millis(100);

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

/// Makes aws-lc-rs the crypto provider of the process. Harmless when there is one already.
pub fn install_provider() {
    // The only error is that one was installed before, and no other one is linked in.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// For a server; `clients` verifies the certificates of clients, which are requested only then.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    alpn: &[&[u8]],
) -> ServerConfig {
    let builder = ServerConfig::builder();
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// For a client; `certificate` is presented when the server requests one.
pub fn client_config(roots: RootCertStore, certificate: Option<Arc<dyn ResolvesClientCert>>) -> ClientConfig {
    let builder = ClientConfig::builder().with_root_certificates(roots);
    match certificate {
        Some(certificate) => {
            let mut config = builder.with_client_cert_resolver(certificate);
            // A resumed session keeps its first identity, even after that has been replaced.
            config.resumption = rustls::client::Resumption::disabled();
            config
        }
        None => builder.with_no_client_auth(),
    }
}

/// Connections that have shaken hands. Handshakes are concurrent, so a slow peer delays no other; failed ones are
/// logged and left out.
pub fn incoming(listener: TcpListener, config: Arc<ServerConfig>) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let state = (listener, TlsAcceptor::from(config), FuturesUnordered::new());
    futures::stream::unfold(state, |(listener, acceptor, mut handshakes)| async move {
        loop {
            tokio::select! {
                Some(done) = handshakes.next(), if !handshakes.is_empty() => {
                    if let Some(stream) = done {
                        return Some((Ok(stream), (listener, acceptor, handshakes)));
                    }
                }
                accepted = listener.accept(), if handshakes.len() < HANDSHAKES => match accepted {
                    Ok((tcp, peer)) => handshakes.push(handshake(acceptor.clone(), tcp, peer)),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    })
}

async fn handshake(acceptor: TlsAcceptor, tcp: TcpStream, peer: std::net::SocketAddr) -> Option<TlsStream<TcpStream>> {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, %peer, "cannot set TCP_NODELAY");
    }
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, %peer, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "TLS handshake took too long");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::ServerName;
    use std::pin::pin;
    use tokio::io::AsyncReadExt as _;
    use tokio_rustls::TlsConnector;

    #[tokio::test]
    async fn a_silent_peer_delays_no_other() {
        install_provider();
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(["test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let certificate = Arc::new(Certificate::from_pem(cert.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(server_config(certificate, None, &[ALPN_H2]));
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut client_config = client_config(roots(cert.pem().as_bytes()).unwrap(), None);
        client_config.alpn_protocols = vec![ALPN_H2.to_vec()];
        let client = tokio::spawn(async move {
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("test").unwrap();
            let mut stream = TlsConnector::from(Arc::new(client_config)).connect(name, tcp).await.unwrap();
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        });
        let mut connections = pin!(incoming(listener, config));
        let connection = tokio::time::timeout(Duration::from_secs(5), connections.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(connection.get_ref().1.alpn_protocol(), Some(ALPN_H2));
        drop(connection);
        client.await.unwrap();
    }

    fn pair(name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    #[test]
    fn the_newest_pair_is_presented() {
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
