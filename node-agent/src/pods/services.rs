//! The tenant's Services as far as pods see them in their environment. Only that is kept: a node must not hold every
//! Service object of every tenant.

use super::watch::follow;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::watcher::{Config, Event};
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A Service with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    pub namespace: String,
    pub name: String,
    pub cluster_ip: String,
    pub ports: Vec<PortFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    pub name: Option<String>,
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

impl ServiceFacts {
    /// None for headless Services and those without an address, which appear in no environment.
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let cluster_ip = spec.cluster_ip.clone().filter(|ip| !ip.is_empty() && ip != "None")?;
        let ports = spec.ports.iter().flatten().map(|port| PortFacts {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: port.port,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        });
        Some(Self {
            namespace: service.metadata.namespace.clone()?,
            name: service.metadata.name.clone()?,
            cluster_ip,
            ports: ports.collect(),
        })
    }
}

/// All Services of a tenant, by namespace and name.
#[derive(Debug)]
pub struct Services {
    known: RwLock<BTreeMap<String, BTreeMap<String, ServiceFacts>>>,
    synced: watch::Sender<bool>,
}

impl Services {
    pub fn new() -> Self {
        Self { known: RwLock::default(), synced: watch::channel(false).0 }
    }

    /// The Services that pods in `namespace` can see: the namespace's own and `default/kubernetes`.
    pub fn visible_from(&self, namespace: &str) -> Vec<ServiceFacts> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let own = known.get(namespace).into_iter().flat_map(BTreeMap::values);
        let kubernetes = (namespace != "default").then(|| known.get("default")?.get("kubernetes")).flatten();
        own.chain(kubernetes).cloned().collect()
    }

    /// Waits until the tenant's Services have been read once. A kubelet starts no pod before that either.
    pub async fn synced(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        drop(self.synced.subscribe().wait_for(|synced| *synced).await.map(drop));
    }

    /// Follows the tenant's Services until `shutdown`.
    pub async fn run(&self, client: kube::Client, shutdown: CancellationToken) {
        let mut listing = BTreeMap::new();
        let api: Api<Service> = Api::all(client);
        follow(api, Config::default(), "services", shutdown, |event| self.apply(event, &mut listing)).await;
    }

    fn apply(&self, event: Event<Service>, listing: &mut BTreeMap<String, BTreeMap<String, ServiceFacts>>) {
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(service) => put(listing, &service),
            Event::InitDone => {
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = std::mem::take(listing);
                self.synced.send_replace(true);
            }
            Event::Apply(service) => put(&mut self.known.write().unwrap_or_else(PoisonError::into_inner), &service),
            Event::Delete(service) => take(&mut self.known.write().unwrap_or_else(PoisonError::into_inner), &service),
        }
    }
}

impl Default for Services {
    fn default() -> Self {
        Self::new()
    }
}

fn put(known: &mut BTreeMap<String, BTreeMap<String, ServiceFacts>>, service: &Service) {
    match ServiceFacts::of(service) {
        Some(facts) => drop(known.entry(facts.namespace.clone()).or_default().insert(facts.name.clone(), facts)),
        None => take(known, service),
    }
}

fn take(known: &mut BTreeMap<String, BTreeMap<String, ServiceFacts>>, service: &Service) {
    let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else { return };
    if let Some(services) = known.get_mut(namespace) {
        services.remove(name);
        if services.is_empty() {
            known.remove(namespace);
        }
    }
}
