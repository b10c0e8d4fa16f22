//! What the node's rules are to be, as far as the tenants' tasks have reported it.

use super::sources::Sources;
use super::table::{Family, NodeTable, ServiceTable, TenantKey};
use ipnet::IpNet;
use nestling_crds::names::TenantUid;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Desired {
    /// Closed until the tenant's Services are known.
    tables: BTreeMap<TenantUid, Arc<ServiceTable>>,
    sources: Sources,
    /// The tenants that the node serves. None until the operator has sent them; until then what was inherited stays.
    expected: Option<BTreeSet<TenantUid>>,
}

/// Methods that return a bool say whether anything has changed.
impl Desired {
    /// The tenant is served, its Services are not known: its ranges are closed, unless more is known already (its task
    /// has been restarted) or inherited.
    pub(super) fn expect(&mut self, tenant: &TenantUid, ranges: &[IpNet]) -> bool {
        if let Some(expected) = &mut self.expected {
            expected.insert(tenant.clone());
        }
        if self.tables.get(tenant).is_some_and(|table| !table.is_closed) {
            return false;
        }
        self.set_table(tenant, &Arc::new(ServiceTable::closed(ranges.iter().copied())))
    }

    pub(super) fn set_table(&mut self, tenant: &TenantUid, table: &Arc<ServiceTable>) -> bool {
        let before = self.tables.insert(tenant.clone(), Arc::clone(table));
        before.is_none_or(|before| before != *table)
    }

    pub(super) fn set_sources(&mut self, tenant: &TenantUid, addresses: &BTreeSet<IpAddr>) -> bool {
        self.sources.set(tenant, addresses)
    }

    pub(super) fn announce(&mut self, sandbox: &str, tenant: &TenantUid, addresses: BTreeSet<IpAddr>) -> bool {
        self.sources.announce(sandbox, tenant, addresses, Instant::now())
    }

    pub(super) fn retract(&mut self, sandbox: &str) -> bool {
        self.sources.retract(sandbox)
    }

    pub(super) fn remove(&mut self, tenant: &TenantUid) {
        self.tables.remove(tenant);
        self.sources.remove(tenant);
        if let Some(expected) = &mut self.expected {
            expected.remove(tenant);
        }
    }

    pub(super) fn keep_only(&mut self, tenants: BTreeSet<TenantUid>) {
        for gone in self.tables.keys().filter(|tenant| !tenants.contains(*tenant)).cloned().collect::<Vec<_>>() {
            self.remove(&gone);
        }
        self.expected = Some(tenants);
    }

    /// The operator has sent the tenants of the node.
    pub(super) fn knows_tenants(&self) -> bool {
        self.expected.is_some()
    }

    /// Every tenant of the node is known, with its Services and pods.
    pub(super) fn is_complete(&self) -> bool {
        self.expected.as_ref().is_some_and(|expected| {
            expected.iter().all(|tenant| self.sources.knows(tenant) && self.tables.get(tenant).is_some_and(|table| !table.is_closed))
        })
    }

    /// The rules to be of each family, given what the kernel has and the bridges that need masquerading.
    pub(super) fn tables(&mut self, families: [(Family, &NodeTable, BTreeSet<String>); 2]) -> [NodeTable; 2] {
        self.sources.expire(Instant::now());
        families.map(|(family, installed, bridges)| self.table(family, installed, bridges))
    }

