//! The watches that drive everything: the tenant's pods on this node and the host pods that realize them. Each event goes
//! into the store, then its pod into the queue; nothing is batched or delayed.

use super::backoff::RetryBackoff;
use super::key::PodKey;
use super::ownership;
use super::queue::Queue;
use super::record::Records;
use super::status::is_terminal;
use crate::tenant::Tenant;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Feeds the events of a watch to `act` until `shutdown`, through all failures.
pub async fn follow<K>(api: Api<K>, config: Config, what: &'static str, shutdown: CancellationToken, mut act: impl FnMut(Event<K>))
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = pin!(watcher(api, config).backoff(RetryBackoff::watch()));
    let mut failing = false;
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        match event {
            Ok(event) => {
                failing = false;
                act(event);
            }
            // The backoff keeps retrying; a long outage is told once.
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(what, %error, "watch failed, retrying");
            }
            Err(error) => tracing::debug!(what, %error, "watch failed again"),
        }
    }
}

/// What both watches share.
pub struct Watches {
    pub tenant: Arc<Tenant>,
    pub queue: Arc<Queue<PodKey>>,
    pub records: Arc<Records>,
    pub on_addresses: Box<dyn Fn(&BTreeSet<IpAddr>) + Send + Sync>,
}

impl Watches {
    /// Follows the tenant's pods on this node.
    pub async fn tenant_pods(&self, mut writer: Writer<Pod>, shutdown: CancellationToken) {
        let api: Api<Pod> = Api::all(self.tenant.kubelet.clone());
        let config = Config::default().fields(&format!("spec.nodeName={}", self.tenant.node));
        follow(api, config, "tenant pods", shutdown, |event| self.take_tenant_event(event, &mut writer)).await;
    }

