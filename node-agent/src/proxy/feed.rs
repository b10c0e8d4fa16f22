//! Watch events of one tenant → its catalogue. Pure; `tenant` does the watching.

use super::model::{Catalogue, Place, ServiceFacts, ServiceTable, SliceFacts};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;
use nestling_crds::names::TenantName;
use std::collections::BTreeSet;
use std::sync::Arc;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[allow(clippy::large_enum_variant, reason = "made and taken apart at once, one by one")]
pub enum Change {
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
    Cidr(Event<ServiceCIDR>),
    Node(Event<PartialObjectMeta<Node>>),
}

pub struct Feed {
    catalogue: Catalogue,
    services: Listing<TenantName>,
    slices: Listing<TenantName>,
    cidrs: Listing<String>,
}

/// Where a watch is in its list.
struct Listing<N> {
    /// Named by the list that is under way.
    seen: BTreeSet<N>,
    /// A list has been completed.
    is_synced: bool,
}

/// A watch event, cut down to what happened to whom.
enum Step<N, K> {
    Begin,
    Set(N, K),
    Gone(N),
    End,
    Nothing,
}

impl Feed {
    pub fn new(node: &str, ranges: Vec<IpNet>) -> Self {
        Self {
            catalogue: Catalogue::new(Place { node: node.to_owned(), zone: None }, ranges),
            services: Listing::default(),
            slices: Listing::default(),
            cidrs: Listing::default(),
        }
    }

    pub fn take(&mut self, change: Change) {
        match change {
            Change::Service(event) => match self.services.step(event, |service| name_of(&service.metadata)) {
                Step::Set(name, service) => self.catalogue.set_service(name, ServiceFacts::of(&service)),
                Step::Gone(name) => self.catalogue.set_service(name, None),
                Step::End => self.catalogue.retain_services(&self.services.seen),
                Step::Begin | Step::Nothing => {}
            },
            Change::Slice(event) => match self.slices.step(event, |slice| name_of(&slice.metadata)) {
                Step::Set(name, slice) => self.catalogue.set_slice(&name, SliceFacts::of(&slice)),
                Step::Gone(name) => self.catalogue.set_slice(&name, None),
                Step::End => self.catalogue.retain_slices(&self.slices.seen),
                Step::Begin | Step::Nothing => {}
            },
            Change::Cidr(event) => match self.cidrs.step(event, |cidr| cidr.metadata.name.clone()) {
                Step::Set(name, cidr) => self.catalogue.set_cidr(name, Some(ranges_of(&cidr))),
                Step::Gone(name) => self.catalogue.set_cidr(name, None),
                Step::End => self.catalogue.retain_cidrs(&self.cidrs.seen),
                Step::Begin | Step::Nothing => {}
            },
            // A node that is gone for a moment has not moved.
            Change::Node(Event::Apply(node) | Event::InitApply(node)) => self.catalogue.set_zone(node.labels().get(ZONE_LABEL).cloned()),
            Change::Node(_) => {}
        }
    }

    /// The tenant's table, if there is a new one. Upstream's rule: nothing before both Services and slices are known.
    pub fn table(&mut self) -> Option<Arc<ServiceTable>> {
        if self.services.is_synced && self.slices.is_synced { self.catalogue.changed() } else { None }
    }
}

impl<N: Ord + Clone> Listing<N> {
    fn step<K>(&mut self, event: Event<K>, name: impl Fn(&K) -> Option<N>) -> Step<N, K> {
        match event {
            Event::Init => {
                self.seen.clear();
                Step::Begin
            }
            Event::InitApply(object) => match name(&object) {
                Some(name) => {
                    self.seen.insert(name.clone());
                    Step::Set(name, object)
                }
                None => Step::Nothing,
            },
            Event::InitDone => {
                self.is_synced = true;
                Step::End
            }
            Event::Apply(object) => name(&object).map_or(Step::Nothing, |name| Step::Set(name, object)),
            Event::Delete(object) => name(&object).map_or(Step::Nothing, Step::Gone),
        }
    }
}

impl<N> Default for Listing<N> {
    fn default() -> Self {
        Self { seen: BTreeSet::new(), is_synced: false }
    }
}

/// None for an object that did not come from an apiserver.
fn name_of(metadata: &ObjectMeta) -> Option<TenantName> {
    Some(TenantName::new(metadata.namespace.clone()?, metadata.name.clone()?))
}

fn ranges_of(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let cidrs = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| cidr.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::model::{Backend, Frontend, Protocol};
    use super::*;
    use serde_json::json;

    fn feed() -> Feed {
        Feed::new("here", vec!["10.96.0.0/16".parse().unwrap()])
    }

    fn service(name: &str, address: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": address, "ports": [{"port": 80}]}
        }))
        .unwrap()
    }

    fn slice(zones: &[&str]) -> EndpointSlice {
        let endpoints: Vec<_> = zones
            .iter()
            .enumerate()
            .map(|(i, zone)| json!({"addresses": [format!("10.0.0.{}", i + 1)], "hints": {"forZones": [{"name": zone}]}}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints
        }))
        .unwrap()
    }

    fn chosen(table: &ServiceTable) -> usize {
        let frontend = Frontend { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
        match &table.frontends[&frontend].backend {
            Backend::Endpoints { endpoints, .. } => endpoints.len(),
            _ => 0,
        }
    }

    #[test]
    fn nothing_is_said_before_both_lists_are_complete() {
        let mut feed = feed();
        for change in [
            Change::Service(Event::Init),
            Change::Service(Event::InitApply(service("web", "10.96.0.1"))),
            Change::Service(Event::InitDone),
            Change::Slice(Event::Init),
            Change::Slice(Event::InitApply(slice(&["z1", "z2"]))),
        ] {
            feed.take(change);
            assert!(feed.table().is_none());
        }
        feed.take(Change::Slice(Event::InitDone));
        assert_eq!(chosen(&feed.table().unwrap()), 2);

        let node = json!({"metadata": {"name": "here", "labels": {ZONE_LABEL: "z1"}}});
        feed.take(Change::Node(Event::InitApply(serde_json::from_value(node).unwrap())));
        assert_eq!(chosen(&feed.table().unwrap()), 1, "the zone is known now");
    }

    #[test]
    fn a_new_list_ends_what_went_unseen() {
        let mut feed = feed();
        for change in [
            Change::Slice(Event::InitDone),
            Change::Service(Event::Init),
            Change::Service(Event::InitApply(service("web", "10.96.0.1"))),
            Change::Service(Event::InitApply(service("old", "10.96.0.2"))),
            Change::Service(Event::InitDone),
        ] {
            feed.take(change);
        }
        assert_eq!(feed.table().unwrap().frontends.len(), 2);
        feed.take(Change::Service(Event::Init));
        feed.take(Change::Service(Event::InitApply(service("web", "10.96.0.1"))));
        assert!(feed.table().is_none(), "a list under way ends nothing");
        feed.take(Change::Service(Event::InitDone));
        assert_eq!(feed.table().unwrap().frontends.len(), 1);
        feed.take(Change::Service(Event::Delete(service("web", "10.96.0.1"))));
        assert!(feed.table().unwrap().frontends.is_empty());
    }

    #[test]
    fn service_cidrs_add_ranges() {
        let mut feed = feed();
        feed.take(Change::Slice(Event::InitDone));
        feed.take(Change::Service(Event::InitDone));
        let cidr: ServiceCIDR =
            serde_json::from_value(json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24", "fd00::/112"]}})).unwrap();
        feed.take(Change::Cidr(Event::Apply(cidr)));
        assert_eq!(feed.table().unwrap().ranges.len(), 3);
    }
}
