//! The control API: which tenants a node serves, certificates for its agent, and the host's nodes as a tenant's cloud.
//!
//! A program of its own, apart from the one that reconciles: a reconcile that goes wrong does not silence the agents, and what agents
//! and tenants can reach cannot change tenants. Every replica serves it from its own stores. [`snapshot`] computes from the stores,
//! and from [`authorities`], what is served, [`auth`] finds out who calls, [`watch`](mod@watch) makes the events of a stream,
//! [`server`] listens.

pub(crate) mod auth;
pub(crate) mod authorities;
pub(crate) mod server;
pub(crate) mod snapshot;
mod watch;

#[cfg(test)]
mod tests;

use self::watch::{TenantStream, cloud_nodes};
use crate::host::ServedStores;
use crate::metrics::CallMetrics;
use crate::model::HostNode;
use crate::pki::installation::InstallationCas;
use crate::pki::sign::{self, SignError, Signed};
use auth::{Caller, TokenReviewer, caller};
use authorities::Authorities;
use futures::{Stream, StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use nestling_control_api::v1alpha1::control_server::Control;
use nestling_control_api::v1alpha1::{
    CertificateKind, CloudNodes, SignRequest, SignResponse, WatchCloudNodesRequest, WatchEvent, WatchRequest,
};
use nestling_crds::names::{NodeName, TenantUid};
use nestling_runtime::error::chain;
use snapshot::TenantSnapshot;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

/// Longest life of a stream after the caller's token was checked. The caller reconnects with its current token and receives
/// everything again, which changes nothing for it.
const STREAM: Duration = Duration::from_secs(45 * 60);

pub(crate) struct ControlService {
    pub(crate) stores: ServedStores,
    pub(crate) authorities: Arc<Authorities>,
    pub(crate) snapshots: tokio::sync::watch::Receiver<Arc<TenantSnapshot>>,
    pub(crate) tokens: TokenReviewer,
    pub(crate) installation: Arc<InstallationCas>,
    pub(crate) system_namespace: String,
    /// Life of certificates signed for agents.
    pub(crate) lifetime: SignedDuration,
    /// Ends all streams: callers do not close them.
    pub(crate) shutdown: CancellationToken,
    pub(crate) metrics: CallMetrics,
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ControlService {
    async fn agent(&self, metadata: &MetadataMap) -> Result<NodeName, Status> {
        match caller(metadata, &self.tokens, &self.stores, &self.system_namespace).await? {
            Caller::Agent(node) => Ok(node),
            Caller::CloudController(_) => Err(Status::permission_denied("for node agents only")),
        }
    }

    async fn cloud_controller(&self, metadata: &MetadataMap) -> Result<TenantUid, Status> {
        match caller(metadata, &self.tokens, &self.stores, &self.system_namespace).await? {
            Caller::CloudController(tenant) => Ok(tenant),
            Caller::Agent(_) => Err(Status::permission_denied("for cloud controller managers only")),
        }
    }

    /// The events that `events_of` makes of the current snapshot and of each later one.
    fn stream<T: Send + 'static>(
        &self,
        method: &'static str,
        events_of: impl FnMut(&TenantSnapshot) -> Vec<T> + Send + 'static,
    ) -> Events<T> {
        let open = self.metrics.stream(method);
        let mut snapshots = self.snapshots.clone();
        snapshots.mark_changed();
        let end = Instant::now() + STREAM;
        let state = (snapshots, events_of, open);
        let events = stream::unfold(state, |(mut snapshots, mut events_of, open)| async move {
            snapshots.changed().await.ok()?;
            let snapshot = snapshots.borrow_and_update().clone();
            let events = events_of(&snapshot);
            Some((stream::iter(events.into_iter().map(Ok)), (snapshots, events_of, open)))
        });
        let (shutdown, events) = (self.shutdown.clone(), events.flatten());
        Box::pin(events.take_until(Box::pin(async move {
            shutdown.run_until_cancelled(sleep_until(end)).await;
        })))
    }

    async fn sign_for(&self, request: &Request<SignRequest>) -> Result<SignResponse, Status> {
        let node = self.agent(request.metadata()).await?;
        let snapshot = self.snapshots.borrow().clone();
        let certificates =
            Signer { snapshot: &snapshot, authorities: &self.authorities, installation: &self.installation, lifetime: self.lifetime };
        let request = request.get_ref();
        match certificates.sign(&node, request, Timestamp::now()).await {
            Ok(signed) => {
                tracing::info!(%node, tenant = request.tenant_uid, kind = request.kind().as_str_name(), "certificate signed");
                Ok(SignResponse { chain_pem: signed.chain_pem, not_after: signed.not_after.as_second() })
            }
            Err(refusal) => {
                tracing::warn!(%node, tenant = request.tenant_uid, error = chain(&refusal), "certificate refused");
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
        tracing::info!(%node, "agent watches its tenants");
        let mut stream = TenantStream::new(node);
        Ok(Response::new(self.stream("Watch", move |snapshot| stream.update(snapshot))))
    }

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        self.metrics.count("Sign", self.sign_for(&request).await).map(Response::new)
    }

    async fn watch_cloud_nodes(&self, request: Request<WatchCloudNodesRequest>) -> Result<Response<Self::WatchCloudNodesStream>, Status> {
        let tenant = self.metrics.count("WatchCloudNodes", self.cloud_controller(request.metadata()).await)?;
        let mut sent = None;
        let events = self.stream("WatchCloudNodes", move |snapshot| {
            // Nothing is sent while the tenant is not served: an empty set would mean that all its nodes are gone.
            let nodes = cloud_nodes(snapshot, &tenant).filter(|nodes| sent.as_ref() != Some(nodes));
            sent = nodes.clone().or(sent.take());
            Vec::from_iter(nodes)
        });
        Ok(Response::new(events))
    }
}

/// Why an agent gets no certificate.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("unknown certificate kind {0}")]
    Kind(i32),
    #[error("the host has no node {0} (yet)")]
    Node(NodeName),
    #[error("node {0} has no address (yet)")]
    Address(NodeName),
    #[error("node {node} does not serve tenant {tenant}")]
    Tenant { node: NodeName, tenant: TenantUid },
    #[error("the tenant's CA cannot be read")]
    Authority(#[source] kube::Error),
    #[error("the tenant has no CA (yet)")]
    NoAuthority,
    #[error(transparent)]
    Sign(SignError),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Kind(_) | Refusal::Sign(SignError::Request(_)) => Code::InvalidArgument,
            Refusal::Tenant { .. } => Code::PermissionDenied,
            Refusal::Node(_) | Refusal::Address(_) | Refusal::NoAuthority => Code::FailedPrecondition,
            Refusal::Authority(_) => Code::Unavailable,
            Refusal::Sign(SignError::Authority(_)) => Code::Internal,
        };
        Self::new(code, refusal.to_string())
    }
}

