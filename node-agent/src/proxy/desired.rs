//! What the node's rules are to be, as far as the tenants' tasks have said.

use super::model::ServiceTable;
use super::rules::{Family, Installed, TenantKey, Want, WantedTenant};
use super::sources::Sources;
use ipnet::IpNet;
use nestling_crds::names::TenantUid;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Default)]
pub struct Desired {
    /// Closed until the tenant's Services are known.
    tables: BTreeMap<TenantUid, Arc<ServiceTable>>,
    sources: Sources,
    /// The tenants that the node serves. None until the operator has said; till then what was inherited stays.
    expected: Option<BTreeSet<TenantUid>>,
}

impl Desired {
    /// The tenant is served, its Services are not known: its ranges are closed, unless more is known already (its task
    /// starts anew) or inherited.
    pub fn expect(&mut self, tenant: &TenantUid, ranges: &[IpNet]) -> bool {
        if let Some(expected) = &mut self.expected {
            expected.insert(tenant.clone());
        }
        if self.tables.get(tenant).is_some_and(|table| !table.is_closed) {
            return false;
        }
        self.set_table(tenant, &Arc::new(ServiceTable::closed(ranges.iter().copied())))
    }

    pub fn set_table(&mut self, tenant: &TenantUid, table: &Arc<ServiceTable>) -> bool {
        let before = self.tables.insert(tenant.clone(), Arc::clone(table));
        before.is_none_or(|before| before != *table)
    }

    pub fn set_sources(&mut self, tenant: &TenantUid, addresses: &BTreeSet<IpAddr>) -> bool {
        self.sources.set(tenant, addresses)
    }

    pub fn announce(&mut self, sandbox: &str, tenant: &TenantUid, addresses: BTreeSet<IpAddr>) -> bool {
        self.sources.announce(sandbox, tenant, addresses, Instant::now())
    }

    pub fn retract(&mut self, sandbox: &str) -> bool {
        self.sources.retract(sandbox)
    }

    pub fn expire(&mut self, now: Instant) {
        self.sources.expire(now);
    }

    pub fn remove(&mut self, tenant: &TenantUid) {
        self.tables.remove(tenant);
        self.sources.remove(tenant);
        if let Some(expected) = &mut self.expected {
            expected.remove(tenant);
        }
    }

    pub fn keep_only(&mut self, tenants: BTreeSet<TenantUid>) {
        for gone in self.tables.keys().filter(|tenant| !tenants.contains(*tenant)).cloned().collect::<Vec<_>>() {
            self.remove(&gone);
        }
        self.expected = Some(tenants);
    }

    /// The operator has said which tenants the node serves.
    pub fn knows_tenants(&self) -> bool {
        self.expected.is_some()
    }

    /// Every tenant of the node is known, with its Services and pods.
    pub fn is_complete(&self) -> bool {
        self.expected.as_ref().is_some_and(|expected| {
            expected.iter().all(|tenant| self.sources.knows(tenant) && self.tables.get(tenant).is_some_and(|table| !table.is_closed))
        })
    }

