//! One tenant's Services as this node sees them. A single watch per tenant serves both the environment of its containers
//! and its rules, and only the facts that either needs are kept: a node must not hold every Service object of every tenant.
//!
//! Whoever runs the tenant's parts makes the pair `let (services, changes) = Services::new()`, runs
//! [`Services::follow`], and passes each half on:
//! - container environment: `services.synced().await` once, then [`Services::visible_from`] the pod's namespace;
//! - proxy: [`ServiceChanges::next`] in a loop; the first answer has every Service, later ones what has changed since.

use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use nestling_crds::names::TenantName;
use nestling_runtime::kube::follow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Services and EndpointSlices with this label belong to another proxy.
pub(crate) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Upstream's `DefaultClientIPServiceAffinitySeconds`.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// A Service that has a `ClusterIP`. Headless and `ExternalName` Services have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    pub name: TenantName,
    /// `spec.clusterIPs`: the primary first, never empty, without doubles.
    pub(crate) cluster_ips: Vec<IpAddr>,
    /// In the order of the spec.
    pub(crate) ports: Vec<PortFacts>,
    /// `internalTrafficPolicy: Local`.
    pub(crate) local_only: bool,
    pub(crate) affinity: Option<Affinity>,
    /// Has rules. False with the label of another proxy.
    pub(crate) is_proxied: bool,
}

/// One port of a Service. EndpointSlices give the same port, by name and protocol, its number on the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortFacts {
    /// Empty for the only port of a Service, which needs no name.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// Transport protocols that a Service port can have. Shown in lower case, as nft writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// `sessionAffinity: ClientIP`: a client keeps its endpoint until it has made no new connection for this many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Affinity {
    pub(crate) seconds: u32,
}

/// All Services of a tenant.
#[derive(Debug)]
pub(crate) struct Services {
    state: Mutex<State>,
    synced: watch::Sender<bool>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<TenantName, Arc<ServiceFacts>>,
    /// While a list is read: the known Services that it has not named yet.
    unlisted: BTreeSet<TenantName>,
    /// What [`ServiceChanges::next`] has not returned yet.
    changed: BTreeSet<TenantName>,
}

/// The reader of changes; there is one per [`Services`].
#[derive(Debug)]
pub(crate) struct ServiceChanges {
    services: Arc<Services>,
    has_begun: bool,
}

impl Services {
    #[allow(clippy::new_ret_no_self, reason = "both ends, like a channel")]
    pub(crate) fn new() -> (Arc<Self>, ServiceChanges) {
        let services = Arc::new(Self { state: Mutex::default(), synced: watch::Sender::new(false), changed: Notify::new() });
        (Arc::clone(&services), ServiceChanges { services, has_begun: false })
    }

    /// Follows the tenant's Services until `shutdown`, through all failures. `client` may be either of the node's
    /// identities in the tenant.
    pub(crate) async fn follow(&self, client: Client, shutdown: CancellationToken) {
        let api: Api<Service> = Api::all(client);
        follow(api, Config::default(), "services", shutdown, |event| self.apply(event)).await;
    }

