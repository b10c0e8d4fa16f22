//! The tenants to serve and the nodes that serve them, computed from the stores and published as a whole.
//!
//! An agent removes the pods of a tenant that is missing. So a tenant leaves the snapshot only when its `VirtualCluster` is
//! gone or being deleted; one that cannot be read right now stays as it was, and one that is missing is named, so that agents keep
//! what they have of it.

use crate::control::authorities::Authorities;
use crate::host::{Cluster, ServedStores};
use crate::model::names;
use crate::model::names::PINNED_NODE;
use crate::model::{HostNode, host_url, keys};
use crate::reconcile::validate;
use ipnet::Ipv4Net;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use nestling_control_api::v1alpha1 as api;
use nestling_crds::names::{NodeName, TenantUid};
use nestling_crds::v1alpha1::{HibernatedPods, NodeSelector, Topology, VirtualCluster};
use nestling_runtime::error::chain;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// All tenants and nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TenantSnapshot {
    pub(crate) tenants: BTreeMap<TenantUid, Arc<Assignment>>,
    pub(crate) nodes: BTreeMap<NodeName, Arc<HostNode>>,
    /// Tenants that exist and are not in `tenants`: they cannot be described, or not yet.
    pub(crate) undescribed: BTreeSet<TenantUid>,
    /// Tenants that are missing or out of date, and why.
    pub(crate) failed: BTreeMap<TenantUid, String>,
}

/// A tenant with the nodes that serve it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assignment {
    /// As sent to agents.
    pub(crate) tenant: api::Tenant,
    pub(crate) nodes: Nodes,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Nodes {
    /// All that match.
    Selected(NodeSelector),
    /// This one.
    Pinned(NodeName),
}

