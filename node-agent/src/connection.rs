//! A Kubernetes client whose certificate can be replaced while it is in use.
//!
//! An apiserver judges the certificate of a connection at each request, so a connection must not outlive its certificate
//! by much. A replacement therefore gets a pool of connections of its own: requests from then on go there, while watches
//! that are under way stay on the old connections until they end by themselves (the apiserver ends them within minutes).

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::Client;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt as _};
use nestling_runtime::tls::{self, Certificate, CertificateError};
use rustls::RootCertStore;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::retry::RetryLayer;
use tower::{BoxError, Service, ServiceBuilder};

const CONNECT: Duration = Duration::from_secs(10);
/// An apiserver begins to answer within its own limit of 60 s, watches included.
const ANSWER: Duration = Duration::from_secs(65);
/// A peer that vanished while a watch waits is noticed after about these two.
const KEEPALIVE: Duration = Duration::from_secs(15);
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the endpoint {endpoint:?} is not a URL")]
    Endpoint {
        endpoint: String,
        #[source]
        source: http::uri::InvalidUri,
    },
    #[error("the tenant's CA bundle cannot be used")]
    Roots(#[source] CertificateError),
}

/// One identity toward one apiserver. Clones share the connections.
#[derive(Clone)]
pub(crate) struct Connection {
    roots: Arc<RootCertStore>,
    pool: Arc<ArcSwap<Pool<HttpsConnector<HttpConnector>, Body>>>,
    endpoint: http::Uri,
}

impl Connection {
    /// `ca_bundle` is what the apiserver's certificate chains to, PEM.
    pub(crate) fn new(endpoint: &str, ca_bundle: &[u8], certificate: Certificate) -> Result<Self, ConnectionError> {
        let parsed = endpoint.parse().map_err(|source| ConnectionError::Endpoint { endpoint: endpoint.into(), source })?;
        let roots = tls::roots(ca_bundle).map_err(ConnectionError::Roots)?;
        let pool = Arc::new(ArcSwap::from_pointee(pool(roots.clone(), certificate)));
        Ok(Self { roots: Arc::new(roots), pool, endpoint: parsed })
    }

    /// From the next request on, `certificate` is shown.
    pub(crate) fn replace(&self, certificate: Certificate) {
        self.pool.store(Arc::new(pool(RootCertStore::clone(&self.roots), certificate)));
    }

    /// A client over this connection.
    pub(crate) fn client(&self) -> Client {
        let base = kube::Config::new(self.endpoint.clone()).base_uri_layer();
        let service = ServiceBuilder::new()
            .layer(base)
            .layer(RetryLayer::new(RetryPolicy::server_retry()))
            .map_err(BoxError::from)
            .service(self.clone());
        Client::new(service, "default")
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.pool.load().request(request);
        Box::pin(async move { Ok(tokio::time::timeout(ANSWER, answer).await??) })
    }
}

fn pool(roots: RootCertStore, certificate: Certificate) -> Pool<HttpsConnector<HttpConnector>, Body> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let tls = tls::client_config(roots, Some(Arc::new(certificate)));
    Pool::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_max_idle_per_host(4).build(HttpsConnector::from((tcp, tls)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::Ca;
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::body::Frame;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use rcgen::CertificateParams;
    use rustls::server::WebPkiClientVerifier;
    use std::convert::Infallible;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_rustls::TlsAcceptor;
    use tokio_stream::wrappers::ReceiverStream;

    fn leaf(ca: &Ca, common_name: &str, names: Vec<String>) -> Certificate {
        ca.sign(CertificateParams::new(names).unwrap(), common_name).install()
    }

    /// Answers every GET of a ConfigMap with the caller's common name; a path with `watch` gets a body that `lines` feeds.
    async fn apiserver(ca: &Ca, lines: mpsc::Receiver<bytes::Bytes>) -> String {
        tls::install_provider();
        let verifier = WebPkiClientVerifier::builder(Arc::new(tls::roots(ca.pem().as_bytes()).unwrap())).build().unwrap();
        let serving = Arc::new(leaf(ca, "apiserver", vec!["127.0.0.1".into()]));
        let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(serving, Some(verifier), &[])));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::new(std::sync::Mutex::new(Some(lines)));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, lines) = (acceptor.clone(), lines.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(tcp).await.unwrap();
                    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
                    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
                    let caller = parsed.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned();
                    let answer = move |request: Request<Incoming>| {
                        let (caller, lines) = (caller.clone(), lines.clone());
                        async move {
                            let (sender, body) = mpsc::channel::<bytes::Bytes>(4);
                            let body = if request.uri().path().contains("watch") { lines.lock().unwrap().take().unwrap() } else { body };
                            let first = serde_json::json!({"metadata": {"name": caller}}).to_string();
                            drop(sender);
                            let head = tokio_stream::once(bytes::Bytes::from(first));
                            let all = tokio_stream::StreamExt::chain(head, ReceiverStream::new(body));
                            let frames = tokio_stream::StreamExt::map(all, |chunk| Ok::<_, Infallible>(Frame::data(chunk)));
                            Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
                        }
                    };
                    let http = hyper::server::conn::http1::Builder::new();
                    drop(http.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
                });
            }
        });
        format!("https://{address}")
    }

    #[tokio::test]
    async fn a_new_certificate_is_shown_at_once_and_streams_go_on() {
        let ca = Ca::new("ca");
        let (feed, lines) = mpsc::channel(1);
        let endpoint = apiserver(&ca, lines).await;
        let mut connection = Connection::new(&endpoint, ca.pem().as_bytes(), leaf(&ca, "first", vec![])).unwrap();
        let maps: Api<ConfigMap> = Api::default_namespaced(connection.client());
        assert_eq!(maps.get("x").await.unwrap().metadata.name.as_deref(), Some("first"));
        let watch = Request::get(format!("{endpoint}/watch")).body(Body::empty()).unwrap();
        let mut stream = connection.call(watch).await.unwrap().into_body();
        assert!(stream.frame().await.is_some());

        connection.replace(leaf(&ca, "second", vec![]));
        assert_eq!(maps.get("x").await.unwrap().metadata.name.as_deref(), Some("second"));
        feed.send("still here".into()).await.unwrap();
        let frame = stream.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&frame[..], b"still here");
    }
}