    /// The rules to be, given what the kernel has: what a former process left stays until something better is known.
    fn table(&self, family: Family, installed: &NodeTable, bridges: BTreeSet<String>) -> NodeTable {
        let mut table = NodeTable { bridges: Some(bridges), ..NodeTable::default() };
        // Tenants whose pods are not known yet: the sources that the kernel has for them stay.
        let mut unconfirmed: BTreeSet<TenantKey> = BTreeSet::new();
        for (tenant, services) in &self.tables {
            let key = TenantKey::of(tenant);
            if !self.sources.knows(tenant) {
                unconfirmed.insert(key.clone());
            }
            if services.is_closed && installed.is_inherited(&key) {
                table.tenants.insert(key, None);
            } else if services.concerns(family) {
                table.tenants.insert(key, Some(Arc::clone(services)));
            }
        }
        let known: BTreeSet<TenantKey> = self.tables.keys().map(TenantKey::of).collect();
        let expected: Option<BTreeSet<TenantKey>> = self.expected.as_ref().map(|expected| expected.iter().map(TenantKey::of).collect());
        for key in installed.tenants.keys().filter(|key| installed.is_inherited(key) && !known.contains(*key)) {
            if expected.as_ref().is_none_or(|expected| expected.contains(key)) {
                table.tenants.insert(key.clone(), None);
                unconfirmed.insert(key.clone());
            }
        }
        let kept = installed.sources.iter().filter(|(_, key)| unconfirmed.contains(*key)).map(|(address, key)| (*address, key.clone()));
        let owned = self.sources.owners().map(|(address, tenant)| (address, TenantKey::of(tenant)));
        let sources = kept.chain(owned.filter(|(address, _)| Family::of(*address) == family));
        table.sources = sources.filter(|(_, key)| table.tenants.contains_key(key)).collect();
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(name: &str) -> TenantUid {
        TenantUid::new(name)
    }

    fn key(name: &str) -> TenantKey {
        TenantKey::of(&uid(name))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// A former process left tenants `a` and `b`, with one pod each.
    fn inherited() -> NodeTable {
        NodeTable {
            tenants: [(key("a"), None), (key("b"), None)].into(),
            sources: [(address(1), key("a")), (address(2), key("b"))].into(),
            bridges: None,
        }
    }

    fn summary(desired: &Desired, installed: &NodeTable) -> String {
        let table = desired.table(Family::V4, installed, BTreeSet::new());
        let tenants = table.tenants.iter().map(|(key, services)| match services {
            None => format!("{key}:keep"),
            Some(services) if services.is_closed => format!("{key}:closed"),
            Some(_) => format!("{key}:table"),
        });
        let sources = table.sources.iter().map(|(address, key)| format!("{address}={key}"));
        tenants.chain(sources).collect::<Vec<_>>().join(" ")
    }

    fn services() -> Arc<ServiceTable> {
        Arc::new(ServiceTable { is_closed: false, ..ServiceTable::closed(["10.96.0.0/16".parse().unwrap()]) })
    }

    #[test]
    fn what_was_inherited_stays_until_something_better_is_known() {
        let mut desired = Desired::default();
        let table = |desired: &Desired| summary(desired, &inherited());
        assert_eq!(table(&desired), "a:keep b:keep 10.0.0.1=a 10.0.0.2=b");

        desired.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]);
        assert_eq!(table(&desired), "a:keep b:keep 10.0.0.1=a 10.0.0.2=b");
        desired.set_sources(&uid("a"), &[address(3)].into());
        assert_eq!(table(&desired), "a:keep b:keep 10.0.0.2=b 10.0.0.3=a", "pods are known before Services");
        desired.set_table(&uid("a"), &services());
        assert_eq!(table(&desired), "a:table b:keep 10.0.0.2=b 10.0.0.3=a");

        desired.keep_only([uid("a")].into());
        assert_eq!(table(&desired), "a:table 10.0.0.3=a", "b has left the node while the agent was away");
    }

    #[test]
    fn an_address_claimed_by_a_live_pod_is_not_the_former_ones() {
        let mut desired = Desired::default();
        desired.set_table(&uid("a"), &services());
        desired.set_sources(&uid("a"), &[address(2)].into());
        assert_eq!(summary(&desired, &inherited()), "a:table b:keep 10.0.0.2=a");
    }

    #[test]
    fn a_new_tenant_is_closed_until_its_services_are_known() {
        let mut desired = Desired::default();
        let table = |desired: &Desired| summary(desired, &NodeTable::default());
        desired.set_sources(&uid("a"), &[address(1)].into());
        assert_eq!(table(&desired), "", "its ranges are not known");
        desired.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]);
        assert_eq!(table(&desired), "a:closed 10.0.0.1=a");
        desired.set_table(&uid("a"), &services());
        assert!(!desired.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]), "its task has been restarted");
        assert_eq!(table(&desired), "a:table 10.0.0.1=a");
        desired.remove(&uid("a"));
        assert_eq!(table(&desired), "");
    }

    #[test]
    fn complete_means_that_services_and_pods_of_every_expected_tenant_are_known() {
        let mut desired = Desired::default();
        assert!(!desired.is_complete());
        desired.keep_only([uid("a")].into());
        assert!(!desired.is_complete());
        desired.set_table(&uid("a"), &services());
        assert!(!desired.is_complete());
        desired.set_sources(&uid("a"), &BTreeSet::new());
        assert!(desired.is_complete());
    }
}
