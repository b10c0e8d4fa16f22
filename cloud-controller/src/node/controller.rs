//! The loop of the node controller.

use super::plan::{Plan, plan};
use crate::cloud::Cloud;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use nestling_crds::labels::CLOUD_CONTROLLER;
use nestling_runtime::backoff::PerObject;
use nestling_runtime::lease::Leadership;
use nestling_runtime::metrics::Metrics;
use nestling_runtime::readiness::Pending;
use prometheus_client::metrics::counter::Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

const CALL: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("cannot {what}")]
    Api {
        what: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("cannot {what}: no answer within {CALL:?}")]
    Timeout { what: &'static str },
}

pub struct NodeController {
    nodes: Api<Node>,
    cloud: watch::Receiver<Option<Arc<Cloud>>>,
    leadership: Leadership,
    known: BTreeMap<String, Node>,
    /// Seen during a list of the watch, to find what vanished.
    listed: BTreeSet<String>,
    /// To be looked at now.
    queue: BTreeSet<String>,
    /// To be looked at again, and when.
    later: BTreeMap<String, Instant>,
    backoff: PerObject<String>,
    initialized: Counter,
    deleted: Counter,
    failed: Counter,
}

impl NodeController {
    pub fn new(client: Client, cloud: watch::Receiver<Option<Arc<Cloud>>>, leadership: Leadership, metrics: &Metrics) -> Self {
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
            queue: BTreeSet::new(),
            later: BTreeMap::new(),
            backoff: PerObject::new(RETRY, RETRY_AT_MOST),
            initialized,
            deleted,
            failed,
        }
    }

    /// Runs for ever; `unlisted` is dropped once all Nodes are known.
    pub async fn run(mut self, unlisted: Pending) {
        let mut unlisted = Some(unlisted);
        let mut events = pin!(watcher::watcher(self.nodes.clone(), watcher::Config::default()).default_backoff());
        let mut leadership = self.leadership.clone();
        let mut cloud = self.cloud.clone();
        loop {
            let due = self.later.values().min().copied();
            let leads = self.leadership.is_held();
            tokio::select! {
                biased;
                Some(event) = events.next() => match event {
                    Ok(event) => {
                        if self.take(event) {
                            drop(unlisted.take());
                        }
                    }
                    Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot watch the Nodes"),
                },
                Ok(()) = cloud.changed() => self.queue.extend(self.known.keys().cloned()),
                // A new leader looks at everything.
                () = leadership.acquired(), if !leads => self.queue.extend(self.known.keys().cloned()),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.wake(),
                else => std::future::pending().await,
            }
            // What has been lost between two looks is looked at again with the next claim.
            while let Some(name) = self.next() {
                self.settle(name).await;
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
        self.queue.insert(name.clone());
        self.known.insert(name, node);
    }

    fn wake(&mut self) {
        let now = Instant::now();
        let due: Vec<String> = self.later.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.later.remove(&name);
            self.queue.insert(name);
        }
    }

    fn next(&mut self) -> Option<String> {
        if !self.leadership.is_held() {
            return None;
        }
        self.queue.pop_first()
    }

    async fn settle(&mut self, name: String) {
        let Some(cloud) = self.cloud.borrow().clone() else { return };
        let Some(node) = self.known.get(&name) else {
            self.backoff.succeeded(&name);
            return;
        };
        match self.write(&name, node.uid(), plan(node, &cloud)).await {
            Ok(Some(node)) => {
                self.backoff.succeeded(&name);
                self.known.insert(name, node);
            }
            Ok(None) => self.backoff.succeeded(&name),
            // The Node is gone or was written by somebody else since: the watch tells, and a look soon makes sure.
            Err(WriteError::Api { source: kube::Error::Api(status), .. }) if status.is_not_found() || status.is_conflict() => {
                self.later.insert(name.clone(), Instant::now() + self.backoff.failed(name));
            }
            Err(error) => {
                self.failed.inc();
                let pause = self.backoff.failed(name.clone());
                tracing::warn!(node = name, error = &error as &dyn std::error::Error, ?pause, "cannot tell the tenant about its node");
                self.later.insert(name, Instant::now() + pause);
            }
        }
    }

    /// The Node as it is after the writes, if there were any.
    async fn write(&self, name: &str, uid: Option<String>, plan: Plan) -> Result<Option<Node>, WriteError> {
        match plan {
            Plan::Nothing => Ok(None),
            Plan::Delete => {
                let preconditions = Some(Preconditions { uid, resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                match call("delete the Node", self.nodes.delete(name, &params)).await {
                    Ok(_) => {
                        self.deleted.inc();
                        tracing::info!(node = name, "deleted the Node: its host node no longer serves the tenant");
                    }
                    Err(WriteError::Api { source: kube::Error::Api(status), .. }) if status.is_not_found() => {}
                    Err(error) => return Err(error),
                }
                Ok(None)
            }
            Plan::Write { status, node, initializes } => {
                let params = PatchParams { field_manager: Some(CLOUD_CONTROLLER.into()), ..PatchParams::default() };
                let mut written = None;
                // Facts first, with the taint: that is what pods wait for.
                if let Some(patch) = node {
                    written = Some(call("patch the Node", self.nodes.patch(name, &params, &Patch::Merge(patch))).await?);
                    if initializes {
                        self.initialized.inc();
                        tracing::info!(node = name, "initialized the Node");
                    }
                }
                if let Some(patch) = status {
                    written =
                        Some(call("patch the Node's addresses", self.nodes.patch_status(name, &params, &Patch::Strategic(patch))).await?);
                }
                Ok(written)
            }
        }
    }
}

async fn call<T>(what: &'static str, future: impl Future<Output = Result<T, kube::Error>>) -> Result<T, WriteError> {
    match timeout(CALL, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(WriteError::Api { what, source }),
        Err(_) => Err(WriteError::Timeout { what }),
    }
}
