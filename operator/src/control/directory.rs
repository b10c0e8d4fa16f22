//! Which tenants there are to serve, and where. Kept from the stores, published whole.
//!
//! An agent takes a tenant that it is not told of for gone and removes its pods. So a tenant leaves the directory only when
//! its `VirtualCluster` is gone or being deleted; one that cannot be read right now stays as it was, and a directory that
//! lacks one is marked incomplete.

use crate::network::service_range;
use crate::pki;
use crate::reconcile::build::members::PINNED_NODE;
use crate::reconcile::build::names;
use crate::reconcile::dereference::HostNode;
use crate::reconcile::error_chain;
use crate::stores::secrets::Secrets;
use crate::stores::{Cluster, Stores};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use nestling_control_api::v1alpha1 as api;
use nestling_crds::names::{NodeName, TenantUid};
use nestling_crds::v1alpha1::{Topology, VirtualCluster};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Everything that is served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Directory {
    pub tenants: BTreeMap<TenantUid, Arc<Served>>,
    pub nodes: BTreeMap<NodeName, Arc<HostNode>>,
    /// No tenant is missing.
    pub complete: bool,
    /// Tenants that could not be read anew, and why.
    pub unreadable: BTreeMap<TenantUid, String>,
}

/// A tenant with the nodes that serve it.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// As agents are told.
    pub tenant: api::Tenant,
    pub nodes: Nodes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// All with these labels.
    Labelled(BTreeMap<String, String>),
    /// This one.
    Pinned(NodeName),
}

