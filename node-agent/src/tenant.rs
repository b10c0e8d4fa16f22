//! One tenant on this node: its description from the operator, clients with this node's identities in the tenant, and
//! the stores that its tasks fill. [`Tenants`] is the registry in which the kubelet API looks tenants up.
//!
//! Every other part of the agent may import this file; it imports none of them.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, Store, store::Writer};
use nestling_crds::names::{NodeName, TenantUid, WorkloadNamespace};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

/// The port of the kubelet API, in the `daemonEndpoints` of every tenant's Node.
pub const KUBELET_PORT: u16 = 10350;

/// A tenant as the operator describes it, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSpec {
    pub uid: TenantUid,
    /// Namespace and name of the `VirtualCluster`, for log lines.
    pub namespace: String,
    pub name: String,
    pub workload_namespace: WorkloadNamespace,
    /// `https://<address>:<port>` of the tenant's apiserver.
    pub endpoint: String,
    /// PEM bundle that the apiserver's serving certificate chains to.
    pub ca_bundle: Vec<u8>,
    pub service_cidrs: Vec<IpNet>,
    /// The tenant's kube-dns Service.
    pub dns_address: IpAddr,
    /// The tenant's `kubernetes` Service.
    pub kubernetes_address: IpAddr,
    pub cluster_domain: String,
    /// `v1.37.2`.
    pub version: String,
    /// Caps on what the tenant sees of the node, as Kubernetes quantities.
    pub capacity: BTreeMap<String, String>,
    pub draining: bool,
    /// Labels of the Node beside those that every Node has.
    pub node_labels: BTreeMap<String, String>,
}

/// A tenant as its tasks and the kubelet API see it.
pub struct Tenant {
    pub spec: TenantSpec,
    pub node: NodeName,
    /// The tenant's API as `system:node:<node>`.
    pub kubelet: kube::Client,
    /// The tenant's API as this node's proxy (Services, EndpointSlices, ServiceCIDRs, Nodes).
    pub proxy: kube::Client,
    /// The host's API, with the agent's own rights.
    pub host: kube::Client,
    pub stores: PodStores,
}

/// The pods of one tenant on this node, both sides; filled by the `pods` task.
#[derive(Clone)]
pub struct PodStores {
    /// Tenant pods with `spec.nodeName` = this node.
    pub tenant: Store<Pod>,
    /// Host pods in the workload namespace labelled with this tenant and node.
    pub host: Store<Pod>,
}

/// The writing ends of [`PodStores`].
pub struct StoreWriters {
    pub tenant: Writer<Pod>,
    pub host: Writer<Pod>,
}

impl PodStores {
    /// Empty stores, to be filled once.
    pub fn new() -> (Self, StoreWriters) {
        let (tenant, tenant_writer) = reflector::store();
        let (host, host_writer) = reflector::store();
        (Self { tenant, host }, StoreWriters { tenant: tenant_writer, host: host_writer })
    }
}

/// The tenants that this node serves now, by UID.
#[derive(Clone, Default)]
pub struct Tenants(Arc<RwLock<HashMap<TenantUid, Arc<Tenant>>>>);

impl Tenants {
    pub fn get(&self, uid: &TenantUid) -> Option<Arc<Tenant>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(uid).cloned()
    }

    pub fn insert(&self, tenant: Arc<Tenant>) {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(tenant.spec.uid.clone(), tenant);
    }

    pub fn remove(&self, uid: &TenantUid) -> Option<Arc<Tenant>> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(uid)
    }

    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect()
    }
}