impl Assignment {
    pub(crate) fn is_on(&self, node: &HostNode) -> bool {
        match &self.nodes {
            Nodes::Selected(selector) => selector.matches(&node.labels),
            Nodes::Pinned(name) => *name == node.name,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error("this version of the operator cannot decode the VirtualCluster: {0}")]
    Decode(String),
    #[error("its CA cannot be read")]
    Secret(#[source] kube::Error),
    #[error("it has no {0}")]
    Missing(&'static str),
}

/// Pause before a tenant that could not be read is read again.
const RETRY: Duration = Duration::from_secs(1);

/// Publishes a snapshot after each change of the stores, until shutdown. To be started when the stores are filled.
pub(crate) async fn maintain(
    stores: ServedStores,
    authorities: Arc<Authorities>,
    changed: Arc<Notify>,
    publish: watch::Sender<Arc<TenantSnapshot>>,
    shutdown: CancellationToken,
) {
    loop {
        let previous = publish.borrow().clone();
        let next = snapshot(&stores, &authorities, &previous).await;
        let retry = !next.failed.is_empty();
        if next != *previous {
            publish.send_replace(Arc::new(next));
        }
        let wait = async {
            if retry {
                // The time-out counts as a change.
                let _ = tokio::time::timeout(RETRY, changed.notified()).await;
            } else {
                changed.notified().await;
            }
        };
        if shutdown.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

async fn snapshot(stores: &ServedStores, authorities: &Authorities, previous: &TenantSnapshot) -> TenantSnapshot {
    let mut next = TenantSnapshot::default();
    for node in stores.nodes.state() {
        let node = HostNode::from(&*node);
        next.nodes.insert(node.name.clone(), unchanged_or_new(previous.nodes.get(&node.name), node));
    }
    let clusters = stores.clusters.state();
    authorities.retain(&clusters.iter().filter_map(|cluster| cluster.uid()).map(TenantUid::new).collect::<HashSet<_>>());
    for cluster in clusters {
        let Some(uid) = cluster.uid().map(TenantUid::new) else { continue };
        if cluster.meta().deletion_timestamp.is_some() {
            continue;
        }
        let known = previous.tenants.get(&uid);
        next.undescribed.insert(uid.clone());
        match assignment(&cluster, &uid, stores, authorities).await {
            Ok(Some(assignment)) => {
                next.tenants.insert(uid, unchanged_or_new(known, assignment));
            }
            Ok(None) => {
                next.tenants.extend(known.map(|known| (uid, known.clone())));
            }
            Err(error) => {
                let why = chain(&error);
                if previous.failed.get(&uid) != Some(&why) {
                    tracing::warn!(cluster = %ObjectRef::from_obj(&*cluster), error = why, "cannot read a tenant; agents keep what they have, retrying");
                }
                next.failed.insert(uid.clone(), why);
                next.tenants.extend(known.map(|known| (uid, known.clone())));
            }
        }
    }
    next.undescribed.retain(|uid| !next.tenants.contains_key(uid));
    next
}

/// Keeps the allocation of what has not changed, so that streams compare by pointer first.
fn unchanged_or_new<T: PartialEq>(old: Option<&Arc<T>>, new: T) -> Arc<T> {
    old.filter(|old| ***old == new).cloned().unwrap_or_else(|| Arc::new(new))
}

/// `None` while the cluster cannot be served yet: its status has no endpoint.
async fn assignment(
    cluster: &Cluster,
    uid: &TenantUid,
    stores: &ServedStores,
    authorities: &Authorities,
) -> Result<Option<Assignment>, SnapshotError> {
    let cluster = cluster.0.as_ref().map_err(|invalid| SnapshotError::Decode(invalid.error.clone()))?;
    let Some(status) = cluster.status.as_ref().filter(|status| status.endpoint.is_some()) else { return Ok(None) };
    let (Some(namespace), name) = (cluster.namespace(), cluster.name_any()) else { return Ok(None) };
    let Some(nodes) = nodes(cluster, &namespace, &name, stores) else { return Ok(None) };

    let service = stores.services.get(&ObjectRef::new(&names::apiserver(&name)).within(&namespace));
    let endpoint = service.as_deref().and_then(host_url).ok_or(SnapshotError::Missing("Service with an address"))?;
    let range: Ipv4Net =
        status.service_cidrs.first().and_then(|range| range.parse().ok()).ok_or(SnapshotError::Missing("service range"))?;
    let version = cluster.metadata.resource_version.as_deref();
    let ca = authorities.of(uid, version, &namespace, &name).await.map_err(SnapshotError::Secret)?;
    let ca_bundle = ca.and_then(|ca| ca.data.as_ref()?.get(keys::CA).map(|bundle| bundle.0.clone()));
    let tenant = api::Tenant {
        uid: uid.to_string(),
        namespace,
        name,
        workload_namespace: status.workload_namespace.clone().ok_or(SnapshotError::Missing("workload namespace"))?,
        endpoint,
        ca_bundle: ca_bundle.ok_or(SnapshotError::Missing("CA"))?,
        service_cidrs: vec![range.to_string()],
        dns_address: address(range, validate::DNS_INDEX)?,
        kubernetes_address: address(range, 1)?,
        cluster_domain: cluster.spec.network.cluster_domain.clone(),
        version: status.version.clone().ok_or(SnapshotError::Missing("version"))?,
        capacity: cluster.spec.nodes.capacity.iter().map(|(resource, quantity)| (resource.clone(), quantity.0.clone())).collect(),
        node_labels: cluster.spec.nodes.labels.clone().into_iter().collect(),
        draining: false,
        // By the status, which says when it was resumed with the same write.
        hibernated: cluster.spec.hibernated_pods == HibernatedPods::Stop && status.is_hibernated(),
        resumed_at: status.resumed_at.as_ref().map_or(0, |time| time.0.as_second()),
    };
    Ok(Some(Assignment { tenant, nodes }))
}

fn address(range: Ipv4Net, index: u32) -> Result<String, SnapshotError> {
    validate::nth(range, index).map(|address| address.to_string()).ok_or(SnapshotError::Missing("room in its service range"))
}

/// `None` while a `SingleNode` cluster has no node yet.
fn nodes(cluster: &VirtualCluster, namespace: &str, name: &str, stores: &ServedStores) -> Option<Nodes> {
    if cluster.spec.topology != Topology::SingleNode {
        return Some(Nodes::Selected(cluster.spec.nodes.selector.clone()));
    }
    let set = stores.stateful_sets.get(&ObjectRef::new(&names::control_plane(name)).within(namespace))?;
    set.annotations().get(PINNED_NODE).map(|node| Nodes::Pinned(NodeName::new(node)))
}

#[cfg(test)]
mod tests;