    /// Follows the host pods of this tenant and node.
    pub async fn host_pods(&self, mut writer: Writer<Pod>, shutdown: CancellationToken) {
        let api: Api<Pod> = Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str());
        let config = Config::default().labels(&ownership::selector(&self.tenant));
        let mut told = None;
        follow(api, config, "host pods", shutdown, |event| self.take_host_event(event, &mut writer, &mut told)).await;
    }

    pub fn take_tenant_event(&self, event: Event<Pod>, writer: &mut Writer<Pod>) {
        let event = event.modify(trim);
        let mut keys = self.tenant_keys(&event);
        writer.apply_watcher_event(&event);
        if matches!(event, Event::InitDone) {
            keys.extend(self.all());
        }
        for key in keys {
            self.queue.add(key);
        }
    }

    /// `told`: the addresses that the proxy was last told.
    ///
    /// A worker reads the record of a pod first and the store next, at any moment in between these lines, and takes a host
    /// pod for removed when the record has `seen` one that the store has not. So the record follows the store when a pod
    /// appears, and precedes it when a pod goes.
    pub fn take_host_event(&self, event: Event<Pod>, writer: &mut Writer<Pod>, told: &mut Option<BTreeSet<IpAddr>>) {
        let event = event.modify(trim);
        let mut keys = self.host_keys(&event);
        if let Event::Delete(pod) = &event {
            self.host_pod_removed(pod);
        }
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(pod) => self.host_pod_shown(pod),
            // The pods of a list are in the store only now.
            Event::InitDone => {
                self.tenant.stores.host.state().iter().for_each(|pod| self.host_pod_shown(pod));
                keys.extend(self.all());
            }
            Event::Delete(_) | Event::Init | Event::InitApply(_) => {}
        }
        if !matches!(event, Event::Init | Event::InitApply(_)) {
            self.tell_sources(told);
        }
        for key in keys {
            self.queue.add(key);
        }
    }

    fn host_pod_shown(&self, pod: &Pod) {
        if let Some(key) = PodKey::of_host(pod) {
            self.records.update(&key, |record| {
                record.made = None;
                record.seen = true;
            });
        }
    }

    fn host_pod_removed(&self, pod: &Pod) {
        if let Some(key) = PodKey::of_host(pod) {
            self.records.update(&key, |record| {
                record.made = None;
                record.last = Some(Arc::new(pod.clone()));
            });
        }
    }

    /// The pods that an event concerns; called before the store takes it.
    fn tenant_keys(&self, event: &Event<Pod>) -> Vec<PodKey> {
        match event {
            Event::Apply(pod) => {
                // A pod that replaced another of its name: the other is gone.
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let reference = ObjectRef::new(name).within(pod.metadata.namespace.as_deref().unwrap_or_default());
                let before = self.tenant.stores.tenant.get(&reference).and_then(|pod| PodKey::of_tenant(&pod));
                let now = PodKey::of_tenant(pod);
                if let Some(key) = &now {
                    self.records.update(key, |record| record.posted = record.posted.take().filter(|posted| version(posted) > version(pod)));
                }
                before.filter(|before| Some(before) != now.as_ref()).into_iter().chain(now.clone()).collect()
            }
            Event::Delete(pod) => {
                let key = PodKey::of_tenant(pod);
                if let Some(key) = &key {
                    self.records.update(key, |record| record.departed = Some(Arc::new(pod.clone())));
                }
                key.into_iter().collect()
            }
            Event::InitDone => self.all(),
            Event::Init | Event::InitApply(_) => Vec::new(),
        }
    }

    fn host_keys(&self, event: &Event<Pod>) -> Vec<PodKey> {
        match event {
            Event::Apply(pod) | Event::Delete(pod) => PodKey::of_host(pod).into_iter().collect(),
            Event::InitDone => self.all(),
            Event::Init | Event::InitApply(_) => Vec::new(),
        }
    }

    /// Every pod that anybody knows of. Asked before and after a full list is taken: some pods may be new in it, others may
    /// have vanished without an event.
    fn all(&self) -> Vec<PodKey> {
        let stores = &self.tenant.stores;
        let tenant = stores.tenant.state();
        let host = stores.host.state();
        let keys: BTreeSet<PodKey> = tenant
            .iter()
            .filter_map(|pod| PodKey::of_tenant(pod))
            .chain(host.iter().filter_map(|pod| PodKey::of_host(pod)))
            .chain(self.records.keys())
            .collect();
        keys.into_iter().collect()
    }

    /// The addresses that the proxy has to treat as this tenant's.
    fn tell_sources(&self, told: &mut Option<BTreeSet<IpAddr>>) {
        let now: BTreeSet<IpAddr> = self.tenant.stores.host.state().iter().flat_map(|pod| addresses(pod)).collect();
        if told.as_ref() != Some(&now) {
            (self.on_addresses)(&now);
            *told = Some(now);
        }
    }
}

/// The addresses that are a pod's own: none in the host's network, and none once it has ended, since the address may be
/// another pod's by then.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default();
    let Some(status) = pod.status.as_ref().filter(|status| !host_network && !is_terminal(status.phase.as_ref())) else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    listed.chain(&status.pod_ip).filter_map(|ip| ip.parse().ok()).collect()
}

/// Resource versions can be compared as numbers since Kubernetes 1.35 (KEP-5504), and were numbers before.
pub fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Managed fields are about half of a pod's metadata and of no use here.
fn trim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_live_pods_with_an_own_network_are_sources() {
        let pod = |host_network: bool, phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {}, "spec": {"containers": [], "hostNetwork": host_network},
                "status": {"phase": phase, "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00::2"}]},
            }))
            .unwrap()
        };
        let unique: BTreeSet<IpAddr> = addresses(&pod(false, "Running")).into_iter().collect();
        assert_eq!(unique, BTreeSet::from(["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]));
        assert!(addresses(&pod(true, "Running")).is_empty());
        assert!(addresses(&pod(false, "Succeeded")).is_empty());
    }
}
