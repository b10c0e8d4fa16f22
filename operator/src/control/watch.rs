//! The events of one open stream: the difference between what it has sent and a snapshot. Pure.

use super::snapshot::{Assignment, TenantSnapshot};
use nestling_control_api::consts;
use nestling_control_api::v1alpha1::watch_event::Event;
use nestling_control_api::v1alpha1::{CloudNode, CloudNodes, NodeAddress, Removed, Synced, WatchEvent};
use nestling_crds::names::{NodeName, TenantUid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a stream has sent to an agent.
#[derive(Debug)]
pub(super) struct TenantStream {
    node: NodeName,
    sent: BTreeMap<TenantUid, Arc<Assignment>>,
    synced: bool,
}

impl TenantStream {
    pub(super) fn new(node: NodeName) -> Self {
        Self { node, sent: BTreeMap::new(), synced: false }
    }

    /// The events that bring the caller up to date. `Synced` is sent once, after all tenants of the first snapshot: the
    /// caller then drops the tenants that it did not receive, except those that exist and could not be described.
    pub(super) fn update(&mut self, snapshot: &TenantSnapshot) -> Vec<WatchEvent> {
        // The stores may not have a new node yet, which does not mean that it serves no tenant.
        let Some(node) = snapshot.nodes.get(&self.node) else { return Vec::new() };
        let is_assigned = |assignment: &&Arc<Assignment>| assignment.is_on(node);
        let mut events = Vec::new();
        self.sent.retain(|uid, _| {
            let stays = snapshot.tenants.get(uid).is_some_and(|assignment| is_assigned(&assignment));
            if !stays {
                events.push(Event::Remove(Removed { uid: uid.to_string() }));
            }
            stays
        });
        for (uid, assignment) in snapshot.tenants.iter().filter(|(_, assignment)| is_assigned(assignment)) {
            let same = self.sent.get(uid).is_some_and(|sent| Arc::ptr_eq(sent, assignment) || sent.tenant == assignment.tenant);
            if !same {
                events.push(Event::Upsert(assignment.tenant.clone()));
            }
            self.sent.insert(uid.clone(), assignment.clone());
        }
        if !self.synced {
            self.synced = true;
            let undescribed = snapshot.undescribed.iter().map(ToString::to_string).collect();
            events.push(Event::Synced(Synced { undescribed }));
        }
        events.into_iter().map(|event| WatchEvent { event: Some(event) }).collect()
    }
}

/// The nodes that serve a tenant, as its cloud; `None` while the tenant is not served (yet, or any more).
pub(super) fn cloud_nodes(snapshot: &TenantSnapshot, uid: &TenantUid) -> Option<CloudNodes> {
    let assignment = snapshot.tenants.get(uid)?;
    let nodes = snapshot.nodes.values().filter(|node| assignment.is_on(node)).map(|node| CloudNode {
        name: node.name.to_string(),
        provider_id: node.provider_id.clone().unwrap_or_else(|| consts::provider_id(node.name.as_str())),
        zone: node.zone.clone().unwrap_or_default(),
        region: node.region.clone().unwrap_or_default(),
        instance_type: node.instance_type.clone().unwrap_or_default(),
        addresses: node
            .addresses
            .iter()
            .map(|address| NodeAddress { r#type: address.type_.clone(), address: address.address.clone() })
            .collect(),
    });
    Some(CloudNodes { nodes: nodes.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::snapshot::Nodes;
    use crate::model::HostNode;
    use nestling_control_api::v1alpha1::Tenant;
    use nestling_crds::v1alpha1::NodeSelector;

    fn node(name: &str, labels: &[(&str, &str)]) -> (NodeName, Arc<HostNode>) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        (NodeName::new(name), Arc::new(HostNode { labels, ..HostNode::named(name) }))
    }

    fn tenant(uid: &str, version: &str, nodes: Nodes) -> (TenantUid, Arc<Assignment>) {
        let tenant = Tenant { uid: uid.into(), version: version.into(), ..Tenant::default() };
        (TenantUid::new(uid), Arc::new(Assignment { tenant, nodes }))
    }

    fn all() -> Nodes {
        Nodes::Selected(NodeSelector::default())
    }

    fn short(events: &[WatchEvent]) -> Vec<String> {
        let one = |event: &WatchEvent| match event.event.as_ref().unwrap() {
            Event::Upsert(tenant) => format!("+{}@{}", tenant.uid, tenant.version),
            Event::Remove(removed) => format!("-{}", removed.uid),
            Event::Synced(_) => "synced".into(),
        };
        events.iter().map(one).collect()
    }

    #[test]
    fn the_full_set_then_synced_then_changes() {
        let gpu = Nodes::Selected(NodeSelector { match_labels: [("gpu".to_owned(), "yes".to_owned())].into(), ..NodeSelector::default() });
        let mut snapshot = TenantSnapshot {
            tenants: [tenant("a", "1", all()), tenant("b", "1", gpu), tenant("c", "1", Nodes::Pinned(NodeName::new("n1")))].into(),
            nodes: [node("n1", &[]), node("n2", &[("gpu", "yes")])].into(),
            ..TenantSnapshot::default()
        };
        let mut n1 = TenantStream::new(NodeName::new("n1"));
        let mut n2 = TenantStream::new(NodeName::new("n2"));
        assert_eq!(short(&n1.update(&snapshot)), ["+a@1", "+c@1", "synced"]);
        assert_eq!(short(&n2.update(&snapshot)), ["+a@1", "+b@1", "synced"]);
        assert!(n1.update(&snapshot).is_empty());

        snapshot.tenants.extend([tenant("a", "2", all())]);
        assert_eq!(short(&n1.update(&snapshot)), ["+a@2"]);
        snapshot.nodes.extend([node("n2", &[])]);
        assert_eq!(short(&n2.update(&snapshot)), ["-b", "+a@2"]);
        snapshot.tenants.remove(&TenantUid::new("c"));
        assert_eq!(short(&n1.update(&snapshot)), ["-c"]);
    }

    #[test]
    fn a_tenant_that_cannot_be_described_withholds_nothing_and_is_named() {
        let snapshot = TenantSnapshot {
            tenants: [tenant("a", "1", all())].into(),
            nodes: [node("n1", &[])].into(),
            undescribed: [TenantUid::new("b")].into(),
            ..TenantSnapshot::default()
        };
        let events = TenantStream::new(NodeName::new("n1")).update(&snapshot);
        assert_eq!(short(&events), ["+a@1", "synced"]);
        assert_eq!(events[1].event, Some(Event::Synced(Synced { undescribed: vec!["b".into()] })));
    }

    #[test]
    fn a_node_that_the_stores_lack_waits() {
        let mut snapshot = TenantSnapshot { tenants: [tenant("a", "1", all())].into(), ..TenantSnapshot::default() };
        let mut unknown_node = TenantStream::new(NodeName::new("new"));
        assert!(unknown_node.update(&snapshot).is_empty());
        snapshot.nodes.extend([node("new", &[])]);
        assert_eq!(short(&unknown_node.update(&snapshot)), ["+a@1", "synced"]);
    }

    #[test]
    fn a_host_without_provider_ids_gets_generated_ones() {
        let snapshot =
            TenantSnapshot { tenants: [tenant("a", "1", all())].into(), nodes: [node("n1", &[])].into(), ..TenantSnapshot::default() };
        let cloud = cloud_nodes(&snapshot, &TenantUid::new("a")).unwrap();
        assert_eq!(cloud.nodes[0].provider_id, "nestling://n1");
        assert_eq!(cloud_nodes(&snapshot, &TenantUid::new("gone")), None);
    }
}
