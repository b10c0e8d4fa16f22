//! What one open stream has told its caller, and what there is to tell next. Pure.

use super::directory::{Directory, Served};
use nestling_control_api::v1alpha1::watch_event::Event;
use nestling_control_api::v1alpha1::{CloudNode, CloudNodes, NodeAddress, Removed, Synced, WatchEvent};
use nestling_crds::names::{NodeName, TenantUid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The tenants that an agent has been told of.
#[derive(Debug)]
pub struct TenantFeed {
    node: NodeName,
    told: BTreeMap<TenantUid, Arc<Served>>,
    synced: bool,
}

impl TenantFeed {
    pub fn new(node: NodeName) -> Self {
        Self { node, told: BTreeMap::new(), synced: false }
    }

    /// The events that bring the caller up to date. `synced` comes once, after everything that was known, and not before
    /// everything is known: the caller drops the tenants it has not heard of by then.
    pub fn update(&mut self, directory: &Directory) -> Vec<WatchEvent> {
        // The stores may not have a new node yet; to tell its agent that it serves nobody would be wrong.
        let Some(node) = directory.nodes.get(&self.node) else { return Vec::new() };
        let wanted = |served: &&Arc<Served>| served.is_on(node);
        let mut events = Vec::new();
        self.told.retain(|uid, _| {
            let stays = directory.tenants.get(uid).is_some_and(|served| wanted(&served));
            if !stays {
                events.push(Event::Remove(Removed { uid: uid.to_string() }));
            }
            stays
        });
        for (uid, served) in directory.tenants.iter().filter(|(_, served)| wanted(served)) {
            let same = self.told.get(uid).is_some_and(|told| Arc::ptr_eq(told, served) || told.tenant == served.tenant);
            if !same {
                events.push(Event::Upsert(served.tenant.clone()));
            }
            self.told.insert(uid.clone(), served.clone());
        }
        if !self.synced && directory.complete {
            self.synced = true;
            events.push(Event::Synced(Synced {}));
        }
        events.into_iter().map(|event| WatchEvent { event: Some(event) }).collect()
    }
}

/// The nodes that serve a tenant, as its cloud; `None` while the tenant is not served (yet, or any more).
pub fn cloud_nodes(directory: &Directory, uid: &TenantUid) -> Option<CloudNodes> {
    let served = directory.tenants.get(uid)?;
    let nodes = directory.nodes.values().filter(|node| served.is_on(node)).map(|node| CloudNode {
        name: node.name.to_string(),
        provider_id: node.provider_id.clone().unwrap_or_else(|| format!("nestling://{}", node.name)),
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
    use crate::control::directory::Nodes;
    use crate::reconcile::dereference::HostNode;
    use nestling_control_api::v1alpha1::Tenant;

    fn node(name: &str, labels: &[(&str, &str)]) -> (NodeName, Arc<HostNode>) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        (NodeName::new(name), Arc::new(HostNode { labels, ..HostNode::named(name) }))
    }

    fn tenant(uid: &str, version: &str, nodes: Nodes) -> (TenantUid, Arc<Served>) {
        let tenant = Tenant { uid: uid.into(), version: version.into(), ..Tenant::default() };
        (TenantUid::new(uid), Arc::new(Served { tenant, nodes }))
    }

    fn all() -> Nodes {
        Nodes::Labelled(BTreeMap::new())
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
        let gpu = Nodes::Labelled([("gpu".to_owned(), "yes".to_owned())].into());
        let mut directory = Directory {
            tenants: [tenant("a", "1", all()), tenant("b", "1", gpu), tenant("c", "1", Nodes::Pinned(NodeName::new("n1")))].into(),
            nodes: [node("n1", &[]), node("n2", &[("gpu", "yes")])].into(),
            complete: true,
            ..Directory::default()
        };
        let mut n1 = TenantFeed::new(NodeName::new("n1"));
        let mut n2 = TenantFeed::new(NodeName::new("n2"));
        assert_eq!(short(&n1.update(&directory)), ["+a@1", "+c@1", "synced"]);
        assert_eq!(short(&n2.update(&directory)), ["+a@1", "+b@1", "synced"]);
        assert!(n1.update(&directory).is_empty());

        directory.tenants.extend([tenant("a", "2", all())]);
        assert_eq!(short(&n1.update(&directory)), ["+a@2"]);
        directory.nodes.extend([node("n2", &[])]);
        assert_eq!(short(&n2.update(&directory)), ["-b", "+a@2"]);
        directory.tenants.remove(&TenantUid::new("c"));
        assert_eq!(short(&n1.update(&directory)), ["-c"]);
    }

    #[test]
    fn nobody_is_told_that_all_is_known_when_it_is_not() {
        let mut directory = Directory {
            tenants: [tenant("a", "1", all())].into(),
            nodes: [node("n1", &[])].into(),
            complete: false,
            ..Directory::default()
        };
        let mut feed = TenantFeed::new(NodeName::new("n1"));
        assert_eq!(short(&feed.update(&directory)), ["+a@1"]);
        directory.complete = true;
        assert_eq!(short(&feed.update(&directory)), ["synced"]);

        let mut unknown_node = TenantFeed::new(NodeName::new("new"));
        assert!(unknown_node.update(&directory).is_empty());
        directory.nodes.extend([node("new", &[])]);
        assert_eq!(short(&unknown_node.update(&directory)), ["+a@1", "synced"]);
    }

    #[test]
    fn a_host_without_provider_ids_has_them_made_up() {
        let directory = Directory {
            tenants: [tenant("a", "1", all())].into(),
            nodes: [node("n1", &[])].into(),
            complete: true,
            ..Directory::default()
        };
        let cloud = cloud_nodes(&directory, &TenantUid::new("a")).unwrap();
        assert_eq!(cloud.nodes[0].provider_id, "nestling://n1");
        assert_eq!(cloud_nodes(&directory, &TenantUid::new("gone")), None);
    }
}
