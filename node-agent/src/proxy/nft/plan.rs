//! From the table that the kernel has to the table that is to be, in one transaction. Commands are evaluated in order, so
//! what is pointed at comes before what points at it, and goes after it. Pure.

use super::objects::{Chain, Command, Key, Map, TenantChain, TenantMap, Transaction, Value};
use crate::proxy::table::{AddressChange, Backend, Family, Frontend, NodeTable, ServiceTable, Target, TenantKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// How to get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approach {
    /// Only what differs from what the kernel is known to have.
    Change,
    /// The whole table, whatever the kernel has, replaced in one transaction. Connections live in conntrack and are not
    /// affected; rules that a former process left are lost.
    Replace,
}

/// What the kernel has of one family's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) table: NodeTable,
    /// Chains outlive the last Service that needed them, until the tenant goes.
    pub(crate) chains: BTreeMap<TenantKey, BTreeSet<TenantChain>>,
}

/// The transaction (without commands: nothing to do) and what the kernel has once it is applied. None: no table.
pub(crate) fn plan(
    family: Family,
    approach: Approach,
    installed: Option<&Installed>,
    desired: &NodeTable,
) -> (Transaction, Option<Installed>) {
    let mut plan = Plan { family, commands: Vec::new(), after: Installed::default() };
    let is_empty = desired.tenants.is_empty();
    match (approach, installed) {
        (Approach::Change, Some(installed)) => plan.after = installed.clone(),
        (Approach::Change, None) if is_empty => return plan.done(false),
        (Approach::Change, None) => plan.add_table(),
        (Approach::Replace, _) => {
            // `delete` fails when there is none, and nft 1.0.6 knows no `destroy`.
            plan.commands.extend([Command::AddTable, Command::DeleteTable]);
            if is_empty {
                return plan.done(false);
            }
            plan.add_table();
        }
    }
    plan.set_bridges(desired.bridges.as_ref().unwrap_or(&BTreeSet::new()));
    plan.remove_sources(&desired.sources);
    for gone in plan.after.table.tenants.keys().filter(|tenant| !desired.tenants.contains_key(*tenant)).cloned().collect::<Vec<_>>() {
        plan.remove_tenant(&gone);
    }
    for (tenant, services) in &desired.tenants {
        if let Some(services) = services {
            plan.set_tenant(tenant, services);
        }
    }
    plan.add_sources(&desired.sources);
    plan.done(true)
}

struct Plan {
    family: Family,
    commands: Vec<Command>,
    /// The kernel's state after the commands so far.
    after: Installed,
}

impl Plan {
    fn done(self, is_there: bool) -> (Transaction, Option<Installed>) {
        (Transaction { family: self.family, commands: self.commands }, is_there.then_some(self.after))
    }

    /// The table with nothing in it.
    fn add_table(&mut self) {
        let maps = [Map::Sources, Map::Recorders, Map::Pods, Map::Hairpin, Map::Bridges];
        let chains = [Chain::Reject, Chain::Prerouting, Chain::Record, Chain::Masquerading, Chain::Postrouting];
        self.commands.extend([Command::AddTable, Command::AddChain(Chain::Layout)]);
        self.commands.extend(maps.map(Command::AddMap));
        for chain in chains {
            self.commands.extend([Command::AddChain(chain.clone()), Command::AddRules { chain, ranges: Vec::new() }]);
        }
        self.after.table.bridges = Some(BTreeSet::new());
    }

    fn add(&mut self, map: Map, elements: Vec<(Key, Value)>) {
        if !elements.is_empty() {
            self.commands.push(Command::AddElements(map, elements));
        }
    }

    fn delete(&mut self, map: Map, keys: Vec<Key>) {
        if !keys.is_empty() {
            self.commands.push(Command::DeleteElements(map, keys));
        }
    }

    fn set_bridges(&mut self, bridges: &BTreeSet<String>) {
        let before = self.after.table.bridges.take().unwrap_or_else(|| {
            self.commands.push(Command::FlushMap(Map::Bridges));
            BTreeSet::new()
        });
        self.delete(Map::Bridges, before.difference(bridges).cloned().map(Key::Bridge).collect());
        self.add(Map::Bridges, bridges.difference(&before).map(|name| (Key::Bridge(name.clone()), Value::None)).collect());
        self.after.table.bridges = Some(bridges.clone());
    }

