//! The state of a tenant as its own API shows it.
//!
//! A starting apiserver is probed every 100 ms, because time to Ready is what users wait for. Once it answers, two watches
//! follow nodes and CoreDNS.

use crate::conditions::{ConditionState, not_ready};
use crate::tenant::lanes::Lanes;
use futures::{StreamExt as _, future};
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, ResourceExt as _};
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::NodesStatus;
use nestling_crds::versions::Version;
use nestling_runtime::kube::{events, object};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

/// Deployment of CoreDNS, its namespace, and the selector of its pods.
pub(crate) const COREDNS: &str = "coredns";
pub(crate) const COREDNS_NAMESPACE: &str = "kube-system";
const COREDNS_SELECTOR: &str = "k8s-app=kube-dns";

/// Deadline of one probe of a starting apiserver.
const PROBE: Duration = Duration::from_secs(2);
/// Pause between probes at first, for how long, and later.
const EAGER: Duration = Duration::from_millis(100);
const EAGER_FOR: Duration = Duration::from_secs(120);
const PATIENT: Duration = Duration::from_secs(2);
/// A tenant that has not answered after this time is one that does not answer.
const SETTLE: Duration = Duration::from_secs(10);
/// Pause between lists of the pods of a CoreDNS that does not serve.
const LIST_PODS: Duration = Duration::from_secs(2);

/// What is known of a tenant through its own API; `None` is not known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Whether the tenant has had its time to answer: until then, what is not known is no news.
    pub(crate) settled: bool,
    /// Whether `/readyz` has answered since we connected.
    pub(crate) api_answered: bool,
    pub(crate) nodes: Option<NodesStatus>,
    pub(crate) dns: Option<Dns>,
}

/// The tenant's CoreDNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dns {
    pub(crate) exists: bool,
    /// Pods that serve.
    pub(crate) available: i32,
    /// Why there are none, if known.
    pub(crate) failure: Option<ConditionState>,
    /// `metadata.generation`, to notice changes by others.
    pub(crate) generation: Option<i64>,
}

/// Observes until cancelled (by dropping); calls `changed` after each change of the observation.
pub(crate) async fn observe(
    client: Client,
    tenant: TenantUid,
    lanes: Arc<Lanes>,
    observation: watch::Sender<Observation>,
    changed: impl Fn(),
) {
    let update = |change: &dyn Fn(&mut Observation)| {
        let modified = observation.send_if_modified(|current| {
            let mut next = current.clone();
            change(&mut next);
            next.settled |= next.nodes.is_some() && next.dns.is_some();
            let modified = next != *current;
            *current = next;
            modified
        });
        if modified {
            changed();
        }
    };
    let settle = async {
        sleep(SETTLE).await;
        update(&|o| o.settled = true);
    };
    let follow = async {
        until_ready(&client, &tenant, &lanes).await;
        update(&|o| o.api_answered = true);
        let nodes = watch_nodes(client.clone(), |nodes: NodesStatus| update(&|o| o.nodes = Some(nodes.clone())));
        let dns = watch_dns(client.clone(), |dns: Dns| update(&|o| o.dns = Some(dns.clone())));
        future::join(nodes, dns).await;
    };
    future::join(settle, follow).await;
}

async fn until_ready(client: &Client, tenant: &TenantUid, lanes: &Lanes) {
    let started = Instant::now();
    loop {
        if let Ok(request) = Request::get("/readyz").body(Vec::new()) {
            // Refusals are expected until it is up; kube would log each as an error.
            let answer = client.request_text(request).with_subscriber(NoSubscriber::new());
            if let Ok(Ok(_)) = lanes.pass(tenant, async { timeout(PROBE, answer).await }).await {
                return;
            }
        }
        // One that starts refuses connections; one that takes them and hangs does not start.
        let is_starting = started.elapsed() < EAGER_FOR && !lanes.is_silent(tenant);
        sleep(if is_starting { EAGER } else { PATIENT }).await;
    }
}