    /// Waits until the Services have been listed once. A kubelet starts no pod before that either.
    pub(crate) async fn synced(&self) {
        // Fails only without a sender, which lives as long as `self`.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// The Services that pods in `namespace` find in their environment: the namespace's own and `default/kubernetes`.
    pub(crate) fn visible_from(&self, namespace: &str) -> Vec<Arc<ServiceFacts>> {
        let state = self.state();
        let from = TenantName::new(namespace, "");
        let own = state.known.range(from..).take_while(|(name, _)| name.namespace == namespace).map(|(_, facts)| facts);
        let kubernetes = (namespace != "default").then(|| state.known.get(&TenantName::new("default", "kubernetes"))).flatten();
        own.chain(kubernetes).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, event: Event<Service>) {
        let mut state = self.state();
        let is_listed = matches!(event, Event::InitDone);
        match event {
            Event::Init => state.unlisted = state.known.keys().cloned().collect(),
            Event::InitApply(service) | Event::Apply(service) => {
                let Some(name) = name_of(&service) else { return };
                state.unlisted.remove(&name);
                state.set(name, ServiceFacts::of(&service));
            }
            Event::Delete(service) => {
                let Some(name) = name_of(&service) else { return };
                state.set(name, None);
            }
            Event::InitDone => {
                for name in std::mem::take(&mut state.unlisted) {
                    state.set(name, None);
                }
            }
        }
        let has_changed = !state.changed.is_empty();
        drop(state);
        if is_listed {
            self.synced.send_replace(true);
        }
        if has_changed {
            self.changed.notify_one();
        }
    }
}

impl State {
    fn set(&mut self, name: TenantName, facts: Option<ServiceFacts>) {
        if self.known.get(&name).map(AsRef::as_ref) == facts.as_ref() {
            return;
        }
        match facts {
            Some(facts) => drop(self.known.insert(name.clone(), Arc::new(facts))),
            None => drop(self.known.remove(&name)),
        }
        self.changed.insert(name);
    }
}

impl ServiceChanges {
    /// The Services that have changed since the last call, None for those that are gone. Waits for the first list, which
    /// is then returned whole, and later for a change. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Vec<(TenantName, Option<Arc<ServiceFacts>>)> {
        self.services.synced().await;
        loop {
            {
                let mut state = self.services.state();
                let changed = std::mem::take(&mut state.changed);
                if !std::mem::replace(&mut self.has_begun, true) || !changed.is_empty() {
                    return changed.into_iter().map(|name| (name.clone(), state.known.get(&name).cloned())).collect();
                }
            }
            self.services.changed.notified().await;
        }
    }
}

impl ServiceFacts {
    /// None for a Service without a `ClusterIP`, and for an object that did not come from an apiserver.
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        // `None`, the mark of a headless Service, and the empty string are no addresses.
        let mut cluster_ips: Vec<IpAddr> = Vec::new();
        for address in spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()).filter_map(|address| address.parse().ok()) {
            if !cluster_ips.contains(&address) {
                cluster_ips.push(address);
            }
        }
        if cluster_ips.is_empty() {
            return None;
        }
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(PortFacts {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok().filter(|port| *port > 0)?,
            })
        });
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let seconds = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
            Affinity { seconds: seconds.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(DEFAULT_AFFINITY_SECONDS) }
        });
        Some(Self {
            name: name_of(service)?,
            cluster_ips,
            ports: ports.collect(),
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            affinity,
            is_proxied: !service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL)),
        })
    }
}

