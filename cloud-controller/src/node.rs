//! The `node` controller: writes the facts about the host nodes behind the tenant's Nodes to these.
//!
//! [`plan`] compares one Node with the cloud: provider ID, zone, region and instance type, addresses, and the taint that
//! keeps pods away until these are set; a Node whose host node is gone or no longer serves the tenant is deleted. The
//! controller plans for each Node whenever it or the cloud changes, and writes while it holds the lease.

use crate::cloud::Cloud;
use crate::plan::{Plan, plan};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, ResourceExt as _};
use nestling_crds::labels::CLOUD_CONTROLLER;
use nestling_runtime::backoff::PerObject;
use nestling_runtime::error::chain;
use nestling_runtime::kube::{call, delete_exact, events, is_gone_or_changed};
use nestling_runtime::lease::Leadership;
use nestling_runtime::metrics::Metrics;
use nestling_runtime::queue::Queue;
use nestling_runtime::readiness::Pending;
use prometheus_client::metrics::counter::Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const RETRY: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
struct WriteError {
    what: &'static str,
    #[source]
    source: kube::Error,
}

pub(crate) struct NodeController {
    nodes: Api<Node>,
    cloud: watch::Receiver<Option<Arc<Cloud>>>,
    leadership: Leadership,
    known: BTreeMap<String, Node>,
    /// Nodes of the list that the watch is in, to find those that vanished.
    listed: BTreeSet<String>,
    queue: Queue<String>,
    backoff: PerObject<String>,
    initialized: Counter,
    deleted: Counter,
    failed: Counter,
}

impl NodeController {
    pub(crate) fn new(client: Client, cloud: watch::Receiver<Option<Arc<Cloud>>>, leadership: Leadership, metrics: &Metrics) -> Self {
        let (initialized, deleted, failed) = (Counter::default(), Counter::default(), Counter::default());
        metrics.register("node", |registry| {
            registry.register("initialized", "Nodes initialized", initialized.clone());
            registry.register("deleted", "Nodes deleted because the cloud no longer has them", deleted.clone());
            registry.register("failed", "Writes of Nodes that failed", failed.clone());
        });
        Self {
            nodes: Api::all(client),
            cloud,
            leadership,
            known: BTreeMap::new(),
            listed: BTreeSet::new(),
            queue: Queue::new(),
            backoff: PerObject::new(RETRY, RETRY_AT_MOST),
            initialized,
            deleted,
            failed,
        }
    }

    /// Runs for ever; `unlisted` is dropped once all Nodes are known.
    pub(crate) async fn run(mut self, unlisted: Pending) {
        let mut unlisted = Some(unlisted);
        let mut events = pin!(events(self.nodes.clone(), Config::default(), "Nodes of the tenant"));
        let mut leadership = self.leadership.clone();
        let mut cloud = self.cloud.clone();
        loop {
            let leads = self.leadership.is_held();
            tokio::select! {
                biased;
                Some(event) = events.next() => {
                    if self.take(event) {
                        drop(unlisted.take());
                    }
                }
                Ok(()) = cloud.changed() => self.add_all(),
                // Another leader may have left any Node as it was.
                () = leadership.acquired(), if !leads => self.add_all(),
                name = self.queue.next(), if leads => {
                    self.sync(&name).await;
                    self.queue.done(&name);
                }
            }
        }
    }

    /// Whether all Nodes are known now.
    fn take(&mut self, event: Event<Node>) -> bool {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(node) => {
                self.listed.insert(node.name_any());
                self.keep(node);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.known.retain(|name, _| listed.contains(name));
                return true;
            }
            Event::Apply(node) => self.keep(node),
            Event::Delete(node) => drop(self.known.remove(&node.name_any())),
        }
        false
    }

    fn keep(&mut self, mut node: Node) {
        node.metadata.managed_fields = None;
        let name = node.name_any();
        self.queue.add(name.clone());
        self.known.insert(name, node);
    }

    fn add_all(&self) {
        self.known.keys().for_each(|name| self.queue.add(name.clone()));
    }

    async fn sync(&mut self, name: &String) {
        // A lease that has been lost meanwhile is acquired again, and with it all Nodes are added.
        let Some(cloud) = self.cloud.borrow().clone().filter(|_| self.leadership.is_held()) else { return };
        let Some(node) = self.known.get(name) else {
            self.backoff.succeeded(name);
            return;
        };
        match self.write(name, &node.metadata, plan(node, &cloud)).await {
            Ok(written) => {
                self.backoff.succeeded(name);
                self.known.extend(written.map(|node| (name.clone(), node)));
            }
            Err(error) => {
                let pause = self.backoff.failed(name.clone());
                // Gone, or changed meanwhile: the watch has the change by the next attempt.
                if !matches!(&error.source, kube::Error::Api(status) if is_gone_or_changed(status)) {
                    self.failed.inc();
                    tracing::warn!(node = name, error = chain(&error), ?pause, "cannot update the Node; retrying");
                }
                self.queue.add_after(name.clone(), pause);
            }
        }
    }

    /// The Node as it is after the writes, if there were any.
    async fn write(&self, name: &str, node: &ObjectMeta, plan: Plan) -> Result<Option<Node>, WriteError> {
        let failed = |what| move |source| WriteError { what, source };
        match plan {
            Plan::Nothing => Ok(None),
            Plan::Delete => {
                if delete_exact(&self.nodes, node, None).await.map_err(failed("delete the Node"))? {
                    self.deleted.inc();
                    tracing::info!(node = name, "deleted the Node: its host node no longer serves the tenant");
                }
                Ok(None)
            }
            Plan::Write { status, node, initializes } => {
                let params = PatchParams { field_manager: Some(CLOUD_CONTROLLER.into()), ..PatchParams::default() };
                let mut written = None;
                // Facts first, with the taint: that is what pods wait for.
                if let Some(patch) = node {
                    let patched = call(self.nodes.patch(name, &params, &Patch::Merge(patch))).await;
                    written = Some(patched.map_err(failed("patch the Node"))?);
                    if initializes {
                        self.initialized.inc();
                        tracing::info!(node = name, "initialized the Node");
                    }
                }
                if let Some(patch) = status {
                    let patched = call(self.nodes.patch_status(name, &params, &Patch::Strategic(patch))).await;
                    written = Some(patched.map_err(failed("patch the Node's addresses"))?);
                }
                Ok(written)
            }
        }
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