    /// Those that are gone or another tenant's now.
    fn remove_sources(&mut self, desired: &BTreeMap<IpAddr, TenantKey>) {
        let sources = &mut self.after.table.sources;
        let gone: Vec<IpAddr> =
            sources.iter().filter(|(address, tenant)| desired.get(*address) != Some(*tenant)).map(|(address, _)| *address).collect();
        for address in &gone {
            sources.remove(address);
        }
        for map in [Map::Sources, Map::Recorders, Map::Pods] {
            self.delete(map, gone.iter().copied().map(Key::Address).collect());
        }
        self.delete(Map::Hairpin, gone.into_iter().map(Key::Hairpin).collect());
    }

    fn add_sources(&mut self, desired: &BTreeMap<IpAddr, TenantKey>) {
        let new: Vec<_> = desired.iter().filter(|(address, _)| !self.after.table.sources.contains_key(*address)).collect();
        let set = |key: fn(IpAddr) -> Key| new.iter().map(|(address, _)| (key(**address), Value::None)).collect();
        let to =
            |chain: TenantChain| new.iter().map(|(address, tenant)| (Key::Address(**address), Value::Goto(chain.of(tenant)))).collect();
        self.add(Map::Pods, set(Key::Address));
        self.add(Map::Hairpin, set(Key::Hairpin));
        self.add(Map::Recorders, to(TenantChain::Recorder));
        self.add(Map::Sources, to(TenantChain::Tenant));
        self.after.table.sources.clone_from(desired);
    }

    /// Its sources are gone already. Kernels before 6.2 may refuse to delete a chain right after the element that pointed
    /// at it; the transaction fails then, and the table is replaced.
    fn remove_tenant(&mut self, tenant: &TenantKey) {
        self.after.table.tenants.remove(tenant);
        let chains = self.after.chains.remove(tenant).unwrap_or_default();
        self.commands.extend(chains.iter().map(|chain| Command::FlushChain(chain.of(tenant))));
        self.commands.extend(TenantMap::of_chains(&chains).map(|map| Command::DeleteMap(map.of(tenant))));
        self.commands.extend(chains.iter().map(|chain| Command::DeleteChain(chain.of(tenant))));
    }

    fn set_tenant(&mut self, tenant: &TenantKey, services: &Arc<ServiceTable>) {
        let empty = || Arc::new(ServiceTable { ranges: services.ranges.clone(), ..ServiceTable::default() });
        let before = match self.after.table.tenants.insert(tenant.clone(), Some(Arc::clone(services))) {
            Some(Some(before)) if Arc::ptr_eq(&before, services) => return,
            Some(Some(before)) => before,
            // Left by a former process: emptied, except for session affinity; what of that is stale is cleaned up later.
            Some(None) => {
                let chains = self.after.chains.entry(tenant.clone()).or_default().clone();
                let maps = TenantMap::of_chains(&chains).filter(|map| *map != TenantMap::Affinity);
                self.commands.extend(maps.map(|map| Command::FlushMap(map.of(tenant))));
                // The other chains depend on nothing but their names.
                if chains.contains(&TenantChain::Tenant) {
                    self.refill(tenant, services);
                }
                empty()
            }
            None => {
                self.commands.extend(TenantMap::FIXED.map(|map| Command::AddMap(map.of(tenant))));
                empty()
            }
        };
        self.change_tenant(tenant, &before, services);
    }