impl Served {
    pub fn is_on(&self, node: &HostNode) -> bool {
        match &self.nodes {
            Nodes::Labelled(labels) => labels.iter().all(|(key, value)| node.labels.get(key) == Some(value)),
            Nodes::Pinned(name) => *name == node.name,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("this version of the operator cannot read the VirtualCluster: {0}")]
    Cluster(String),
    #[error("its CA cannot be read")]
    Secret(#[source] kube::Error),
    #[error("it has no {0}")]
    Missing(&'static str),
}

/// Pause before something that could not be read is read again.
const RETRY: Duration = Duration::from_secs(1);

/// Publishes the directory after each change of the stores, until `stop`. To be started when the stores are filled.
pub async fn maintain(
    stores: Stores,
    secrets: Arc<Secrets>,
    changed: Arc<Notify>,
    out: watch::Sender<Arc<Directory>>,
    stop: CancellationToken,
) {
    loop {
        let previous = out.borrow().clone();
        let next = read(&stores, &secrets, &previous).await;
        let retry = !next.unreadable.is_empty();
        if next != *previous {
            out.send_replace(Arc::new(next));
        }
        let wait = async {
            if retry {
                // A time-out is as good as a change here.
                let _ = tokio::time::timeout(RETRY, changed.notified()).await;
            } else {
                changed.notified().await;
            }
        };
        if stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

async fn read(stores: &Stores, secrets: &Secrets, previous: &Directory) -> Directory {
    let mut next = Directory { complete: true, ..Directory::default() };
    for node in stores.nodes.state() {
        let node = HostNode::from(&*node);
        next.nodes.insert(node.name.clone(), unchanged_or_new(previous.nodes.get(&node.name), node));
    }
    for cluster in stores.clusters.state() {
        let Some(uid) = cluster.uid().map(TenantUid::new) else { continue };
        if cluster.meta().deletion_timestamp.is_some() {
            continue;
        }
        let known = previous.tenants.get(&uid);
        match describe(&cluster, &uid, stores, secrets).await {
            Ok(Some(served)) => {
                next.tenants.insert(uid, unchanged_or_new(known, served));
            }
            Ok(None) => {
                next.tenants.extend(known.map(|known| (uid, known.clone())));
            }
            Err(error) => {
                let why = error_chain(&error);
                if previous.unreadable.get(&uid) != Some(&why) {
                    tracing::warn!(cluster = %ObjectRef::from_obj(&*cluster), error = why, "cannot tell agents of a tenant");
                }
                next.unreadable.insert(uid.clone(), why);
                next.complete &= known.is_some();
                next.tenants.extend(known.map(|known| (uid, known.clone())));
            }
        }
    }
    next
}

/// Keeps the old allocation of what has not changed, so that streams see by pointer that there is nothing to tell.
fn unchanged_or_new<T: PartialEq>(old: Option<&Arc<T>>, new: T) -> Arc<T> {
    old.filter(|old| ***old == new).cloned().unwrap_or_else(|| Arc::new(new))
}

/// `None` while the cluster is not far enough along to be served: its status has no endpoint yet.
async fn describe(cluster: &Cluster, uid: &TenantUid, stores: &Stores, secrets: &Secrets) -> Result<Option<Served>, Unreadable> {
    let cluster = cluster.0.as_ref().map_err(|invalid| Unreadable::Cluster(invalid.error.clone()))?;
    let Some(status) = cluster.status.as_ref().filter(|status| status.endpoint.is_some()) else { return Ok(None) };
    let (Some(namespace), name) = (cluster.namespace(), cluster.name_any()) else { return Ok(None) };
    let Some(nodes) = nodes(cluster, &namespace, &name, stores) else { return Ok(None) };

    let service = stores.services.get(&ObjectRef::new(&names::apiserver(&name)).within(&namespace));
    let endpoint = service.as_deref().and_then(host_url).ok_or(Unreadable::Missing("Service with an address"))?;
    let range: Ipv4Net = status.service_cidr.as_ref().and_then(|range| range.parse().ok()).ok_or(Unreadable::Missing("service range"))?;
    let ca = secrets.get(&namespace, &names::ca(&name)).await.map_err(Unreadable::Secret)?;
    let ca_bundle = ca.and_then(|ca| ca.data.as_ref()?.get(pki::keys::CA).map(|bundle| bundle.0.clone()));
    let tenant = api::Tenant {
        uid: uid.to_string(),
        namespace,
        name,
        workload_namespace: status.workload_namespace.clone().ok_or(Unreadable::Missing("workload namespace"))?,
        endpoint,
        ca_bundle: ca_bundle.ok_or(Unreadable::Missing("CA"))?,
        service_cidrs: vec![range.to_string()],
        dns_address: address(range, service_range::DNS_INDEX)?,
        kubernetes_address: address(range, 1)?,
        cluster_domain: cluster.spec.network.cluster_domain.clone(),
        version: status.version.clone().ok_or(Unreadable::Missing("version"))?,
        capacity: cluster.spec.nodes.capacity.iter().map(|(resource, quantity)| (resource.clone(), quantity.0.clone())).collect(),
        draining: false,
    };
    Ok(Some(Served { tenant, nodes }))
}

fn address(range: Ipv4Net, index: u32) -> Result<String, Unreadable> {
    service_range::nth(&range, index).map(|address| address.to_string()).ok_or(Unreadable::Missing("room in its service range"))
}

/// `None` while a `SingleNode` cluster has no node yet.
fn nodes(cluster: &VirtualCluster, namespace: &str, name: &str, stores: &Stores) -> Option<Nodes> {
    if cluster.spec.topology != Topology::SingleNode {
        return Some(Nodes::Labelled(cluster.spec.nodes.selector.clone()));
    }
    let set = stores.stateful_sets.get(&ObjectRef::new(&names::control_plane(name)).within(namespace))?;
    set.annotations().get(PINNED_NODE).map(|node| Nodes::Pinned(NodeName::new(node)))
}

/// Where host programs reach the tenant's API: by address, because host DNS may not be there for them.
fn host_url(service: &Service) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let address: std::net::IpAddr = spec.cluster_ip.as_ref()?.parse().ok()?;
    let port = u16::try_from(spec.ports.as_ref()?.first()?.port).ok()?;
    Some(format!("https://{}", std::net::SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests;