    /// The rules to be, given what the kernel has: what a former process left stays until it is known better.
    pub fn want(&self, installed: &BTreeMap<Family, Installed>, bridges: BTreeMap<Family, BTreeSet<String>>) -> Want {
        let mut want = Want { bridges, ..Want::default() };
        let inherited =
            |key: &TenantKey| installed.values().any(|installed| installed.tenants.get(key).is_some_and(|tenant| tenant.table.is_none()));
        let mut silent: BTreeSet<TenantKey> = BTreeSet::new();
        for (tenant, table) in &self.tables {
            let key = TenantKey::of(tenant);
            if !self.sources.knows(tenant) {
                silent.insert(key.clone());
            }
            let wanted = if table.is_closed && inherited(&key) { WantedTenant::Keep } else { WantedTenant::Table(Arc::clone(table)) };
            want.tenants.insert(key, wanted);
        }
        let expected: Option<BTreeSet<TenantKey>> = self.expected.as_ref().map(|expected| expected.iter().map(TenantKey::of).collect());
        for key in installed.values().flat_map(|installed| installed.tenants.keys()) {
            let is_expected = expected.as_ref().is_none_or(|expected| expected.contains(key));
            if is_expected && !want.tenants.contains_key(key) && inherited(key) {
                want.tenants.insert(key.clone(), WantedTenant::Keep);
                silent.insert(key.clone());
            }
        }
        for (address, tenant) in installed.values().flat_map(|installed| &installed.sources) {
            if silent.contains(tenant) {
                want.sources.insert(*address, tenant.clone());
            }
        }
        want.sources.extend(
            self.sources
                .owners()
                .map(|(address, tenant)| (address, TenantKey::of(tenant)))
                .filter(|(_, key)| want.tenants.contains_key(key)),
        );
        want
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::InstalledTenant;
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
    fn inherited() -> BTreeMap<Family, Installed> {
        let installed = Installed {
            tenants: [(key("a"), InstalledTenant::default()), (key("b"), InstalledTenant::default())].into(),
            sources: [(address(1), key("a")), (address(2), key("b"))].into(),
            bridges: None,
        };
        [(Family::V4, installed)].into()
    }

    fn summary(want: &Want) -> String {
        let tenants = want.tenants.iter().map(|(key, wanted)| match wanted {
            WantedTenant::Keep => format!("{key}:keep"),
            WantedTenant::Table(table) if table.is_closed => format!("{key}:closed"),
            WantedTenant::Table(_) => format!("{key}:table"),
        });
        let sources = want.sources.iter().map(|(address, key)| format!("{address}={key}"));
        tenants.chain(sources).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_was_inherited_stays_until_it_is_known_better() {
        let mut desired = Desired::default();
        let want = |desired: &Desired| summary(&desired.want(&inherited(), BTreeMap::new()));
        assert_eq!(want(&desired), "a:keep b:keep 10.0.0.1=a 10.0.0.2=b");

        desired.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]);
        assert_eq!(want(&desired), "a:keep b:keep 10.0.0.1=a 10.0.0.2=b");
        desired.set_sources(&uid("a"), &[address(3)].into());
        assert_eq!(want(&desired), "a:keep b:keep 10.0.0.2=b 10.0.0.3=a", "pods are known before Services");
        desired.set_table(&uid("a"), &Arc::default());
        assert_eq!(want(&desired), "a:table b:keep 10.0.0.2=b 10.0.0.3=a");

        desired.keep_only([uid("a")].into());
        assert_eq!(want(&desired), "a:table 10.0.0.3=a", "b has left the node while the agent was away");
    }

    #[test]
    fn an_address_claimed_by_a_live_pod_is_not_the_former_ones() {
        let mut desired = Desired::default();
        desired.set_table(&uid("a"), &Arc::default());
        desired.set_sources(&uid("a"), &[address(2)].into());
        assert_eq!(summary(&desired.want(&inherited(), BTreeMap::new())), "a:table b:keep 10.0.0.2=a");
    }

    #[test]
    fn a_new_tenant_is_closed_until_its_services_are_known() {
        let mut desired = Desired::default();
        let want = |desired: &Desired| summary(&desired.want(&BTreeMap::new(), BTreeMap::new()));
        desired.set_sources(&uid("a"), &[address(1)].into());
        assert_eq!(want(&desired), "", "its ranges are not known");
        desired.expect(&uid("a"), &[]);
        assert_eq!(want(&desired), "a:closed 10.0.0.1=a");
        desired.set_table(&uid("a"), &Arc::default());
        assert!(!desired.expect(&uid("a"), &[]), "its task starts anew");
        assert_eq!(want(&desired), "a:table 10.0.0.1=a");
        desired.remove(&uid("a"));
        assert_eq!(want(&desired), "");
    }

    #[test]
    fn complete_means_that_every_expected_tenant_has_spoken() {
        let mut desired = Desired::default();
        assert!(!desired.is_complete());
        desired.keep_only([uid("a")].into());
        assert!(!desired.is_complete());
        desired.set_table(&uid("a"), &Arc::default());
        assert!(!desired.is_complete());
        desired.set_sources(&uid("a"), &BTreeSet::new());
        assert!(desired.is_complete());
    }
}
