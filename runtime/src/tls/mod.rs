//! TLS as Nestling uses it everywhere: rustls over aws-lc-rs, certificates that are replaced while connections live.

mod certificate;
mod incoming;

pub use certificate::{Certificate, CertificateError, roots};
pub use incoming::incoming;

use rustls::client::ResolvesClientCert;
use rustls::server::ResolvesServerCert;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// HTTP/2, for gRPC.
pub const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1, for what is upgraded to a byte stream.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Makes aws-lc-rs the crypto provider of the process. Harmless when there is one already.
pub fn install_provider() {
    // The only error is that one was installed before, and no other one is linked in.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// For a server; `clients` says whose certificates are asked for, if any.
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

/// For a client; `certificate` is what it shows when it is asked.
pub fn client_config(roots: RootCertStore, certificate: Option<Arc<dyn ResolvesClientCert>>) -> ClientConfig {
    let builder = ClientConfig::builder().with_root_certificates(roots);
    match certificate {
        Some(certificate) => {
            let mut config = builder.with_client_cert_resolver(certificate);
            // A resumed session keeps the identity it began with, also when that has been replaced.
            config.resumption = rustls::client::Resumption::disabled();
            config
        }
        None => builder.with_no_client_auth(),
    }
}
