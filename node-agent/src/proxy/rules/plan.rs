//! From what the kernel has to what is wanted, in one transaction. Commands are evaluated in order, so what is pointed at
//! comes before what points at it, and goes after it.

use super::names::{Chain, Map, TenantKey};
use super::script::Script;
use super::tenant::{Elements, add_map, fill_chain, needs};
use super::{Family, Installed, InstalledTenant, Want, WantedTenant, layout};
use crate::proxy::model::{Frontend, Protocol, ServiceTable};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// How to get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approach {
    /// Only what differs from what the kernel is known to have.
    Change,
    /// The whole table, whatever the kernel has, replaced at one stroke. Connections live in conntrack and do not notice;
    /// tenants to be kept unseen are lost.
    Replace,
}

/// The commands (empty: nothing to do) and what the kernel has once they are applied. `installed` None: no table.
pub fn plan(family: Family, approach: Approach, installed: Option<&Installed>, want: &Want) -> (String, Option<Installed>) {
    let mut plan = Plan { script: Script::new(family), after: Installed::default() };
    let wanted = wanted(family, approach, installed, want);
    match (approach, installed) {
        (Approach::Change, None) if wanted.is_empty() => return (String::new(), None),
        (Approach::Change, Some(installed)) => plan.after = installed.clone(),
        (Approach::Change, None) => plan.make(),
        (Approach::Replace, _) => {
            // `delete` fails when there is none, and nft 1.0.6 knows no `destroy`.
            plan.script.table("add");
            plan.script.table("delete");
            if wanted.is_empty() {
                return (plan.script.into_text(), None);
            }
            plan.make();
        }
    }
    plan.set_bridges(want.bridges.get(&family).unwrap_or(&BTreeSet::new()));
    let sources: BTreeMap<IpAddr, TenantKey> = want
        .sources
        .iter()
        .filter(|(address, tenant)| Family::of(**address) == family && wanted.contains_key(*tenant))
        .map(|(address, tenant)| (*address, tenant.clone()))
        .collect();
    plan.remove_sources(&sources);
    for gone in plan.after.tenants.keys().filter(|tenant| !wanted.contains_key(*tenant)).cloned().collect::<Vec<_>>() {
        plan.remove_tenant(&gone);
    }
    for (tenant, table) in wanted {
        if let Some(table) = table {
            plan.set_tenant(tenant, table);
        }
    }
    plan.add_sources(&sources);
    (plan.script.into_text(), Some(plan.after))
}

/// The tenants that have a place in this family's table; None for those to be left as they are.
fn wanted<'a>(
    family: Family,
    approach: Approach,
    installed: Option<&Installed>,
    want: &'a Want,
) -> BTreeMap<&'a TenantKey, Option<&'a Arc<ServiceTable>>> {
    let is_there = |tenant: &TenantKey| installed.is_some_and(|installed| installed.tenants.contains_key(tenant));
    want.tenants
        .iter()
        .filter_map(|(tenant, wanted)| match wanted {
            WantedTenant::Keep => (approach == Approach::Change && is_there(tenant)).then_some((tenant, None)),
            WantedTenant::Table(table) => {
                let concerns = table.ranges.iter().any(|range| Family::of(range.addr()) == family)
                    || table.frontends.keys().any(|frontend| Family::of(frontend.address) == family);
                concerns.then_some((tenant, Some(table)))
            }
        })
        .collect()
}

struct Plan {
    script: Script,
    /// The kernel's state after the commands so far.
    after: Installed,
}

impl Plan {
    fn make(&mut self) {
        layout::fixed(&mut self.script);
        self.after.bridges = Some(BTreeSet::new());
    }

