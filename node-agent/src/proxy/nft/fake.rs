//! A packet filter in memory: as strict as the kernel about what exists and what is pointed at, and able to list what was
//! applied. `contract.rs` holds it to what `nft` does.

use super::listing::Listing;
use super::objects::{AffinityEntry, Map, TenantMap, Transaction};
use super::{Netfilter, NetfilterError};
use crate::proxy::table::{Family, Frontend, TenantKey};
use crate::services::Protocol;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(crate) struct FakeNetfilter(Mutex<State>);

#[derive(Default)]
struct State {
    kernels: BTreeMap<Family, Kernel>,
    applied: Vec<String>,
    failures: u32,
}

impl FakeNetfilter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next so many transactions fail.
    pub(crate) fn fail(&self, times: u32) {
        self.state().failures = times;
    }

    /// What a former process left.
    pub(crate) fn inherit(&self, family: Family, kernel: Kernel) {
        self.state().kernels.insert(family, kernel);
    }

    /// Transactions applied so far, in order.
    pub(crate) fn applied(&self) -> Vec<String> {
        self.state().applied.clone()
    }

    pub(crate) fn kernel(&self, family: Family) -> Kernel {
        self.state().kernels.get(&family).cloned().unwrap_or_default()
    }

    /// The pod addresses of IPv4 that have rules.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.kernel(Family::V4).maps.get(&Map::Sources.name()).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }
}

fn refused(stderr: String) -> NetfilterError {
    NetfilterError::Refused { status: ExitStatus::from_raw(1 << 8), stderr }
}

#[async_trait::async_trait]
impl Netfilter for FakeNetfilter {
    async fn apply(&self, transaction: &Transaction) -> Result<(), NetfilterError> {
        let mut state = self.state();
        if state.failures > 0 {
            state.failures -= 1;
            return Err(refused("made to fail".to_owned()));
        }
        let kernel = state.kernels.entry(transaction.family).or_default();
        kernel.apply(transaction).map_err(refused)?;
        state.applied.push(transaction.to_string());
        Ok(())
    }

    async fn list(&self, family: Family) -> Result<Listing, NetfilterError> {
        let kernel = self.kernel(family);
        if !kernel.has_table {
            return Ok(Listing::Absent);
        }
        let sources = kernel.maps.get(&Map::Sources.name()).and_then(|sources| {
            sources.iter().map(|(address, verdict)| Some((address.parse().ok()?, verdict.strip_prefix("goto ")?))).collect()
        });
        Ok(Listing::of(kernel.chains.keys().map(String::as_str), sources))
    }

    async fn is_present(&self, family: Family) -> Result<bool, NetfilterError> {
        Ok(self.kernel(family).has_table)
    }

    async fn affinity(&self, family: Family, tenant: &TenantKey) -> Result<Vec<AffinityEntry>, NetfilterError> {
        let kernel = self.kernel(family);
        let name = TenantMap::Affinity.of(tenant).name();
        let map = kernel.maps.get(&name).ok_or_else(|| refused(format!("no map {name}")))?;
        let read = |(key, value): (&String, &String)| {
            let (key, value): (Vec<&str>, Vec<&str>) = (key.split(" . ").collect(), value.split(" . ").collect());
            let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.to_string() == key[2]).unwrap();
            AffinityEntry {
                client: key[0].parse().unwrap(),
                frontend: Frontend { address: key[1].parse().unwrap(), protocol, port: key[3].parse().unwrap() },
                endpoint: SocketAddr::new(value[0].parse().unwrap(), value[1].parse().unwrap()),
            }
        };
        Ok(map.iter().map(read).collect())
    }
}