async fn watch_nodes(client: Client, publish: impl Fn(NodesStatus)) {
    let mut nodes: BTreeMap<String, Seen> = BTreeMap::new();
    let mut events = pin!(events(Api::<Node>::all(client), Config::default(), "nodes of the tenant"));
    let mut listing = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Apply(node) => {
                nodes.insert(node.name_any(), Seen::from(&node));
            }
            Event::Delete(node) => {
                nodes.remove(&node.name_any());
            }
            Event::Init => listing.clear(),
            Event::InitApply(node) => {
                listing.insert(node.name_any(), Seen::from(&node));
                continue;
            }
            Event::InitDone => nodes = std::mem::take(&mut listing),
        }
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        publish(NodesStatus {
            ready: count(nodes.values().filter(|node| node.ready).count()),
            total: count(nodes.len()),
            oldest_kubelet: nodes.values().filter_map(|node| node.kubelet).min().map(|version| version.to_string()),
        });
    }
}

/// What counts of a node.
struct Seen {
    ready: bool,
    kubelet: Option<Version>,
}

impl From<&Node> for Seen {
    fn from(node: &Node) -> Self {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        Self { ready: is_ready(node), kubelet: info.and_then(|info| Version::of_build(&info.kubelet_version)) }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Watches the Deployment; while it does not serve, lists its pods for the reason. (A watch of them would be one more
/// permanent connection to each tenant.)
async fn watch_dns(client: Client, publish: impl Fn(Dns)) {
    let api = Api::<Deployment>::namespaced(client.clone(), COREDNS_NAMESPACE);
    let mut changes = pin!(object(api, COREDNS, "CoreDNS of the tenant"));
    let mut current = Dns::default();
    loop {
        let unavailable = current.exists && current.available == 0;
        tokio::select! {
            Some(deployment) = changes.next() => current = deployment.as_ref().map(dns).unwrap_or_default(),
            () = sleep(LIST_PODS), if unavailable => {
                if let Some(failure) = dns_failure(&client).await {
                    current.failure = Some(failure);
                }
            }
        }
        publish(current.clone());
    }
}

fn dns(deployment: &Deployment) -> Dns {
    let status = deployment.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let mut failures = conditions.filter(|c| c.type_.as_deref() == Some("ReplicaFailure") && c.status.as_deref() == Some("True"));
    let message = failures.next().and_then(|failure| failure.message.clone());
    Dns {
        exists: true,
        // Not the Available condition: with one replica and one that may be unavailable it is always true.
        available: status.and_then(|status| status.available_replicas).unwrap_or(0),
        failure: message.map(|message| ConditionState::no("PodsNotCreated", message)),
        generation: deployment.metadata.generation,
    }
}

async fn dns_failure(client: &Client) -> Option<ConditionState> {
    let api = Api::<Pod>::namespaced(client.clone(), COREDNS_NAMESPACE);
    let pods = api.list(&ListParams::default().labels(COREDNS_SELECTOR)).await.ok()?;
    let pods: Vec<_> = pods.items.into_iter().map(Arc::new).collect();
    (!pods.is_empty()).then(|| not_ready(&pods, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn coredns_serves_when_a_pod_of_it_does() {
        let deployment = |status| {
            let object =
                json!({"metadata": {"name": "coredns", "generation": 1}, "spec": {"selector": {}, "template": {}}, "status": status});
            serde_json::from_value::<Deployment>(object).unwrap()
        };
        // One replica that may be unavailable: "available" from the first moment.
        let starting =
            dns(&deployment(json!({"conditions": [{"type": "Available", "status": "True", "message": "minimum availability"}]})));
        assert_eq!((starting.available, starting.failure), (0, None));
        assert_eq!(dns(&deployment(json!({"availableReplicas": 1}))).available, 1);
        let refused =
            dns(&deployment(json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden"}]})));
        assert_eq!(refused.failure, Some(ConditionState::no("PodsNotCreated", "pods is forbidden")));
    }
}