    fn set_bridges(&mut self, bridges: &BTreeSet<String>) {
        let pair = |name: &String| format!("\"{name}\" . \"{name}\"");
        let before = self.after.bridges.take().unwrap_or_else(|| {
            self.script.object("flush", "set", "bridges", "");
            BTreeSet::new()
        });
        let removed: Vec<_> = before.difference(bridges).map(pair).collect();
        let added: Vec<_> = bridges.difference(&before).map(pair).collect();
        self.script.elements("delete", "bridges", &removed);
        self.script.elements("add", "bridges", &added);
        self.after.bridges = Some(bridges.clone());
    }

    /// Those that are gone or another tenant's now.
    fn remove_sources(&mut self, wanted: &BTreeMap<IpAddr, TenantKey>) {
        let gone: Vec<IpAddr> =
            self.after.sources.iter().filter(|(address, tenant)| wanted.get(*address) != Some(*tenant)).map(|(a, _)| *a).collect();
        let keys: Vec<_> = gone.iter().map(ToString::to_string).collect();
        let pairs: Vec<_> = gone.iter().map(|address| format!("{address} . {address}")).collect();
        self.script.elements("delete", "sources", &keys);
        self.script.elements("delete", "learners", &keys);
        self.script.elements("delete", "pods", &keys);
        self.script.elements("delete", "hairpin", &pairs);
        self.after.sources.retain(|address, _| !gone.contains(address));
    }

    fn add_sources(&mut self, wanted: &BTreeMap<IpAddr, TenantKey>) {
        let new: Vec<_> = wanted.iter().filter(|(address, _)| !self.after.sources.contains_key(*address)).collect();
        let to = |chain: Chain| -> Vec<String> {
            new.iter().map(|(address, tenant)| format!("{address} : goto {}", chain.name(tenant))).collect()
        };
        let pairs: Vec<_> = new.iter().map(|(address, _)| format!("{address} . {address}")).collect();
        let keys: Vec<_> = new.iter().map(|(address, _)| address.to_string()).collect();
        self.script.elements("add", "pods", &keys);
        self.script.elements("add", "hairpin", &pairs);
        self.script.elements("add", "learners", &to(Chain::Learn));
        self.script.elements("add", "sources", &to(Chain::Tenant));
        self.after.sources = wanted.clone();
    }

    /// Its sources are gone already. Kernels before 6.2 may refuse to delete a chain right after the element that pointed
    /// at it; the transaction fails then, and the table is replaced.
    fn remove_tenant(&mut self, tenant: &TenantKey) {
        let Some(before) = self.after.tenants.remove(tenant) else { return };
        for chain in &before.chains {
            self.script.object("flush", "chain", &chain.name(tenant), "");
        }
        for map in Map::of_chains(&before.chains) {
            self.script.object("delete", map.word(), &map.name(tenant), "");
        }
        for chain in &before.chains {
            self.script.object("delete", "chain", &chain.name(tenant), "");
        }
    }

    fn set_tenant(&mut self, tenant: &TenantKey, table: &Arc<ServiceTable>) {
        let before = self.after.tenants.remove(tenant);
        let mut next = InstalledTenant { chains: BTreeSet::new(), table: Some(Arc::clone(table)) };
        let old = match before {
            None => {
                for map in Map::FIXED {
                    add_map(&mut self.script, tenant, map);
                }
                None
            }
            Some(InstalledTenant { chains, table: None }) => {
                // Who was served by whom stays; what of that is not true any more is for the aftermath.
                for map in Map::of_chains(&chains).filter(|map| *map != Map::Affinity) {
                    self.script.object("flush", map.word(), &map.name(tenant), "");
                }
                // The other chains depend on nothing but their names.
                if chains.contains(&Chain::Tenant) {
                    self.refill(tenant, table);
                }
                next.chains = chains;
                None
            }
            Some(InstalledTenant { chains, table: Some(old) }) => {
                next.chains = chains;
                Some(old)
            }
        };
        match old {
            Some(old) if Arc::ptr_eq(&old, table) => {}
            Some(old) => self.change(tenant, &mut next, &old, table),
            None => self.change(tenant, &mut next, &ServiceTable { ranges: table.ranges.clone(), ..Default::default() }, table),
        }
        self.after.tenants.insert(tenant.clone(), next);
    }

