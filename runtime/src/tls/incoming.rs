//! A TLS listener as a stream of connections, as tonic wants them.

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt as _};
use rustls::ServerConfig;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A peer that has not shaken hands by then is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at once; further peers wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Pause after an error of the listener itself, such as no file descriptor being left.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that have shaken hands. Handshakes go on side by side, so a slow peer holds up nobody; failed ones are
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
    use crate::tls::{self, Certificate};
    use rustls_pki_types::ServerName;
    use std::pin::pin;
    use tokio::io::AsyncReadExt as _;
    use tokio_rustls::TlsConnector;

    #[tokio::test]
    async fn a_silent_peer_holds_up_nobody() {
        tls::install_provider();
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(["test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let certificate = Arc::new(Certificate::from_pem(cert.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(tls::server_config(certificate, None, &[tls::ALPN_H2]));
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut client_config = tls::client_config(tls::roots(cert.pem().as_bytes()).unwrap(), None);
        client_config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
        let client = tokio::spawn(async move {
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("test").unwrap();
            let mut stream = TlsConnector::from(Arc::new(client_config)).connect(name, tcp).await.unwrap();
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        });
        let mut connections = pin!(incoming(listener, config));
        let connection = tokio::time::timeout(Duration::from_secs(5), connections.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(connection.get_ref().1.alpn_protocol(), Some(tls::ALPN_H2));
        drop(connection);
        client.await.unwrap();
    }
}
