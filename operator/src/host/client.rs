//! Clients of apiservers: only the holder of the lease writes, and every call has a deadline.

use http::{Method, Request};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use nestling_runtime::kube::DEADLINE;
use nestling_runtime::lease::Leadership;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::{BoxError, Layer, Service};

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
