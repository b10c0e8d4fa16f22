//! Controller `node`: brings the tenant's Node objects in line with the cloud.
//!
//! The node agent registers a Node with the taint `node.cloudprovider.kubernetes.io/uninitialized`; `plan` (pure) says what
//! is missing from it, `write` does it, the taint last. A Node whose host node is gone, or no longer serves the tenant, is
//! deleted.

mod plan;
mod write;

use crate::cloud::Cloud;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use nestling_runtime::backoff::Steps;
use plan::plan;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs until `stop`.
pub async fn run(client: Client, mut cloud: watch::Receiver<Cloud>, stop: CancellationToken) {
    let nodes: Api<Node> = Api::all(client);
    let (store, writer) = reflector::store();
    let changed = Arc::new(Notify::new());
    let follow = {
        let (changed, events) = (Arc::clone(&changed), watcher(nodes.clone(), watcher::Config::default().any_semantic()));
        reflector::reflector(writer, events.default_backoff()).for_each(move |event| {
            match event {
                Ok(_) => changed.notify_one(),
                Err(error) => tracing::warn!(%error, "the tenant's nodes are not followed"),
            }
            std::future::ready(())
        })
    };
    let work = async {
        if store.wait_until_ready().await.is_err() {
            return;
        }
        let mut steps = Steps::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let known = cloud.borrow_and_update().clone();
            if settle(&nodes, &store, &known).await {
                steps.succeeded();
                tokio::select! {
                    () = changed.notified() => {}
                    Ok(()) = cloud.changed() => {}
                }
            } else {
                tokio::time::sleep(steps.failed()).await;
            }
        }
    };
    tokio::select! {
        () = follow => {}
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Whether all Nodes are as they should be, or about to be told by the watch that they are.
async fn settle(nodes: &Api<Node>, store: &Store<Node>, cloud: &Cloud) -> bool {
    // Before the operator has spoken, nothing is known: neither what a node should have nor which is gone.
    let Some(cloud) = cloud else { return true };
    let mut settled = true;
    for node in store.state() {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(action) = plan(&node, cloud.get(&name))
            && let Err(error) = write::write(nodes, &name, &action).await
        {
            tracing::warn!(node = name, error = &error as &dyn std::error::Error, "a node is not as the host says");
            settled = false;
        }
    }
    settled
}
