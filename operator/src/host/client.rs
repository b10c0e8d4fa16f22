//! Clients of apiservers: only the holder of the lease writes, and every call has a deadline.

use http::{Method, Request};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use nestling_runtime::kube::DEADLINE;
use nestling_runtime::lease::Leadership;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{BoxError, Layer, Service, ServiceBuilder};

/// Pause between pings on a connection of its own.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this replica does not hold the lease")]
    NotLeader,
    #[error("the apiserver did not answer within {DEADLINE:?}")]
    NoAnswer,
}

/// Layer for kube clients that checks the lease before every request other than a read, so that no write can bypass it.
#[derive(Clone)]
pub(crate) struct WriteGuard(Arc<dyn Fn() -> bool + Send + Sync>);

impl WriteGuard {
    /// Allows writes while the lease is held.
    pub(crate) fn leader(leadership: Leadership) -> Self {
        Self(Arc::new(move || leadership.is_held()))
    }

    /// Allows every request: for what every replica may write (`TokenReview`, the lease itself).
    pub(crate) fn open() -> Self {
        Self(Arc::new(|| true))
    }

    /// Whether a write is allowed now, for writes that go another way than through [`Self::client`].
    pub(crate) fn allows(&self) -> bool {
        (self.0)()
    }

    /// A client of `config` behind this guard.
    pub(crate) fn client(&self, config: Config) -> Result<Client, kube::Error> {
        Ok(ClientBuilder::try_from(config)?.with_layer(self).build())
    }

    /// The same over one connection for all calls and watches: over HTTP/1.1, which is all that kube's own client speaks, each watch
    /// holds one, and its buffers. For `https` and a client certificate.
    pub(crate) fn client_of_one_connection(&self, config: &Config) -> Result<Client, kube::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(config.connect_timeout);
        let tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_only();
        let pool = Pool::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .http2_only(true)
            // A connection whose other end is gone is noticed by nobody else.
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(DEADLINE)
            .http2_keep_alive_while_idle(true)
            .build(tls.enable_http2().wrap_connector(tcp));
        let service = ServiceBuilder::new().layer(config.base_uri_layer()).service(pool);
        Ok(ClientBuilder::new(service, &config.default_namespace).with_layer(self).build())
    }
}

impl<S> Layer<S> for WriteGuard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// A client's service behind a [`WriteGuard`].
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    guard: WriteGuard,
    inner: S,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if !reads && !self.guard.allows() {
            return Box::pin(async { Err(Refused::NotLeader.into()) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            match tokio::time::timeout(DEADLINE, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(Refused::NoAnswer.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tower::ServiceExt as _;

    fn request(method: Method) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        request
    }

    #[tokio::test]
    async fn only_the_holder_writes_and_every_replica_reads() {
        let held = Arc::new(AtomicBool::new(false));
        let asked = held.clone();
        let guard = WriteGuard(Arc::new(move || asked.load(Ordering::Relaxed)));
        let service = guard.layer(tower::service_fn(|_: Request<()>| async { Ok::<_, BoxError>("done") }));

        assert_eq!(service.clone().oneshot(request(Method::GET)).await.unwrap(), "done");
        for method in [Method::PATCH, Method::POST, Method::PUT, Method::DELETE] {
            let refused = service.clone().oneshot(request(method)).await.unwrap_err();
            assert!(matches!(refused.downcast_ref(), Some(Refused::NotLeader)), "{refused}");
        }
        held.store(true, Ordering::Relaxed);
        assert_eq!(service.oneshot(request(Method::PATCH)).await.unwrap(), "done");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_times_out() {
        let service = WriteGuard::open().layer(tower::service_fn(|_: Request<()>| std::future::pending::<Result<(), BoxError>>()));
        let refused = service.oneshot(request(Method::GET)).await.unwrap_err();
        assert!(matches!(refused.downcast_ref(), Some(Refused::NoAnswer)));
    }
}
