//! One tenant on this node: its description from the operator, clients with this node's identities in the tenant, and
//! the stores that its tasks fill. [`Tenants`] is the registry in which the kubelet API looks tenants up.
//!
//! Every other part of the agent may import this file; it imports none of them.

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, Store, store::Writer};
use nestling_crds::labels;
use nestling_crds::names::{NodeName, TenantUid, WorkloadNamespace};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

/// A tenant as the operator describes it, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TenantSpec {
    pub(crate) uid: TenantUid,
    /// Namespace and name of the `VirtualCluster`, for log lines.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) workload_namespace: WorkloadNamespace,
    /// `https://<address>:<port>` of the tenant's apiserver.
    pub(crate) endpoint: String,
    /// PEM bundle that the apiserver's serving certificate chains to.
    pub(crate) ca_bundle: Vec<u8>,
    pub(crate) service_cidrs: Vec<IpNet>,
    /// The tenant's kube-dns Service.
    pub(crate) dns_address: IpAddr,
    /// The tenant's `kubernetes` Service.
    pub(crate) kubernetes_address: IpAddr,
    pub(crate) cluster_domain: String,
    /// `v1.37.2`.
    pub(crate) version: String,
    /// Caps on what the tenant sees of the node, as Kubernetes quantities.
    pub(crate) capacity: BTreeMap<String, String>,
    pub(crate) draining: bool,
    /// The pods are to be stopped, and nothing else to be done.
    pub(crate) hibernated: bool,
    /// Pods that started before were stopped for hibernation and start again.
    pub(crate) resumed_at: Option<Timestamp>,
    /// Labels of the Node beside those that every Node has.
    pub(crate) node_labels: BTreeMap<String, String>,
}

impl TenantSpec {
    /// Selects the tenant's host objects that the agent of `node` owns.
    pub(crate) fn host_objects(&self, node: &NodeName) -> String {
        format!("{}={},{}={node},{}={}", labels::TENANT, self.uid, labels::NODE, labels::MANAGED_BY, labels::AGENT)
    }
}

/// A tenant as its tasks and the kubelet API see it.
pub(crate) struct Tenant {
    pub(crate) spec: TenantSpec,
    pub(crate) node: NodeName,
    /// The tenant's API as `system:node:<node>`.
    pub(crate) kubelet: kube::Client,
    /// The tenant's API as this node's proxy (Services, EndpointSlices, ServiceCIDRs, Nodes).
    pub(crate) proxy: kube::Client,
    /// The host's API, with the agent's own rights.
    pub(crate) host: kube::Client,
    pub(crate) stores: PodStores,
}

/// The pods of one tenant on this node, both sides; filled by the `pods` task.
#[derive(Clone)]
pub(crate) struct PodStores {
    /// Tenant pods with `spec.nodeName` = this node.
    pub(crate) tenant: Store<Pod>,
    /// Host pods in the workload namespace labelled with this tenant and node.
    pub(crate) host: Store<Pod>,
}

/// The writing ends of [`PodStores`].
pub(crate) struct StoreWriters {
    pub(crate) tenant: Writer<Pod>,
    pub(crate) host: Writer<Pod>,
}

impl PodStores {
    /// Empty stores, to be filled once.
    pub(crate) fn new() -> (Self, StoreWriters) {
        let (tenant, tenant_writer) = reflector::store();
        let (host, host_writer) = reflector::store();
        (Self { tenant, host }, StoreWriters { tenant: tenant_writer, host: host_writer })
    }
}

/// The tenants that this node serves now, by UID.
#[derive(Clone, Default)]
pub(crate) struct Tenants(Arc<RwLock<HashMap<TenantUid, Arc<Tenant>>>>);

impl Tenants {
    pub(crate) fn get(&self, uid: &TenantUid) -> Option<Arc<Tenant>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(uid).cloned()
    }

    pub(crate) fn insert(&self, tenant: Arc<Tenant>) {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(tenant.spec.uid.clone(), tenant);
    }

    pub(crate) fn remove(&self, uid: &TenantUid) -> Option<Arc<Tenant>> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(uid)
    }
}
