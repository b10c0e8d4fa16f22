//! How a tenant is doing from the inside.
//!
//! A starting apiserver is asked every 100 ms, because time to Ready is what users wait for. Once it answers, two watches
//! (nodes; CoreDNS) tell of changes, and nothing is asked again.

use futures::{StreamExt as _, future};
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use nestling_crds::v1alpha1::NodesStatus;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::objects::coredns;
use crate::conditions::Verdict;
use crate::reconcile::status::explain::not_ready;

/// One question to a starting apiserver.
const PROBE: Duration = Duration::from_secs(2);
/// Pause between questions, and for how long it is kept up; later ones are seldom.
const EAGER: Duration = Duration::from_millis(100);
const EAGER_FOR: Duration = Duration::from_secs(120);
const PATIENT: Duration = Duration::from_secs(2);
/// How often the pods of a CoreDNS that does not serve are asked why.
const ASK_PODS: Duration = Duration::from_secs(2);

/// What is known of a tenant from the inside; `None` is not known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Whether `/readyz` has answered since we connected.
    pub api_answered: bool,
    pub nodes: Option<NodesStatus>,
    pub dns: Option<Dns>,
}

/// The tenant's CoreDNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub exists: bool,
    /// Pods that serve.
    pub available: i32,
    /// Why there are none, if that is known.
    pub trouble: Option<Verdict>,
    /// `metadata.generation`, to see that somebody changed it.
    pub generation: Option<i64>,
}

/// Observes until cancelled (by dropping); calls `changed` after each change of the observation.
pub async fn observe(client: Client, observation: watch::Sender<Observation>, changed: impl Fn()) {
    let tell = |change: &dyn Fn(&mut Observation)| {
        let modified = observation.send_if_modified(|current| {
            let mut next = current.clone();
            change(&mut next);
            let modified = next != *current;
            *current = next;
            modified
        });
        if modified {
            changed();
        }
    };
    until_ready(&client).await;
    tell(&|o| o.api_answered = true);
    let nodes = watch_nodes(client.clone(), |nodes| tell(&|o| o.nodes = Some(nodes)));
    let dns = watch_dns(client, |dns: Dns| tell(&|o| o.dns = Some(dns.clone())));
    future::join(nodes, dns).await;
}

async fn until_ready(client: &Client) {
    let started = Instant::now();
    loop {
        if let Ok(request) = Request::get("/readyz").body(Vec::new()) {
            // Every refusal on the way up is expected; kube would log each as an error.
            let answer = client.request_text(request).with_subscriber(NoSubscriber::new());
            if let Ok(Ok(_)) = timeout(PROBE, answer).await {
                return;
            }
        }
        sleep(if started.elapsed() < EAGER_FOR { EAGER } else { PATIENT }).await;
    }
}

async fn watch_nodes(client: Client, tell: impl Fn(NodesStatus)) {
    let trim = |node: &mut Node| {
        node.managed_fields_mut().clear();
        node.spec = None;
        if let Some(status) = &mut node.status {
            status.images = None;
        }
    };
    let mut ready: BTreeMap<String, bool> = BTreeMap::new();
    let mut events = pin!(watcher(Api::<Node>::all(client), watcher::Config::default()).modify(trim).default_backoff());
    let mut listing = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(node)) => {
                ready.insert(node.name_any(), is_ready(&node));
            }
            Ok(Event::Delete(node)) => {
                ready.remove(&node.name_any());
            }
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(node)) => {
                listing.insert(node.name_any(), is_ready(&node));
                continue;
            }
            Ok(Event::InitDone) => ready = std::mem::take(&mut listing),
            Err(error) => {
                tracing::debug!(%error, "tenant node watch failed; trying again");
                continue;
            }
        }
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        tell(NodesStatus { ready: count(ready.values().filter(|ready| **ready).count()), total: count(ready.len()) });
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Watches the Deployment; while it does not serve, its pods are asked why. (A watch of them would be one more connection
/// to each tenant, for ever.)
async fn watch_dns(client: Client, tell: impl Fn(Dns)) {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", coredns::NAME));
    let api = Api::<Deployment>::namespaced(client.clone(), coredns::NAMESPACE);
    let mut events = pin!(watcher(api, config).default_backoff());
    let (mut listed, mut current) = (None, Dns::default());
    loop {
        let asks = current.exists && current.available == 0;
        tokio::select! {
            Some(event) = events.next() => match event {
                Ok(Event::Apply(deployment)) => current = dns(&deployment),
                Ok(Event::Delete(_)) => current = Dns::default(),
                Ok(Event::Init) => listed = None,
                Ok(Event::InitApply(deployment)) => listed = Some(dns(&deployment)),
                Ok(Event::InitDone) => current = listed.take().unwrap_or_default(),
                Err(error) => tracing::debug!(%error, "tenant CoreDNS watch failed; trying again"),
            },
            () = sleep(ASK_PODS), if asks => {
                if let Some(trouble) = dns_trouble(&client).await {
                    current.trouble = Some(trouble);
                }
            }
        }
        tell(current.clone());
    }
}

fn dns(deployment: &Deployment) -> Dns {
    let status = deployment.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let mut failures = conditions.filter(|c| c.type_.as_deref() == Some("ReplicaFailure") && c.status.as_deref() == Some("True"));
    let refused = failures.next().and_then(|failure| failure.message.clone());
    Dns {
        exists: true,
        // Not the Available condition: with one replica and one that may be unavailable it is always true.
        available: status.and_then(|status| status.available_replicas).unwrap_or(0),
        trouble: refused.map(|message| Verdict::no("PodsNotCreated", message)),
        generation: deployment.metadata.generation,
    }
}

async fn dns_trouble(client: &Client) -> Option<Verdict> {
    let api = Api::<Pod>::namespaced(client.clone(), coredns::NAMESPACE);
    let pods = api.list(&ListParams::default().labels(coredns::SELECTOR)).await.ok()?;
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
        assert_eq!((starting.available, starting.trouble), (0, None));
        assert_eq!(dns(&deployment(json!({"availableReplicas": 1}))).available, 1);
        let refused =
            dns(&deployment(json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden"}]})));
        assert_eq!(refused.trouble, Some(Verdict::no("PodsNotCreated", "pods is forbidden")));
    }
}
