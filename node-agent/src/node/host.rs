//! This node's own Node object in the host cluster, watched once for all tenants.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use nestling_crds::names::NodeName;
use nestling_runtime::error::chain;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The host's Node as last seen; clones see the same.
#[derive(Clone, Debug)]
pub struct HostNode(watch::Receiver<Option<Arc<Node>>>);

impl HostNode {
    /// The handle, and the watch that fills it until `shutdown`.
    pub fn watch(host: Client, name: &NodeName, shutdown: CancellationToken) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, receiver) = watch::channel(None);
        (Self(receiver), follow(Api::all(host), name.clone(), sender, shutdown))
    }

    /// A handle on a Node that a test changes.
    #[cfg(test)]
    pub(super) fn changeable(node: Node) -> (Self, watch::Sender<Option<Arc<Node>>>) {
        let (sender, receiver) = watch::channel(Some(Arc::new(node)));
        (Self(receiver), sender)
    }

    pub fn current(&self) -> Option<Arc<Node>> {
        self.0.borrow().clone()
    }

    /// Waits for the next change; for ever once the watch has ended.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the Node has been seen.
    pub async fn known(&mut self) -> Arc<Node> {
        loop {
            if let Some(node) = self.0.borrow_and_update().clone() {
                return node;
            }
            self.changed().await;
        }
    }
}

async fn follow(nodes: Api<Node>, name: NodeName, sender: watch::Sender<Option<Arc<Node>>>, shutdown: CancellationToken) {
    let mut changes = pin!(watch_object(nodes, name.as_str()).default_backoff().take_until(shutdown.cancelled_owned()));
    while let Some(change) = changes.next().await {
        match change {
            Ok(Some(mut node)) => {
                node.metadata.managed_fields = None;
                if let Some(status) = &mut node.status {
                    status.images = None;
                }
                sender.send_replace(Some(Arc::new(node)));
            }
            // The machine is still there, since this program runs on it: what was known stays.
            Ok(None) => tracing::warn!(node = %name, "the host cluster has no Node of this name"),
            Err(error) => tracing::warn!(error = %chain(&error), "cannot watch the host's Node"),
        }
    }
}
