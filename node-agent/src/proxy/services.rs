//! One tenant's objects → its [`ServiceTable`]. [`run`] follows EndpointSlices, ServiceCIDRs and this node's zone, and takes
//! the Services from the tenant's one watch of them; [`TableBuilder`] works out again what a change touches, and no more.

use super::Proxy;
use super::endpoints::{self, Place, SliceFacts};
use super::table::{Frontend, ServiceTable, Target, merged};
use crate::services::{ServiceChanges, ServiceFacts};
use crate::tenant::Tenant;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, ResourceExt};
use nestling_crds::names::TenantName;
use nestling_runtime::kube::follow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Leaves out slices that are for another proxy, or for none.
const SLICES: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Runs until `shutdown`, through failures of the watches, and leaves the tenant's rules as they are: [`Proxy::remove`]
/// is for the caller that knows that the tenant is gone.
pub(crate) async fn run(tenant: Arc<Tenant>, mut services: ServiceChanges, proxy: Proxy, shutdown: CancellationToken) {
    let uid = &tenant.spec.uid;
    proxy.expect(uid, &tenant.spec.service_cidrs);
    let place = Place { node: tenant.node.as_str().to_owned(), zone: None };
    let feed = Feed { builder: Mutex::new(TableBuilder::new(place, tenant.spec.service_cidrs.clone())), changed: Notify::new() };
    let client = || tenant.proxy.clone();
    let node = Config::default().fields(&format!("metadata.name={}", tenant.node));
    let slices = follow(Api::all(client()), Config::default().labels(SLICES), "endpointslices", shutdown.clone(), |event| {
        feed.change(|builder| builder.take_slice(event));
    });
    let cidrs = follow(Api::all(client()), Config::default(), "servicecidrs", shutdown.clone(), |event| {
        feed.change(|builder| builder.take_cidr(event));
    });
    let node = follow(Api::all(client()), node, "nodes", shutdown.clone(), |event| feed.change(|builder| builder.take_node(event)));
    let services = async {
        while let Some(changes) = shutdown.run_until_cancelled(services.next()).await {
            feed.change(|builder| builder.take_services(changes));
        }
    };
    // Events that have come together are worked out together: this is polled after the watches.
    let publish = async {
        while shutdown.run_until_cancelled(feed.changed.notified()).await.is_some() {
            if let Some(table) = feed.builder().table() {
                tracing::debug!(addresses = table.services.len(), ranges = table.ranges.len(), "services changed");
                proxy.set_services(uid, &table);
            }
        }
    };
    tokio::join!(slices, cidrs, node, services, publish);
}

/// Where the watches of one tenant meet.
struct Feed {
    builder: Mutex<TableBuilder>,
    changed: Notify,
}

impl Feed {
    fn builder(&self) -> MutexGuard<'_, TableBuilder> {
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut TableBuilder)) {
        change(&mut self.builder());
        self.changed.notify_one();
    }
}

/// One tenant's Services and slices, changed one object at a time.
pub struct TableBuilder {
    place: Place,
    /// Ranges that the operator gave the tenant. They hold even if a tenant deletes its `ServiceCIDR` objects: the host may
    /// use the same addresses.
    given: Vec<IpNet>,
    cidrs: BTreeMap<String, Vec<IpNet>>,
    services: BTreeMap<TenantName, Arc<ServiceFacts>>,
    /// The Services that have each address. The apiserver gives it to one only; should two have it, the first by name has
    /// the ports that both have.
    owners: BTreeMap<IpAddr, BTreeSet<TenantName>>,
    /// By Service, then by the slice's own name.
    slices: BTreeMap<TenantName, BTreeMap<String, SliceFacts>>,
    /// The Service that each slice is filed under: a slice's label can change.
    filed: BTreeMap<TenantName, TenantName>,
    /// While slices are listed: those known that the list has not named yet.
    unlisted_slices: BTreeSet<TenantName>,
    /// The same of `ServiceCIDRs`.
    unlisted_cidrs: BTreeSet<String>,
    has_services: bool,
    has_slices: bool,
    /// Addresses to work out again.
    stale: BTreeSet<IpAddr>,
    /// As last returned.
    table: Option<Arc<ServiceTable>>,
}

