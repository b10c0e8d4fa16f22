//! The tenant's Node object for this host node: registered as a kubelet registers itself, kept like the host's own Node,
//! and kept alive by a lease.
//!
//! [`HostNode`] watches the host's Node once for all tenants. For each tenant, [`run`] watches the tenant's Node; whenever one
//! of the two changes, `register` writes what differs from what `status` (pure) computes, which at rest is nothing but a
//! heartbeat every five minutes. `lease` renews the node's lease.
//!
//! What the tenant sees is the host node's own: versions, system facts, runtime features, conditions. Allocatable is the
//! host's, cut to the tenant's share where it has one: the agent has no right to see what other tenants and the host run,
//! so it cannot subtract that. Where the host has no room left, the host pod waits for it in the host's scheduler.

mod lease;
mod register;
mod status;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod register_tests;

pub(crate) use register::run;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use nestling_crds::names::NodeName;
use nestling_runtime::kube::object;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The host's Node as last seen; clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct HostNode(watch::Receiver<Option<Arc<Node>>>);

impl HostNode {
    /// The handle, and the watch that fills it until `shutdown`.
    pub(crate) fn watch(host: Client, name: &NodeName, shutdown: CancellationToken) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, receiver) = watch::channel(None);
        (Self(receiver), follow(Api::all(host), name.clone(), sender, shutdown))
    }

    /// A handle on a Node that a test changes.
    #[cfg(test)]
    pub(crate) fn changeable(node: Node) -> (Self, watch::Sender<Option<Arc<Node>>>) {
        let (sender, receiver) = watch::channel(Some(Arc::new(node)));
        (Self(receiver), sender)
    }

    pub(crate) fn current(&self) -> Option<Arc<Node>> {
        self.0.borrow().clone()
    }

    /// Waits for the next change; for ever once the watch has ended.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the Node has been seen.
    pub(crate) async fn known(&mut self) -> Arc<Node> {
        loop {
            if let Some(node) = self.0.borrow_and_update().clone() {
                return node;
            }
            self.changed().await;
        }
    }
}

async fn follow(nodes: Api<Node>, name: NodeName, sender: watch::Sender<Option<Arc<Node>>>, shutdown: CancellationToken) {
    let mut changes = pin!(object(nodes, name.as_str(), "the host's Node"));
    while let Some(Some(change)) = shutdown.run_until_cancelled(changes.next()).await {
        let Some(mut node) = change else {
            // The machine is still there, since this program runs on it: what was known stays.
            tracing::warn!(node = %name, "the host cluster has no Node of this name");
            continue;
        };
        node.metadata.managed_fields = None;
        if let Some(status) = &mut node.status {
            status.images = None;
        }
        sender.send_replace(Some(Arc::new(node)));
    }
}
