//! One tenant's Services and slices, fed with changes one object at a time. Only what an object touches is worked out
//! again, so that a change in a tenant of ten thousand Services costs as much as in one of ten.

use super::service::ServiceFacts;
use super::slice::SliceFacts;
use super::{Frontend, ServiceTable, Target, merged, select};
use ipnet::IpNet;
use nestling_crds::names::TenantName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where this node is, as topology hints and traffic policies see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    /// None until the tenant's Node says.
    pub zone: Option<String>,
}

pub struct Catalogue {
    place: Place,
    /// Ranges that the operator gave the tenant. They hold even if a tenant deletes its `ServiceCIDR` objects: the host may
    /// use the same addresses.
    given: Vec<IpNet>,
    cidrs: BTreeMap<String, Vec<IpNet>>,
    services: BTreeMap<TenantName, ServiceFacts>,
    /// By Service, then by the slice's own name.
    slices: BTreeMap<TenantName, BTreeMap<String, SliceFacts>>,
    /// The Service that each slice is filed under: a slice's label can change.
    filed: BTreeMap<TenantName, TenantName>,
    targets: BTreeMap<TenantName, Vec<(Frontend, Target)>>,
    stale: BTreeSet<TenantName>,
    answered: Option<Arc<ServiceTable>>,
}

impl Catalogue {
    pub fn new(place: Place, given: Vec<IpNet>) -> Self {
        Self {
            place,
            given,
            cidrs: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            filed: BTreeMap::new(),
            targets: BTreeMap::new(),
            stale: BTreeSet::new(),
            answered: None,
        }
    }

    /// None: the Service is gone, or none of the proxy's business.
    pub fn set_service(&mut self, name: TenantName, facts: Option<ServiceFacts>) {
        if self.services.get(&name) == facts.as_ref() {
            return;
        }
        match facts {
            Some(facts) => drop(self.services.insert(name.clone(), facts)),
            None => drop(self.services.remove(&name)),
        }
        self.stale.insert(name);
    }

    /// None: the slice is gone, or none of the proxy's business.
    pub fn set_slice(&mut self, name: &TenantName, facts: Option<SliceFacts>) {
        let owner = facts.as_ref().map(|facts| TenantName::new(&name.namespace, &facts.service));
        if let Some(before) = self.filed.get(name).cloned().filter(|before| Some(before) != owner.as_ref()) {
            self.filed.remove(name);
            if let Some(slices) = self.slices.get_mut(&before) {
                slices.remove(&name.name);
                if slices.is_empty() {
                    self.slices.remove(&before);
                }
            }
            self.stale.insert(before);
        }
        if let (Some(facts), Some(owner)) = (facts, owner) {
            let slices = self.slices.entry(owner.clone()).or_default();
            if slices.get(&name.name) != Some(&facts) {
                slices.insert(name.name.clone(), facts);
                self.filed.insert(name.clone(), owner.clone());
                self.stale.insert(owner);
            }
        }
    }

    pub fn set_cidr(&mut self, name: String, ranges: Option<Vec<IpNet>>) {
        match ranges {
            Some(ranges) => drop(self.cidrs.insert(name, ranges)),
            None => drop(self.cidrs.remove(&name)),
        }
    }

    pub fn set_zone(&mut self, zone: Option<String>) {
        if self.place.zone != zone {
            self.place.zone = zone;
            self.stale.extend(self.services.keys().cloned());
        }
    }

    /// After a list: what it did not name is gone.
    pub fn retain_services(&mut self, listed: &BTreeSet<TenantName>) {
        for name in self.services.keys().filter(|name| !listed.contains(name)).cloned().collect::<Vec<_>>() {
            self.set_service(name, None);
        }
    }

    /// After a list: what it did not name is gone.
    pub fn retain_slices(&mut self, listed: &BTreeSet<TenantName>) {
        for name in self.filed.keys().filter(|name| !listed.contains(name)).cloned().collect::<Vec<_>>() {
            self.set_slice(&name, None);
        }
    }

    /// After a list: what it did not name is gone.
    pub fn retain_cidrs(&mut self, listed: &BTreeSet<String>) {
        self.cidrs.retain(|name, _| listed.contains(name));
    }

    /// The tenant's table, if it is another than at the last call.
    pub fn changed(&mut self) -> Option<Arc<ServiceTable>> {
        for name in std::mem::take(&mut self.stale) {
            match self.services.get(&name) {
                None => drop(self.targets.remove(&name)),
                Some(facts) => {
                    let targets = self.targets_of(&name, facts);
                    self.targets.insert(name, targets);
                }
            }
        }
        let mut table = ServiceTable {
            frontends: BTreeMap::new(),
            ranges: merged(self.given.iter().chain(self.cidrs.values().flatten()).copied()),
            is_closed: false,
        };
        for (frontend, target) in self.targets.values().flatten() {
            // The apiserver gives an address to one Service only. Should two claim it, the first by name has it, always.
            table.frontends.entry(*frontend).or_insert_with(|| target.clone());
        }
        if self.answered.as_deref() == Some(&table) {
            return None;
        }
        let table = Arc::new(table);
        self.answered = Some(Arc::clone(&table));
        Some(table)
    }