    /// The difference between two tables of a tenant, in chains and elements.
    fn change_tenant(&mut self, tenant: &TenantKey, before: &ServiceTable, after: &ServiceTable) {
        let mut removed = Elements::new();
        let mut added = Elements::new();
        let mut chains: BTreeSet<TenantChain> = [TenantChain::Tenant, TenantChain::Recorder].into();
        for change in before.changes(after).filter(|change| Family::of(change.address) == self.family) {
            let AddressChange { address, before, after } = change;
            for (frontends, elements) in [(before, &mut removed), (after, &mut added)] {
                if !frontends.is_empty() {
                    elements.insert((TenantMap::ClusterIps, Key::Address(address)), Value::None);
                }
                for (frontend, target) in frontends {
                    insert_elements(elements, tenant, frontend, target);
                }
            }
            chains.extend(after.iter().flat_map(|(_, target)| needed_chains(target)));
        }

        let existing = self.after.chains.entry(tenant.clone()).or_default();
        let new: Vec<TenantChain> = chains.difference(existing).copied().collect();
        let needs_refill = existing.contains(&TenantChain::Tenant) && before.ranges != after.ranges;
        existing.extend(&new);
        if needs_refill {
            self.refill(tenant, after);
        }
        for chain in &new {
            if let TenantChain::LoadBalance(count) = chain {
                self.commands.push(Command::AddMap(TenantMap::Endpoints(*count).of(tenant)));
            }
            self.commands.push(Command::AddChain(chain.of(tenant)));
        }
        for chain in new {
            self.add_rules(tenant, chain, after);
        }

        let maps: BTreeSet<TenantMap> = removed.keys().chain(added.keys()).map(|(map, _)| *map).collect();
        for map in &maps {
            self.delete(map.of(tenant), differing(*map, &removed, &added).map(|(key, _)| key.clone()).collect());
        }
        for map in &maps {
            let elements = differing(*map, &added, &removed).map(|(key, value)| (key.clone(), value.clone()));
            self.add(map.of(tenant), elements.collect());
        }
    }

    /// The one chain whose rules change: it names the ranges.
    fn refill(&mut self, tenant: &TenantKey, services: &ServiceTable) {
        self.commands.push(Command::FlushChain(TenantChain::Tenant.of(tenant)));
        self.add_rules(tenant, TenantChain::Tenant, services);
    }

    fn add_rules(&mut self, tenant: &TenantKey, chain: TenantChain, services: &ServiceTable) {
        let ranges = if chain == TenantChain::Tenant { services.ranges.iter().copied().collect() } else { Vec::new() };
        self.commands.push(Command::AddRules { chain: chain.of(tenant), ranges });
    }
}

/// Elements of one tenant.
type Elements = BTreeMap<(TenantMap, Key), Value>;

/// The map's elements that are not the same in `others`.
fn differing<'a>(map: TenantMap, elements: &'a Elements, others: &'a Elements) -> impl Iterator<Item = (&'a Key, &'a Value)> {
    let first = Key::Address(IpAddr::from([0; 4]));
    let of_map = elements.range((map, first)..).take_while(move |((this, _), _)| *this == map);
    of_map.filter(|(key, value)| others.get(*key) != Some(*value)).map(|((_, key), value)| (key, value))
}

/// The elements of one frontend.
fn insert_elements(elements: &mut Elements, tenant: &TenantKey, frontend: &Frontend, target: &Target) {
    let key = Key::Frontend(*frontend);
    let verdict = match &target.backend {
        Backend::Reject => Value::Goto(Chain::Reject),
        Backend::Drop => Value::Drop,
        Backend::Endpoints { endpoints, affinity } => {
            let count = count_of(endpoints);
            for (index, address) in (0..count).zip(&**endpoints) {
                let key = if count == 1 { key.clone() } else { Key::Endpoint(*frontend, index) };
                elements.insert((TenantMap::Endpoints(count), key), Value::Endpoint(*address));
            }
            let chain = if let Some(affinity) = affinity {
                let record = TenantChain::Record(affinity.seconds).of(tenant);
                elements.insert((TenantMap::Sticky, key.clone()), Value::Goto(record));
                TenantChain::Affinity(count)
            } else {
                TenantChain::LoadBalance(count)
            };
            Value::Goto(chain.of(tenant))
        }
    };
    elements.insert((TenantMap::Services, key), verdict);
}

/// The chains that a frontend's elements name, and those that these name.
fn needed_chains(target: &Target) -> Vec<TenantChain> {
    let Backend::Endpoints { endpoints, affinity } = &target.backend else { return Vec::new() };
    let count = count_of(endpoints);
    let sticky = affinity.iter().flat_map(|affinity| [TenantChain::Affinity(count), TenantChain::Record(affinity.seconds)]);
    std::iter::once(TenantChain::LoadBalance(count)).chain(sticky).collect()
}

fn count_of<T>(endpoints: &[T]) -> u32 {
    u32::try_from(endpoints.len()).unwrap_or(u32::MAX)
}