/// Certificates for agents: the subject follows from the caller's node; of the request only the public key counts.
struct Signer<'a> {
    snapshot: &'a TenantSnapshot,
    authorities: &'a Authorities,
    installation: &'a InstallationCas,
    lifetime: SignedDuration,
}

impl Signer<'_> {
    /// Signs for the agent of `node`.
    async fn sign(&self, node: &NodeName, request: &SignRequest, now: Timestamp) -> Result<Signed, Refusal> {
        let host = self.snapshot.nodes.get(node).ok_or_else(|| Refusal::Node(node.clone()))?;
        let (csr, lifetime) = (request.csr_der.as_slice(), self.lifetime);
        let signed = match request.kind() {
            CertificateKind::Unspecified => return Err(Refusal::Kind(request.kind)),
            CertificateKind::KubeletServing => {
                let addresses = addresses(host);
                if addresses.is_empty() {
                    return Err(Refusal::Address(node.clone()));
                }
                sign::kubelet_serving(self.installation, node, &addresses, csr, now, lifetime)
            }
            kind @ (CertificateKind::Kubelet | CertificateKind::Proxy) => {
                let tenant = TenantUid::new(&request.tenant_uid);
                let assignment = self.snapshot.tenants.get(&tenant).filter(|assignment| assignment.is_on(host));
                let assignment = assignment.ok_or_else(|| Refusal::Tenant { node: node.clone(), tenant: tenant.clone() })?;
                let (namespace, name) = (&assignment.tenant.namespace, &assignment.tenant.name);
                let ca = self.authorities.current(namespace, name).await.map_err(Refusal::Authority)?;
                let ca = ca.ok_or(Refusal::NoAuthority)?;
                match kind {
                    CertificateKind::Kubelet => sign::kubelet(&ca, node, csr, now, lifetime),
                    _ => sign::proxy(&ca, node, csr, now, lifetime),
                }
            }
        };
        signed.map_err(Refusal::Sign)
    }
}

/// The addresses by which tenants' apiservers reach the node's kubelet API.
fn addresses(node: &HostNode) -> Vec<IpAddr> {
    let reachable = node.addresses.iter().filter(|address| address.type_ == "InternalIP" || address.type_ == "ExternalIP");
    reachable.filter_map(|address| address.address.parse().ok()).collect()
}
