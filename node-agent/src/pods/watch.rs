//! The watches that drive everything: the tenant's pods on this node and the host pods made for them. Each event goes into
//! the store, then its pod into the queue; nothing is batched or delayed.

use super::names::PodKey;
use super::record::Records;
use super::status::has_ended;
use crate::tenant::Tenant;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{Config, Event};
use nestling_runtime::kube::follow;
use nestling_runtime::queue::Queue;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Called with the addresses of all pods of the tenant on this node, whenever they have changed.
pub(crate) type OnAddresses = Box<dyn Fn(&BTreeSet<IpAddr>) + Send + Sync>;

/// What both watches share.
pub(crate) struct Watches {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) queue: Arc<Queue<PodKey>>,
    pub(crate) records: Arc<Records>,
    pub(crate) on_addresses: OnAddresses,
}

impl Watches {
    /// Follows the tenant's pods on this node.
    pub(crate) async fn tenant_pods(&self, mut writer: Writer<Pod>, shutdown: CancellationToken) {
        let api: Api<Pod> = Api::all(self.tenant.kubelet.clone());
        let config = Config::default().fields(&format!("spec.nodeName={}", self.tenant.node));
        follow(api, config, "tenant pods", shutdown, |event| self.take_tenant_event(event, &mut writer)).await;
    }

    /// Follows the host pods of this tenant and node.
    pub(crate) async fn host_pods(&self, mut writer: Writer<Pod>, shutdown: CancellationToken) {
        let api: Api<Pod> = Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str());
        let config = Config::default().labels(&self.tenant.spec.host_objects(&self.tenant.node));
        let mut reported = None;
        follow(api, config, "host pods", shutdown, |event| self.take_host_event(event, &mut writer, &mut reported)).await;
    }

    pub(crate) fn take_tenant_event(&self, event: Event<Pod>, writer: &mut Writer<Pod>) {
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

    /// `reported`: the addresses that were last passed on.
    ///
    /// A worker reads the record of a pod first and the store next, at any moment in between these lines, and takes a host
    /// pod for removed when the record has `observed` one that the store does not hold. So the record follows the store when
    /// a pod appears, and precedes it when a pod goes.
    pub(crate) fn take_host_event(&self, event: Event<Pod>, writer: &mut Writer<Pod>, reported: &mut Option<BTreeSet<IpAddr>>) {
        let event = event.modify(trim);
        let mut keys = match &event {
            Event::Apply(pod) | Event::Delete(pod) => PodKey::of_host(pod).into_iter().collect(),
            Event::InitDone => self.all(),
            Event::Init | Event::InitApply(_) => Vec::new(),
        };
        if let Event::Delete(pod) = &event {
            self.host_pod_deleted(pod);
        }
        let may_change_addresses = match &event {
            Event::Apply(pod) => reported.is_none() || self.has_new_addresses(pod),
            Event::Delete(_) | Event::InitDone => true,
            Event::Init | Event::InitApply(_) => false,
        };
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(pod) => self.host_pod_observed(pod),
            // The pods of a list are in the store only now.
            Event::InitDone => {
                self.tenant.stores.host.state().iter().for_each(|pod| self.host_pod_observed(pod));
                keys.extend(self.all());
            }
            Event::Delete(_) | Event::Init | Event::InitApply(_) => {}
        }
        if may_change_addresses {
            self.report_addresses(reported);
        }
        for key in keys {
            self.queue.add(key);
        }
    }

    fn host_pod_observed(&self, pod: &Pod) {
        if let Some(key) = PodKey::of_host(pod) {
            self.records.update(&key, |record| {
                record.created = None;
                record.observed = true;
            });
        }
    }

    fn host_pod_deleted(&self, pod: &Pod) {
        if let Some(key) = PodKey::of_host(pod) {
            self.records.update(&key, |record| {
                record.created = None;
                record.last_host = Some(Arc::new(pod.clone()));
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
                    let is_newer = |written: &Arc<Pod>| version(written) > version(pod);
                    self.records.update(key, |record| record.written = record.written.take().filter(is_newer));
                }
                before.filter(|before| Some(before) != now.as_ref()).into_iter().chain(now.clone()).collect()
            }
            Event::Delete(pod) => {
                let key = PodKey::of_tenant(pod);
                if let Some(key) = &key {
                    self.records.update(key, |record| record.deleted = Some(Arc::new(pod.clone())));
                }
                key.into_iter().collect()
            }
            Event::InitDone => self.all(),
            Event::Init | Event::InitApply(_) => Vec::new(),
        }
    }

    /// Every pod that is known. Taken before and after a full list: some pods may be new in it, others may be gone without
    /// an event.
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

    /// Whether the addresses of a host pod differ from those that the store has.
    fn has_new_addresses(&self, pod: &Pod) -> bool {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let reference = ObjectRef::new(name).within(self.tenant.spec.workload_namespace.as_str());
        self.tenant.stores.host.get(&reference).map(|stored| addresses(&stored)).unwrap_or_default() != addresses(pod)
    }

    fn report_addresses(&self, reported: &mut Option<BTreeSet<IpAddr>>) {
        let now: BTreeSet<IpAddr> = self.tenant.stores.host.state().iter().flat_map(|pod| addresses(pod)).collect();
        if reported.as_ref() != Some(&now) {
            (self.on_addresses)(&now);
            *reported = Some(now);
        }
    }
}

/// The addresses that are a pod's own: none in the host's network, and none once it has ended, since the address may be
/// another pod's by then.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default();
    let Some(status) = pod.status.as_ref().filter(|_| !host_network && !has_ended(pod)) else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    listed.chain(&status.pod_ip).filter_map(|ip| ip.parse().ok()).collect()
}

/// Resource versions can be compared as numbers since Kubernetes 1.35 (KEP-5504), and were numbers before.
pub(crate) fn version(pod: &Pod) -> u64 {
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
    fn only_live_pods_with_an_own_network_have_addresses() {
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