    /// The difference between two tables of a tenant, in chains and elements.
    fn change(&mut self, tenant: &TenantKey, next: &mut InstalledTenant, old: &ServiceTable, new: &ServiceTable) {
        let family = self.script.family;
        let mut removed = Elements::new();
        let mut added = Elements::new();
        let mut chains: BTreeSet<Chain> = [Chain::Tenant, Chain::Learn].into();
        for frontend in changed_frontends(family, old, new) {
            if let Some(target) = old.frontends.get(frontend) {
                removed.extend(needs(tenant, frontend, target).elements);
            }
            if let Some(target) = new.frontends.get(frontend) {
                let needs = needs(tenant, frontend, target);
                added.extend(needs.elements);
                chains.extend(needs.chains);
            }
            let address = (Map::Addresses, frontend.address.to_string());
            if owns(old, frontend.address) {
                removed.insert(address.clone(), String::new());
            }
            if owns(new, frontend.address) {
                added.insert(address, String::new());
            }
        }

        let new_chains: Vec<Chain> = chains.difference(&next.chains).copied().collect();
        if next.chains.contains(&Chain::Tenant) && old.ranges != new.ranges {
            self.refill(tenant, new);
        }
        for chain in &new_chains {
            if let Chain::Pick(count) = chain {
                add_map(&mut self.script, tenant, Map::Endpoints(*count));
            }
            self.script.object("add", "chain", &chain.name(tenant), "");
        }
        for chain in &new_chains {
            fill_chain(&mut self.script, tenant, *chain, new);
        }
        next.chains.extend(new_chains);

        let maps: BTreeSet<Map> = removed.keys().chain(added.keys()).map(|(map, _)| *map).collect();
        for map in &maps {
            let keys: Vec<String> = of_map(*map, &removed, &added).map(|(key, _)| key.clone()).collect();
            self.script.elements("delete", &map.name(tenant), &keys);
        }
        for map in &maps {
            let elements: Vec<String> = of_map(*map, &added, &removed)
                .map(|(key, value)| if value.is_empty() { key.clone() } else { format!("{key} : {value}") })
                .collect();
            self.script.elements("add", &map.name(tenant), &elements);
        }
    }

    /// The one chain whose rules change: it names the ranges.
    fn refill(&mut self, tenant: &TenantKey, table: &ServiceTable) {
        self.script.object("flush", "chain", &Chain::Tenant.name(tenant), "");
        fill_chain(&mut self.script, tenant, Chain::Tenant, table);
    }
}

/// The map's elements that are not the same in `others`.
fn of_map<'a>(map: Map, elements: &'a Elements, others: &'a Elements) -> impl Iterator<Item = (&'a String, &'a String)> {
    let of_map = elements.range((map, String::new())..).take_while(move |((this, _), _)| *this == map);
    of_map.filter(|(key, value)| others.get(*key) != Some(*value)).map(|((_, key), value)| (key, value))
}

fn changed_frontends<'a>(family: Family, old: &'a ServiceTable, new: &'a ServiceTable) -> impl Iterator<Item = &'a Frontend> {
    let gone = old.frontends.keys().filter(|frontend| !new.frontends.contains_key(frontend));
    let other =
        new.frontends.iter().filter(|(frontend, target)| old.frontends.get(frontend).is_none_or(|before| before.backend != target.backend));
    gone.chain(other.map(|(frontend, _)| frontend)).filter(move |frontend| Family::of(frontend.address) == family)
}

fn owns(table: &ServiceTable, address: IpAddr) -> bool {
    let first = Frontend { address, protocol: Protocol::Tcp, port: 0 };
    table.frontends.range(first..).next().is_some_and(|(frontend, _)| frontend.address == address)
}