/// One family's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Refuses an element that is there already with the same value, which the kernel accepts.
    pub(crate) is_strict: bool,
    pub(crate) has_table: bool,
    /// Rules by chain.
    pub(crate) chains: BTreeMap<String, Vec<String>>,
    /// Elements by map, key and value; a set's values are empty.
    pub(crate) maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Kernel {
    /// All commands or none; the error says where the kernel would refuse.
    pub(crate) fn apply(&mut self, transaction: &Transaction) -> Result<(), String> {
        let mut after = self.clone();
        let family = transaction.family.word();
        for line in transaction.to_string().lines() {
            let mut words = line.splitn(5, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (verb, kind) = (word(), word());
            if (word(), word()) != (family, "nestling") {
                return Err(format!("another table: {line}"));
            }
            let rest = word();
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            after.command(verb, kind, name, rest).ok_or_else(|| line.to_owned())?;
        }
        after.check()?;
        *self = after;
        Ok(())
    }

    /// None where the kernel would refuse.
    fn command(&mut self, verb: &str, kind: &str, name: &str, rest: &str) -> Option<()> {
        match (verb, kind) {
            ("add", "table") => self.has_table = true,
            _ if !self.has_table => return None,
            ("delete", "table") => *self = Self { is_strict: self.is_strict, ..Self::default() },
            ("add", "chain") => drop(self.chains.entry(name.into()).or_default()),
            ("flush", "chain") => self.chains.get_mut(name)?.clear(),
            ("delete", "chain") => drop(self.chains.remove(name).filter(Vec::is_empty)?),
            ("add", "rule") => self.chains.get_mut(name)?.push(rest.into()),
            ("add", "map" | "set") => drop(self.maps.entry(name.into()).or_default()),
            ("flush", "map" | "set") => self.maps.get_mut(name)?.clear(),
            ("delete", "map" | "set") => drop(self.maps.remove(name)?),
            ("add", "element") => {
                let (is_strict, map) = (self.is_strict, self.maps.get_mut(name)?);
                for element in elements(rest) {
                    let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
                    if map.insert(key.into(), value.into()).is_some_and(|before| is_strict || before != value) {
                        return None;
                    }
                }
            }
            ("delete", "element") => {
                let map = self.maps.get_mut(name)?;
                for element in elements(rest) {
                    map.remove(element)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Everything that is pointed at exists.
    fn check(&self) -> Result<(), String> {
        for rule in self.chains.values().flatten() {
            let maps = rule.split(' ').filter_map(|word| word.strip_prefix('@'));
            if let Some(name) = maps.into_iter().find(|name| !self.maps.contains_key(*name)) {
                return Err(format!("no map {name}: {rule}"));
            }
        }
        for text in self.chains.values().flatten().chain(self.maps.values().flat_map(BTreeMap::values)) {
            if let Some(name) = after_goto(text).find(|name| !self.chains.contains_key(*name)) {
                return Err(format!("no chain {name}: {text}"));
            }
        }
        Ok(())
    }

    /// Without what nothing leads to: chains and maps for numbers of endpoints that no Service has now.
    pub(crate) fn reachable(&self) -> Self {
        let mut reached = self.clone();
        loop {
            let pointed: Vec<String> = reached
                .chains
                .values()
                .flatten()
                .chain(reached.maps.values().flat_map(BTreeMap::values))
                .flat_map(|text| after_goto(text))
                .map(str::to_owned)
                .collect();
            let before = reached.chains.len();
            let is_counted = |name: &str| ["lb-", "affinity-", "record-"].iter().any(|kind| name.starts_with(kind));
            reached.chains.retain(|name, _| !is_counted(name) || pointed.contains(name));
            let balanced: Vec<String> = reached.chains.keys().map(|name| name.replacen("lb-", "endpoints-", 1)).collect();
            reached.maps.retain(|name, elements| !name.starts_with("endpoints-") || balanced.contains(name) || !elements.is_empty());
            if reached.chains.len() == before {
                return reached;
            }
        }
    }

    /// Where a connection goes: the endpoints, or the word for none.
    pub(crate) fn outcome(&self, client: &str, frontend: &str) -> String {
        let Some(tenant) = self.maps["sources"].get(client).and_then(|verdict| verdict.strip_prefix("goto tenant-")) else {
            return "not ours".into();
        };
        let address = frontend.split(' ').next().unwrap();
        let Some(verdict) = self.maps[&format!("services-{tenant}")].get(frontend) else {
            let is_known = self.maps[&format!("cluster-ips-{tenant}")].contains_key(address);
            return if is_known { "goto reject-connection".into() } else { "not a service".into() };
        };
        let Some(chain) = verdict.strip_prefix("goto ").filter(|chain| *chain != "reject-connection") else { return verdict.clone() };
        let count: usize = chain.split('-').nth(1).unwrap().parse().unwrap();
        let endpoints = &self.maps[&format!("endpoints-{count}-{tenant}")];
        if count == 1 {
            return endpoints[frontend].clone();
        }
        (0..count).map(|index| endpoints[&format!("{frontend} . {index}")].clone()).collect::<Vec<_>>().join(", ")
    }
}

fn elements(rest: &str) -> impl Iterator<Item = &str> {
    rest.trim_start_matches("{ ").trim_end_matches(" }").split(", ")
}

fn after_goto(text: &str) -> impl Iterator<Item = &str> {
    text.split("goto ").skip(1).filter_map(|rest| rest.split(' ').next())
}
