//! The calls of the control API.

use super::directory::Directory;
use super::feed::{TenantFeed, cloud_nodes};
use super::identity::{Caller, caller};
use super::metrics::CallMetrics;
use super::sign::Signer;
use super::tokens::Tokens;
use crate::pki::installation::InstallationCas;
use crate::stores::Stores;
use crate::stores::secrets::Secrets;
use futures::{Stream, StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use nestling_control_api::v1alpha1::control_server::Control;
use nestling_control_api::v1alpha1::{CloudNodes, SignRequest, SignResponse, WatchCloudNodesRequest, WatchEvent, WatchRequest};
use nestling_crds::names::{NodeName, TenantUid};
use nestling_runtime::metrics::Metrics;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// A stream speaks for its caller no longer than this after its token was checked; then the caller comes back with its
/// token of the day. Agents are told everything anew, which changes nothing for them.
const STREAM: Duration = Duration::from_secs(45 * 60);

pub struct ControlService {
    pub(super) stores: Stores,
    pub(super) secrets: Arc<Secrets>,
    pub(super) directory: watch::Receiver<Arc<Directory>>,
    pub(super) tokens: Arc<dyn Tokens>,
    pub(super) installation: Arc<InstallationCas>,
    pub(super) system_namespace: String,
    pub(super) lifetime: SignedDuration,
    /// Ends all streams, for nothing else would: callers never hang up.
    pub(super) stop: CancellationToken,
    metrics: CallMetrics,
}

/// What the service needs.
pub struct Parts {
    pub stores: Stores,
    pub secrets: Arc<Secrets>,
    pub directory: watch::Receiver<Arc<Directory>>,
    pub tokens: Arc<dyn Tokens>,
    pub installation: Arc<InstallationCas>,
    pub system_namespace: String,
    /// Life of certificates signed for agents.
    pub lifetime: SignedDuration,
    pub stop: CancellationToken,
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ControlService {
    pub fn new(parts: Parts, metrics: &Metrics) -> Self {
        let Parts { stores, secrets, directory, tokens, installation, system_namespace, lifetime, stop } = parts;
        let metrics = CallMetrics::register(metrics);
        Self { stores, secrets, directory, tokens, installation, system_namespace, lifetime, stop, metrics }
    }

    async fn agent(&self, metadata: &MetadataMap) -> Result<NodeName, Status> {
        match caller(metadata, &*self.tokens, &self.stores, &self.system_namespace).await? {
            Caller::Agent(node) => Ok(node),
            Caller::CloudController(_) => Err(Status::permission_denied("for node agents only")),
        }
    }

    async fn cloud_controller(&self, metadata: &MetadataMap) -> Result<TenantUid, Status> {
        match caller(metadata, &*self.tokens, &self.stores, &self.system_namespace).await? {
            Caller::CloudController(tenant) => Ok(tenant),
            Caller::Agent(_) => Err(Status::permission_denied("for cloud controller managers only")),
        }
    }

    /// What `tell` finds to say of each directory, now and from now on.
    fn stream<T: Send + 'static>(&self, method: &'static str, tell: impl FnMut(&Directory) -> Vec<T> + Send + 'static) -> Events<T> {
        let open = self.metrics.stream(method);
        let mut directories = self.directory.clone();
        directories.mark_changed();
        let end = Instant::now() + STREAM;
        let state = (directories, tell, open);
        let events = stream::unfold(state, |(mut directories, mut tell, open)| async move {
            directories.changed().await.ok()?;
            let directory = directories.borrow_and_update().clone();
            let news = tell(&directory);
            Some((stream::iter(news.into_iter().map(Ok)), (directories, tell, open)))
        });
        let (stop, events) = (self.stop.clone(), events.flatten());
        Box::pin(events.take_until(Box::pin(async move {
            stop.run_until_cancelled(sleep_until(end)).await;
        })))
    }

    async fn sign_for(&self, request: &Request<SignRequest>) -> Result<SignResponse, Status> {
        let node = self.agent(request.metadata()).await?;
        let directory = self.directory.borrow().clone();
        let with = Signer { directory: &directory, secrets: &self.secrets, installation: &self.installation, lifetime: self.lifetime };
        let request = request.get_ref();
        match with.sign(&node, request, Timestamp::now()).await {
            Ok(signed) => {
                tracing::info!(%node, tenant = request.tenant_uid, kind = request.kind().as_str_name(), "signed");
                Ok(SignResponse { chain_pem: signed.chain_pem, not_after: signed.not_after.as_second() })
            }
            Err(refusal) => {
                tracing::warn!(%node, tenant = request.tenant_uid, error = &refusal as &dyn std::error::Error, "did not sign");
                Err(refusal.into())
            }
        }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type WatchStream = Events<WatchEvent>;
    type WatchCloudNodesStream = Events<CloudNodes>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let node = self.metrics.count("Watch", self.agent(request.metadata()).await)?;
        tracing::info!(%node, "agent watches");
        let mut feed = TenantFeed::new(node);
        Ok(Response::new(self.stream("Watch", move |directory| feed.update(directory))))
    }

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        self.metrics.count("Sign", self.sign_for(&request).await).map(Response::new)
    }

    async fn watch_cloud_nodes(&self, request: Request<WatchCloudNodesRequest>) -> Result<Response<Self::WatchCloudNodesStream>, Status> {
        let tenant = self.metrics.count("WatchCloudNodes", self.cloud_controller(request.metadata()).await)?;
        let mut told = None;
        let events = self.stream("WatchCloudNodes", move |directory| {
            // Nothing is said while the tenant is not served: an empty set would mean that all its nodes are gone. So does
            // a directory that does not hold the nodes yet.
            let nodes = cloud_nodes(directory, &tenant).filter(|nodes| told.as_ref() != Some(nodes));
            told = nodes.clone().or(told.take());
            Vec::from_iter(nodes)
        });
        Ok(Response::new(events))
    }
}