fn name_of(service: &Service) -> Option<TenantName> {
    Some(TenantName::new(service.metadata.namespace.clone()?, service.metadata.name.clone()?))
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The API's name; absent means TCP. None for a protocol that the API does not know.
    pub(crate) fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// The number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn service(namespace: &str, name: &str, spec: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})).unwrap()
    }

    fn facts(spec: &Value) -> Option<ServiceFacts> {
        ServiceFacts::of(&service("a", "b", spec))
    }

    #[rstest]
    #[case::external_name(json!({"type": "ExternalName", "externalName": "x.y"}))]
    #[case::headless(json!({"clusterIP": "None", "clusterIPs": ["None"]}))]
    #[case::not_allocated_yet(json!({"clusterIP": ""}))]
    fn skipped(#[case] spec: Value) {
        assert_eq!(facts(&spec), None);
    }

    #[test]
    fn another_proxys_service_is_not_proxied() {
        let mut service = service("a", "b", &json!({"clusterIP": "10.96.0.1"}));
        assert!(ServiceFacts::of(&service).unwrap().is_proxied);
        service.metadata.labels = Some([(PROXY_NAME_LABEL.to_owned(), "x".to_owned())].into());
        assert!(!ServiceFacts::of(&service).unwrap().is_proxied);
    }

    #[test]
    fn a_load_balancer_has_its_cluster_ip_half() {
        let facts = facts(&json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": [{"name": "web", "port": 80, "nodePort": 30000}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "internalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}
        }))
        .unwrap();
        assert_eq!(facts.cluster_ips, ["10.96.0.1", "fd00::1"].map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!(
            facts.ports.iter().map(|p| (p.name.as_str(), p.protocol, p.port)).collect::<Vec<_>>(),
            [("web", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]
        );
        assert!(facts.local_only);
        assert_eq!(facts.affinity, Some(Affinity { seconds: 60 }));
    }

    #[test]
    fn affinity_has_upstreams_default() {
        let facts = facts(&json!({"clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP"})).unwrap();
        assert_eq!(facts.affinity, Some(Affinity { seconds: 10_800 }));
    }

    fn names(services: &Services, namespace: &str) -> Vec<String> {
        services.visible_from(namespace).iter().map(|facts| facts.name.to_string()).collect()
    }

    fn web(namespace: &str, name: &str) -> Service {
        service(namespace, name, &json!({"clusterIP": "10.96.0.1"}))
    }

    #[test]
    fn pods_see_their_namespace_and_the_apiserver() {
        let (services, _changes) = Services::new();
        for (namespace, name) in [("default", "kubernetes"), ("default", "other"), ("a", "x"), ("a", "y"), ("ab", "z")] {
            services.apply(Event::Apply(web(namespace, name)));
        }
        assert_eq!(names(&services, "a"), ["a/x", "a/y", "default/kubernetes"]);
        assert_eq!(names(&services, "default"), ["default/kubernetes", "default/other"]);
        assert_eq!(names(&services, "b"), ["default/kubernetes"]);
    }

    /// What `next` returns at once, as `name` or `-name`; None if it waits.
    fn next(changes: &mut ServiceChanges) -> Option<Vec<String>> {
        let answer = changes.next().now_or_never()?;
        Some(answer.into_iter().map(|(name, facts)| format!("{}{}", if facts.is_some() { "" } else { "-" }, name.name)).collect())
    }

    #[test]
    fn changes_begin_with_the_first_list_and_come_once() {
        let (services, mut changes) = Services::new();
        services.apply(Event::Init);
        services.apply(Event::InitApply(web("a", "x")));
        assert_eq!(next(&mut changes), None, "the list is not complete");
        assert!(services.synced().now_or_never().is_none());
        services.apply(Event::InitDone);
        assert!(services.synced().now_or_never().is_some());
        assert_eq!(next(&mut changes).unwrap(), ["x"]);
        assert_eq!(next(&mut changes), None);

        services.apply(Event::Apply(web("a", "x")));
        assert_eq!(next(&mut changes), None, "the same again");
        services.apply(Event::Apply(web("a", "y")));
        services.apply(Event::Delete(web("a", "x")));
        assert_eq!(next(&mut changes).unwrap(), ["-x", "y"]);
        services.apply(Event::Apply(service("a", "y", &json!({"clusterIP": "None"}))));
        assert_eq!(next(&mut changes).unwrap(), ["-y"], "it has become headless");
    }

    #[test]
    fn a_list_removes_what_it_does_not_name() {
        let (services, mut changes) = Services::new();
        for event in [Event::Init, Event::InitApply(web("a", "x")), Event::InitApply(web("a", "y")), Event::InitDone] {
            services.apply(event);
        }
        assert_eq!(next(&mut changes).unwrap(), ["x", "y"]);
        services.apply(Event::Init);
        services.apply(Event::InitApply(web("a", "y")));
        assert_eq!(names(&services, "a"), ["a/x", "a/y"], "a list under way removes nothing");
        services.apply(Event::InitDone);
        assert_eq!(names(&services, "a"), ["a/y"]);
        assert_eq!(next(&mut changes).unwrap(), ["-x"]);
    }

    #[test]
    fn a_tenant_without_services_is_a_first_answer_too() {
        let (services, mut changes) = Services::new();
        services.apply(Event::InitDone);
        assert_eq!(next(&mut changes).unwrap(), Vec::<String>::new());
        assert_eq!(next(&mut changes), None);
    }
}