impl TableBuilder {
    pub fn new(place: Place, given: Vec<IpNet>) -> Self {
        Self {
            place,
            given,
            cidrs: BTreeMap::new(),
            services: BTreeMap::new(),
            owners: BTreeMap::new(),
            slices: BTreeMap::new(),
            filed: BTreeMap::new(),
            unlisted_slices: BTreeSet::new(),
            unlisted_cidrs: BTreeSet::new(),
            has_services: false,
            has_slices: false,
            stale: BTreeSet::new(),
            table: None,
        }
    }

    /// The first call has all Services.
    pub fn take_services(&mut self, changes: impl IntoIterator<Item = (TenantName, Option<Arc<ServiceFacts>>)>) {
        self.has_services = true;
        for (name, facts) in changes {
            self.set_service(name, facts);
        }
    }

    pub fn take_slice(&mut self, event: Event<EndpointSlice>) {
        let name = |slice: &EndpointSlice| Some(TenantName::new(slice.metadata.namespace.clone()?, slice.metadata.name.clone()?));
        match event {
            Event::Init => self.unlisted_slices = self.filed.keys().cloned().collect(),
            Event::InitApply(slice) | Event::Apply(slice) => {
                let Some(name) = name(&slice) else { return };
                self.unlisted_slices.remove(&name);
                self.set_slice(&name, SliceFacts::of(&slice));
            }
            Event::Delete(slice) => {
                if let Some(name) = name(&slice) {
                    self.set_slice(&name, None);
                }
            }
            Event::InitDone => {
                self.has_slices = true;
                for name in std::mem::take(&mut self.unlisted_slices) {
                    self.set_slice(&name, None);
                }
            }
        }
    }

    fn take_cidr(&mut self, event: Event<ServiceCIDR>) {
        match event {
            Event::Init => self.unlisted_cidrs = self.cidrs.keys().cloned().collect(),
            Event::InitApply(cidr) | Event::Apply(cidr) => {
                let ranges = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
                let ranges = ranges.filter_map(|range| range.parse().ok()).collect();
                let Some(name) = cidr.metadata.name else { return };
                self.unlisted_cidrs.remove(&name);
                self.cidrs.insert(name, ranges);
            }
            Event::Delete(cidr) => drop(cidr.metadata.name.and_then(|name| self.cidrs.remove(&name))),
            Event::InitDone => {
                for name in std::mem::take(&mut self.unlisted_cidrs) {
                    self.cidrs.remove(&name);
                }
            }
        }
    }

    fn take_node(&mut self, event: Event<PartialObjectMeta<Node>>) {
        // A node that is gone for a moment has not moved.
        if let Event::Apply(node) | Event::InitApply(node) = event {
            let zone = node.labels().get(ZONE_LABEL).cloned();
            if self.place.zone != zone {
                self.place.zone = zone;
                self.stale.extend(self.owners.keys());
            }
        }
    }

    /// None: the Service is gone, or has no rules.
    fn set_service(&mut self, name: TenantName, facts: Option<Arc<ServiceFacts>>) {
        let facts = facts.filter(|facts| facts.is_proxied);
        for address in self.services.remove(&name).iter().flat_map(|before| &before.cluster_ips) {
            self.stale.insert(*address);
            if let Some(owners) = self.owners.get_mut(address) {
                owners.remove(&name);
                if owners.is_empty() {
                    self.owners.remove(address);
                }
            }
        }
        if let Some(facts) = facts {
            for address in &facts.cluster_ips {
                self.stale.insert(*address);
                self.owners.entry(*address).or_default().insert(name.clone());
            }
            self.services.insert(name, facts);
        }
    }