    fn targets_of(&self, name: &TenantName, facts: &ServiceFacts) -> Vec<(Frontend, Target)> {
        let mut targets = Vec::new();
        for port in &facts.ports {
            for is_v4 in [true, false] {
                let addresses: Vec<_> = facts.addresses.iter().filter(|address| address.is_ipv4() == is_v4).collect();
                if addresses.is_empty() {
                    continue;
                }
                let slices = self.slices.get(name).into_iter().flat_map(BTreeMap::values);
                let target = select::target(facts, port, is_v4, slices, &self.place);
                for address in addresses {
                    targets.push((Frontend { address: *address, protocol: port.protocol, port: port.port }, target.clone()));
                }
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Backend, Protocol};
    use super::*;
    use serde_json::json;

    fn catalogue() -> Catalogue {
        Catalogue::new(Place { node: "n".into(), zone: None }, vec!["10.96.0.0/16".parse().unwrap()])
    }

    fn service(address: &str) -> Option<ServiceFacts> {
        let service = json!({"spec": {"clusterIP": address, "ports": [{"port": 80}]}});
        ServiceFacts::of(&serde_json::from_value(service).unwrap())
    }

    fn slice(service: &str, address: &str) -> Option<SliceFacts> {
        SliceFacts::of(
            &serde_json::from_value(json!({
                "metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
                "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}]
            }))
            .unwrap(),
        )
    }

    fn name(name: &str) -> TenantName {
        TenantName::new("default", name)
    }

    fn backend(table: &ServiceTable, address: &str) -> String {
        match &table.frontends[&Frontend { address: address.parse().unwrap(), protocol: Protocol::Tcp, port: 80 }].backend {
            Backend::Endpoints { endpoints, .. } => endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn slices_may_come_before_their_service_and_move_between_services() {
        let mut catalogue = catalogue();
        catalogue.set_slice(&name("s-1"), slice("a", "10.0.0.1"));
        catalogue.set_service(name("a"), service("10.96.0.1"));
        catalogue.set_service(name("b"), service("10.96.0.2"));
        let table = catalogue.changed().unwrap();
        assert_eq!((backend(&table, "10.96.0.1").as_str(), backend(&table, "10.96.0.2").as_str()), ("10.0.0.1:8080", "Reject"));

        catalogue.set_slice(&name("s-1"), slice("b", "10.0.0.1"));
        let table = catalogue.changed().unwrap();
        assert_eq!((backend(&table, "10.96.0.1").as_str(), backend(&table, "10.96.0.2").as_str()), ("Reject", "10.0.0.1:8080"));

        catalogue.set_slice(&name("s-1"), None);
        assert_eq!(backend(&catalogue.changed().unwrap(), "10.96.0.2"), "Reject");
    }

    #[test]
    fn only_a_change_that_matters_is_a_change() {
        let mut catalogue = catalogue();
        assert!(catalogue.changed().is_some(), "the first table");
        assert!(catalogue.changed().is_none());
        catalogue.set_service(name("a"), service("10.96.0.1"));
        assert!(catalogue.changed().is_some());
        catalogue.set_service(name("a"), service("10.96.0.1"));
        catalogue.set_slice(&name("x"), slice("nobody", "10.0.0.1"));
        assert!(catalogue.changed().is_none());
    }

    #[test]
    fn a_list_ends_what_it_does_not_name() {
        let mut catalogue = catalogue();
        catalogue.set_service(name("a"), service("10.96.0.1"));
        catalogue.set_service(name("b"), service("10.96.0.2"));
        catalogue.set_slice(&name("s"), slice("b", "10.0.0.1"));
        catalogue.retain_services(&[name("b")].into());
        catalogue.retain_slices(&BTreeSet::new());
        let table = catalogue.changed().unwrap();
        assert_eq!(table.frontends.len(), 1);
        assert_eq!(backend(&table, "10.96.0.2"), "Reject");
    }

    #[test]
    fn the_operators_ranges_hold_without_service_cidr_objects() {
        let mut catalogue = catalogue();
        catalogue.set_cidr("more".into(), Some(vec!["10.200.0.0/24".parse().unwrap()]));
        assert_eq!(catalogue.changed().unwrap().ranges.len(), 2);
        catalogue.retain_cidrs(&BTreeSet::new());
        let ranges = &catalogue.changed().unwrap().ranges;
        assert_eq!(ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.96.0.0/16"]);
    }
}
