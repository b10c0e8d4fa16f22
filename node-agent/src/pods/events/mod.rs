//! Events on tenant pods: those of the host's kubelet, told in the tenant's words (`mirror`), and the agent's own (`own`).
//!
//! Both are written by a few lanes (`Events`); an event always goes through the same lane, so its counts stay in order.
//! Names are derived from what happened, so an agent that restarts repeats nothing. Events are best effort, as
//! everywhere in Kubernetes: when the tenant's apiserver cannot keep up, they are dropped rather than held.

mod mirror;
mod own;

pub use mirror::Mirror;

use super::key::PodKey;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, Patch, PatchParams, PostParams};
use nestling_crds::labels;
use nestling_crds::names::NodeName;
use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Writers that work side by side.
const LANES: usize = 4;
/// Events that may wait in one lane.
const DEPTH: usize = 256;
/// Longest wait for one write.
const CALL: Duration = Duration::from_secs(10);

/// Writes events into a tenant.
#[derive(Debug)]
pub struct Events {
    lanes: Vec<mpsc::Sender<Event>>,
    hasher: RandomState,
    node: NodeName,
}

impl Events {
    /// Starts the writers; they end with `shutdown`.
    pub fn start(client: &kube::Client, node: &NodeName, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let lane = |_| {
            let (sender, receiver) = mpsc::channel(DEPTH);
            let (client, shutdown) = (client.clone(), shutdown.clone());
            tasks.spawn(async move { shutdown.run_until_cancelled(write_all(client, receiver)).await });
            sender
        };
        Self { lanes: (0..LANES).map(lane).collect(), hasher: RandomState::new(), node: node.clone() }
    }

    /// Tells of something that keeps a pod from running.
    pub fn warn(&self, pod: &PodKey, reason: &str, message: &str) {
        self.send(own::warning(pod, &self.node, reason, message, jiff::Timestamp::now()));
    }

    fn send(&self, event: Event) {
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let index = usize::try_from(self.hasher.hash_one(name) % LANES as u64).unwrap_or_default();
        if self.lanes.get(index).is_none_or(|lane| lane.try_send(event).is_err()) {
            tracing::debug!("event dropped: the tenant's apiserver does not keep up");
        }
    }
}

async fn write_all(client: kube::Client, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        match timeout(CALL, write(&client, &event)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "event not written"),
            Err(_) => tracing::debug!("event not written in time"),
        }
    }
}

/// Creates the event, or counts it up when it is there.
async fn write(client: &kube::Client, event: &Event) -> kube::Result<()> {
    let api: Api<Event> = Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or_default());
    if event.count.is_some_and(|count| count > 1) {
        match count(&api, event).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            answer => return answer,
        }
    }
    let params = PostParams { field_manager: Some(labels::AGENT.into()), ..PostParams::default() };
    match api.create(&params, event).await {
        Ok(_) => Ok(()),
        // Nodes may not read events, so nothing tells whether it has the same count already: setting it again is harmless.
        Err(kube::Error::Api(status)) if status.is_already_exists() => count(&api, event).await,
        Err(error) => Err(error),
    }
}

async fn count(api: &Api<Event>, event: &Event) -> kube::Result<()> {
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let mut patch = json!({ "lastTimestamp": event.last_timestamp, "message": event.message });
    if let Some(count) = event.count.filter(|count| *count > 1) {
        patch["count"] = json!(count);
    }
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}