    /// None: the slice is gone, or has no rules.
    fn set_slice(&mut self, name: &TenantName, facts: Option<SliceFacts>) {
        let owner = facts.as_ref().map(|facts| TenantName::new(&name.namespace, &facts.service));
        if let Some(before) = self.filed.get(name).cloned().filter(|before| Some(before) != owner.as_ref()) {
            self.filed.remove(name);
            if let Some(slices) = self.slices.get_mut(&before) {
                slices.remove(&name.name);
                if slices.is_empty() {
                    self.slices.remove(&before);
                }
            }
            self.work_out_again(&before);
        }
        if let (Some(facts), Some(owner)) = (facts, owner) {
            let slices = self.slices.entry(owner.clone()).or_default();
            if slices.get(&name.name) != Some(&facts) {
                slices.insert(name.name.clone(), facts);
                self.filed.insert(name.clone(), owner.clone());
                self.work_out_again(&owner);
            }
        }
    }

    fn work_out_again(&mut self, service: &TenantName) {
        self.stale.extend(self.services.get(service).iter().flat_map(|facts| &facts.cluster_ips));
    }

    /// The tenant's table, if it is another than at the last call. Upstream's rule: nothing before both Services and
    /// slices have been listed.
    pub fn table(&mut self) -> Option<Arc<ServiceTable>> {
        if !(self.has_services && self.has_slices) {
            return None;
        }
        let ranges = merged(self.given.iter().chain(self.cidrs.values().flatten()).copied());
        let before = self.table.as_deref();
        let mut changes = Vec::new();
        for address in std::mem::take(&mut self.stale) {
            let frontends = self.frontends(address);
            let known = before.and_then(|table| table.services.get(&address));
            if known.map_or(&[][..], |known| known) != frontends {
                changes.push((address, frontends));
            }
        }
        if changes.is_empty() && before.is_some_and(|table| table.ranges == ranges) {
            return None;
        }
        let table = Arc::make_mut(self.table.get_or_insert_default());
        table.ranges = ranges;
        for (address, frontends) in changes {
            if frontends.is_empty() {
                table.services.remove(&address);
            } else {
                table.services.insert(address, frontends.into());
            }
        }
        self.table.clone()
    }

