//! The one host node of a `SingleNode` cluster.

use super::problems::Problems;
use crate::reconcile::dereference::{Dereferenced, HostNode};
use nestling_crds::names::{NodeName, TenantUid, hash65};
use nestling_crds::v1alpha1::{Nodes, Placement};

/// The node the cluster is on already, whatever has become of it (its volume may exist only there). Else one that may
/// carry both the control plane and the tenant's pods; which one depends on the tenant, so that tenants spread.
pub(super) fn node(
    nodes: &Nodes,
    placement: &Placement,
    tenant: &TenantUid,
    reads: &Dereferenced,
    problems: &mut Problems,
) -> Option<NodeName> {
    if let Some(node) = &reads.pinned_node {
        return Some(node.clone());
    }
    let wanted = || nodes.selector.iter().chain(&placement.node_selector);
    let fits = |node: &&HostNode| node.ready && wanted().all(|(key, value)| node.labels.get(key) == Some(value));
    // Rendezvous hashing: a node that comes or goes changes the choice of few.
    let chosen = reads.host_nodes.iter().filter(fits).max_by_key(|node| hash65(&["pin", tenant.as_str(), node.name.as_str()]));
    if chosen.is_none() {
        problems.add(
            "spec.topology",
            "SingleNode needs a Ready host node with the labels of spec.nodes.selector and spec.controlPlane.placement.nodeSelector; there is none",
        );
    }
    chosen.map(|node| node.name.clone())
}
