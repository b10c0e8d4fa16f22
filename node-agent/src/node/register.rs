//! The loop that registers the tenant's Node and keeps it up to date.

use super::{HostNode, lease, status};
use crate::tenant::Tenant;
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use nestling_crds::labels::AGENT;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::kube::object;
use serde_json::Value;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The status is looked at so often (`nodeStatusUpdateFrequency`) …
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// … and written at least so often (`nodeStatusReportFrequency`).
const REPORT_EVERY: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
enum NodeError {
    #[error("cannot {what}")]
    Api {
        what: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("cannot write the change of the Node")]
    Patch(#[source] serde_json::Error),
}

/// Keeps the tenant's Node until `shutdown`; failures are retried inside, and the first success of each part is logged.
pub(crate) async fn run(tenant: Arc<Tenant>, host: HostNode, shutdown: CancellationToken) {
    let (uid, known_uid) = watch::channel(None);
    let keeper = Keeper::new(tenant.clone(), host, uid);
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = keeper.run() => {}
        () = lease::run(tenant.kubelet.clone(), tenant.node.clone(), known_uid) => {}
    }
}

struct Keeper {
    tenant: Arc<Tenant>,
    nodes: Api<Node>,
    host: HostNode,
    /// UID of the tenant's Node, for the lease.
    uid: watch::Sender<Option<String>>,
    existing: Option<Node>,
    reported: Option<Instant>,
}

impl Keeper {
    fn new(tenant: Arc<Tenant>, host: HostNode, uid: watch::Sender<Option<String>>) -> Self {
        let nodes = Api::all(tenant.kubelet.clone());
        Self { tenant, nodes, host, uid, existing: None, reported: None }
    }

    async fn run(mut self) {
        let mut host = self.host.clone();
        host.known().await;
        let mut own = pin!(object(self.nodes.clone(), self.tenant.node.as_str(), "the tenant's Node"));
        let mut steps = Backoff::new(RETRY, LOOK_EVERY);
        // Nothing is written before the first answer of the watch shows whether there is a Node.
        let mut seen = false;
        let mut next_look = Instant::now() + LOOK_EVERY;
        loop {
            tokio::select! {
                () = sleep_until(next_look) => {}
                () = host.changed() => {}
                Some(node) = own.next() => {
                    // A deleted Node is registered again, but not at once: the cloud controller manager, which removes
                    // nodes for good, must not be raced.
                    let deleted = seen && node.is_none();
                    seen = true;
                    self.take(node);
                    if deleted {
                        next_look = Instant::now() + LOOK_EVERY;
                        continue;
                    }
                },
            }
            if !seen {
                next_look = Instant::now() + LOOK_EVERY;
                continue;
            }
            next_look = match self.settle().await {
                Ok(()) => {
                    steps.succeeded();
                    Instant::now() + LOOK_EVERY
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot update the tenant's Node; retrying");
                    Instant::now() + steps.failed()
                }
            };
        }
    }

    fn take(&mut self, node: Option<Node>) {
        let uid = node.as_ref().and_then(|node| node.metadata.uid.clone());
        self.uid.send_if_modified(|old| uid.is_some() && std::mem::replace(old, uid.clone()) != uid);
        self.existing = node;
    }

    /// One look and the writes it asks for.
    async fn settle(&mut self) -> Result<(), NodeError> {
        let Some(host) = self.host.current() else { return Ok(()) };
        let tenant = self.tenant.clone();
        let (spec, name) = (&tenant.spec, &tenant.node);
        let Some(mut existing) = self.existing.clone() else {
            if spec.draining {
                return Ok(());
            }
            let node = status::registration(&host, spec, name, Timestamp::now());
            let node = call("register the Node", self.nodes.create(&PostParams::default(), &node)).await?;
            tracing::info!("registered the Node");
            self.reported = Some(Instant::now());
            self.take(Some(node));
            return Ok(());
        };
        if let Some(change) = status::node_patch(&existing, &host, spec, name) {
            existing = call("change the Node", self.nodes.patch(name.as_str(), &params(), &Patch::Merge(change))).await?;
            self.take(Some(existing.clone()));
        }
        let desired = status::status(&host, spec, &existing, Timestamp::now());
        let heartbeat = self.reported.is_none_or(|reported| reported.elapsed() >= REPORT_EVERY);
        if let Some(change) = status::status_patch(&existing, &desired, heartbeat).map_err(NodeError::Patch)? {
            self.write_status(change).await?;
        }
        Ok(())
    }

    async fn write_status(&mut self, change: Value) -> Result<(), NodeError> {
        let patch = Patch::Strategic(change);
        let node = call("report the Node's status", self.nodes.patch_status(self.tenant.node.as_str(), &params(), &patch)).await?;
        self.reported = Some(Instant::now());
        self.take(Some(node));
        Ok(())
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(AGENT.into()), ..PatchParams::default() }
}

/// A call to the tenant's API; `what` completes "cannot …".
async fn call<T>(what: &'static str, future: impl Future<Output = kube::Result<T>>) -> Result<T, NodeError> {
    nestling_runtime::kube::call(future).await.map_err(|source| NodeError::Api { what, source })
}