    fn frontends(&self, address: IpAddr) -> Vec<(Frontend, Target)> {
        let mut frontends: Vec<(Frontend, Target)> = Vec::new();
        let owners = self.owners.get(&address).into_iter().flatten();
        for service in owners.filter_map(|name| self.services.get(name)) {
            for port in &service.ports {
                let slices = self.slices.get(&service.name).into_iter().flat_map(BTreeMap::values);
                let target = endpoints::target(service, port, address.is_ipv4(), slices, &self.place);
                frontends.push((Frontend { address, protocol: port.protocol, port: port.port }, target));
            }
        }
        // Stable, so that the first of two owners is first.
        frontends.sort_by_key(|(frontend, _)| *frontend);
        frontends.dedup_by_key(|(frontend, _)| *frontend);
        frontends
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Backend;
    use super::*;
    use crate::fixtures::{tenant_spec, tenant_with};
    use crate::proxy::nft::FakeNetfilter;
    use crate::services::{Protocol, Services};
    use crate::tenant::TenantSpec;
    use k8s_openapi::api::core::v1::Service;
    use nestling_crds::names::TenantUid;
    use nestling_runtime::testing::{ApiServer, Fault};
    use serde_json::json;
    use std::time::Duration;
    use tokio::time::sleep;

    /// Both lists are complete, and empty.
    fn builder() -> TableBuilder {
        let place = Place { node: "here".into(), zone: None };
        let mut builder = TableBuilder::new(place, vec!["10.96.0.0/16".parse().unwrap()]);
        builder.take_services([]);
        builder.take_slice(Event::InitDone);
        builder
    }

    fn service(service: &str, address: &str) -> (TenantName, Option<Arc<ServiceFacts>>) {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": service}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}
        }))
        .unwrap();
        let facts = ServiceFacts::of(&service).unwrap();
        (facts.name.clone(), Some(Arc::new(facts)))
    }

    fn gone(service: &str) -> (TenantName, Option<Arc<ServiceFacts>>) {
        (TenantName::new("default", service), None)
    }

    fn slice(slice: &str, service: &str, endpoints: &[(&str, &str)]) -> EndpointSlice {
        let endpoints: Vec<_> =
            endpoints.iter().map(|(address, zone)| json!({"addresses": [address], "hints": {"forZones": [{"name": zone}]}})).collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": slice, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints
        }))
        .unwrap()
    }

    fn backend(table: &ServiceTable, address: &str) -> String {
        let frontend = Frontend { address: address.parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
        match &table.target(&frontend).unwrap().backend {
            Backend::Endpoints { endpoints, .. } => endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn slices_may_come_before_their_service_and_move_between_services() {
        let mut builder = builder();
        let one = |service: &str| Event::Apply(slice("s-1", service, &[("10.0.0.1", "z")]));
        builder.take_slice(one("a"));
        builder.take_services([service("a", "10.96.0.1"), service("b", "10.96.0.2")]);
        let table = builder.table().unwrap();
        assert_eq!((backend(&table, "10.96.0.1").as_str(), backend(&table, "10.96.0.2").as_str()), ("10.0.0.1:8080", "Reject"));

        builder.take_slice(one("b"));
        let table = builder.table().unwrap();
        assert_eq!((backend(&table, "10.96.0.1").as_str(), backend(&table, "10.96.0.2").as_str()), ("Reject", "10.0.0.1:8080"));

        builder.take_slice(Event::Delete(slice("s-1", "b", &[])));
        assert_eq!(backend(&builder.table().unwrap(), "10.96.0.2"), "Reject");
    }

    #[test]
    fn only_a_change_that_matters_is_a_change() {
        let mut builder = builder();
        assert!(builder.table().is_some(), "the first table");
        assert!(builder.table().is_none());
        builder.take_services([service("a", "10.96.0.1")]);
        assert!(builder.table().is_some());
        builder.take_services([service("a", "10.96.0.1")]);
        builder.take_slice(Event::Apply(slice("x", "unknown", &[("10.0.0.1", "z")])));
        assert!(builder.table().is_none());
    }

    #[test]
    fn a_change_leaves_other_addresses_shared() {
        let mut builder = builder();
        builder.take_services([service("a", "10.96.0.1"), service("b", "10.96.0.2")]);
        let before = builder.table().unwrap();
        builder.take_slice(Event::Apply(slice("s", "b", &[("10.0.0.1", "z")])));
        let after = builder.table().unwrap();
        let changed: Vec<String> = before.changes(&after).map(|change| change.address.to_string()).collect();
        assert_eq!(changed, ["10.96.0.2"]);
        let address: IpAddr = "10.96.0.1".parse().unwrap();
        assert!(Arc::ptr_eq(&before.services[&address], &after.services[&address]));
    }

    #[test]
    fn an_address_of_two_services_goes_to_the_first_by_name() {
        let mut builder = builder();
        builder.take_services([service("b", "10.96.0.1"), service("a", "10.96.0.1")]);
        builder.take_slice(Event::Apply(slice("s", "b", &[("10.0.0.1", "z")])));
        assert_eq!(backend(&builder.table().unwrap(), "10.96.0.1"), "Reject");
        builder.take_services([gone("a")]);
        assert_eq!(backend(&builder.table().unwrap(), "10.96.0.1"), "10.0.0.1:8080");
    }

    #[test]
    fn a_list_removes_what_it_does_not_name() {
        let mut builder = builder();
        builder.take_services([service("a", "10.96.0.1"), service("b", "10.96.0.2")]);
        builder.take_slice(Event::Apply(slice("s", "b", &[("10.0.0.1", "z")])));
        assert_eq!(builder.table().unwrap().frontends(), 2);
        builder.take_services([gone("a")]);
        builder.take_slice(Event::Init);
        let table = builder.table().unwrap();
        assert_eq!((table.frontends(), backend(&table, "10.96.0.2").as_str()), (1, "10.0.0.1:8080"), "a list under way removes nothing");
        builder.take_slice(Event::InitDone);
        assert_eq!(backend(&builder.table().unwrap(), "10.96.0.2"), "Reject");
    }

    #[test]
    fn there_is_no_table_before_both_lists_are_complete() {
        let place = Place { node: "here".into(), zone: None };
        let mut builder = TableBuilder::new(place, vec!["10.96.0.0/16".parse().unwrap()]);
        builder.take_services([service("web", "10.96.0.1")]);
        builder.take_slice(Event::Init);
        builder.take_slice(Event::InitApply(slice("web-1", "web", &[("10.0.0.1", "z1"), ("10.0.0.2", "z2")])));
        assert!(builder.table().is_none());
        builder.take_slice(Event::InitDone);
        assert_eq!(backend(&builder.table().unwrap(), "10.96.0.1"), "10.0.0.1:8080 10.0.0.2:8080");

        let node = json!({"metadata": {"name": "here", "labels": {ZONE_LABEL: "z1"}}});
        builder.take_node(Event::InitApply(serde_json::from_value(node).unwrap()));
        assert_eq!(backend(&builder.table().unwrap(), "10.96.0.1"), "10.0.0.1:8080", "the zone is known now");
    }

    #[test]
    fn the_operators_ranges_hold_without_service_cidr_objects() {
        let mut builder = builder();
        let cidr = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24", "fd00::/112"]}});
        builder.take_cidr(Event::Apply(serde_json::from_value(cidr).unwrap()));
        assert_eq!(builder.table().unwrap().ranges.len(), 3);
        builder.take_cidr(Event::Init);
        builder.take_cidr(Event::InitDone);
        let ranges = &builder.table().unwrap().ranges;
        assert_eq!(ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.96.0.0/16"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenants_objects_become_rules() {
        let (api, netfilter, shutdown) = (ApiServer::new(), Arc::new(FakeNetfilter::default()), CancellationToken::new());
        // An apiserver older than the API.
        api.inject("list", "servicecidrs", usize::MAX, Fault::Status(404));
        let web = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": {"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}});
        api.put(&serde_json::from_value::<Service>(web).unwrap());
        let (tenant, _writers) = tenant_with(TenantSpec { uid: TenantUid::new("a"), ..tenant_spec() }, &api.client());
        let (services, changes) = Services::new();
        let (client, stop) = (tenant.proxy.clone(), shutdown.clone());
        let following = tokio::spawn(async move { services.follow(client, stop).await });
        let running = tokio::spawn(run(tenant, changes, Proxy::fake(&netfilter), shutdown.clone()));
        sleep(Duration::from_secs(1)).await;

        api.put(&slice("web-1", "web", &[("10.0.0.7", "z")]));
        let mut of_another_proxy = slice("web-2", "web", &[("10.0.0.8", "z")]);
        of_another_proxy.labels_mut().insert("service.kubernetes.io/service-proxy-name".into(), "other".into());
        api.put(&of_another_proxy);
        sleep(Duration::from_secs(1)).await;
        let text = netfilter.applied().concat();
        assert!(text.contains("add rule ip nestling tenant-a ip daddr 10.96.0.0/16 drop"), "{text}");
        assert!(text.contains("add element ip nestling endpoints-1-a { 10.96.0.5 . tcp . 80 : 10.0.0.7 . 8080 }"), "{text}");
        assert!(!text.contains("10.0.0.8"), "{text}");
        let selectors = |resource: &str, kind: &str| -> BTreeSet<String> {
            let requests = api.requests().into_iter().filter(|request| request.resource == resource);
            requests.map(|request| request.query[kind].clone()).collect()
        };
        assert_eq!(selectors("nodes", "fieldSelector"), ["metadata.name=worker-7".to_owned()].into());
        assert_eq!(selectors("endpointslices", "labelSelector"), [SLICES.to_owned()].into());
        shutdown.cancel();
        running.await.unwrap();
        following.await.unwrap();
    }
}
