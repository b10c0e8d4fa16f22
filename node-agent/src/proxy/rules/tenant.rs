//! One tenant's chains, maps and elements.

use super::names::{Chain, Map, TenantKey};
use super::script::{Script, endpoint};
use super::{Family, Remembered};
use crate::proxy::model::{Backend, Frontend, Protocol, ServiceTable, Target};
use std::collections::{BTreeMap, BTreeSet};

/// Clients of one tenant that session affinity can remember at one time, on one node: about 12 MiB of kernel memory when
/// full, nothing when empty. Past it, new clients get any endpoint.
const AFFINITY_ENTRIES: u32 = 65_536;

pub fn add_map(script: &mut Script, tenant: &TenantKey, map: Map) {
    let word = script.family.word();
    let address = script.address_type();
    let kind = match map {
        Map::Services | Map::Sticky => format!("type {address} . inet_proto . inet_service : verdict"),
        Map::Endpoints(1) => format!("type {address} . inet_proto . inet_service : {address} . inet_service"),
        // `typeof` is the only way to say "32-bit number" in a key; which modulus does not matter. Hazard: nft 1.0.6 cannot
        // make a rule that looks up such a map ("conflicting protocols") unless it makes the map in the same transaction. So
        // each has one rule, made with it and never again.
        Map::Endpoints(_) => format!("typeof {word} daddr . meta l4proto . th dport . numgen random mod 2 : {word} daddr . th dport"),
        // The map's own timeout is a fallback: each element brings that of its Service.
        Map::Affinity => format!(
            "type {address} . {address} . inet_proto . inet_service : {address} . inet_service; \
             flags dynamic,timeout; size {AFFINITY_ENTRIES}; timeout 3h"
        ),
        Map::Addresses => format!("type {address}"),
    };
    script.object("add", map.word(), &map.name(tenant), &format!(" {{ {kind}; }}"));
}

/// The rules of a chain that exists and is empty.
pub fn fill_chain(script: &mut Script, tenant: &TenantKey, chain: Chain, table: &ServiceTable) {
    let word = script.family.word();
    let family = script.family;
    let name = chain.name(tenant);
    let frontend = format!("{word} daddr . meta l4proto . th dport");
    match chain {
        Chain::Tenant => {
            script.rule(&name, &format!("{frontend} vmap @{}", Map::Services.name(tenant)));
            script.rule(&name, &format!("{word} daddr @{} goto refuse", Map::Addresses.name(tenant)));
            for range in table.ranges.iter().filter(|range| Family::of(range.addr()) == family) {
                script.rule(&name, &format!("{word} daddr {range} drop"));
            }
        }
        // One rule per protocol: nft 1.0.6 cannot concatenate `ct original proto-dst` before it knows the protocol.
        Chain::Learn => {
            for protocol in Protocol::ALL {
                script.rule(
                    &name,
                    &format!(
                        "meta l4proto {protocol} ct original {word} daddr . meta l4proto . ct original proto-dst vmap @{}",
                        Map::Sticky.name(tenant)
                    ),
                );
            }
        }
        Chain::Pick(count) => {
            let index = if count == 1 { String::new() } else { format!(" . numgen random mod {count}") };
            script.rule(&name, &format!("dnat to {frontend}{index} map @{}", Map::Endpoints(count).name(tenant)));
        }
        Chain::Stay(count) => {
            script.rule(&name, &format!("dnat to {word} saddr . {frontend} map @{}", Map::Affinity.name(tenant)));
            script.rule(&name, &format!("goto {}", Chain::Pick(count).name(tenant)));
        }
        // `update` refreshes the time of an element that is there and leaves its endpoint alone.
        Chain::Keep(seconds) => {
            for protocol in Protocol::ALL {
                script.rule(
                    &name,
                    &format!(
                        "meta l4proto {protocol} update @{} {{ {word} saddr . ct original {word} daddr . meta l4proto . \
                         ct original proto-dst timeout {seconds}s : {word} daddr . th dport }}",
                        Map::Affinity.name(tenant)
                    ),
                );
            }
        }
    }
}

/// Elements by map and key; the value is empty for sets.
pub type Elements = BTreeMap<(Map, String), String>;

/// Everything that one frontend needs: its elements, and the chains they name.
#[derive(Default)]
pub struct Needs {
    pub elements: Elements,
    pub chains: BTreeSet<Chain>,
}

pub fn needs(tenant: &TenantKey, frontend: &Frontend, target: &Target) -> Needs {
    let mut needs = Needs::default();
    let key = frontend_key(frontend);
    let verdict = match &target.backend {
        Backend::Reject => "goto refuse".to_owned(),
        Backend::Drop => "drop".to_owned(),
        Backend::Endpoints { endpoints, affinity } => {
            let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
            for (index, address) in endpoints.iter().enumerate() {
                let key = if count == 1 { key.clone() } else { format!("{key} . {index}") };
                needs.elements.insert((Map::Endpoints(count), key), endpoint(*address));
            }
            needs.chains.insert(Chain::Pick(count));
            let chain = if let Some(affinity) = affinity {
                let keep = Chain::Keep(affinity.seconds);
                needs.elements.insert((Map::Sticky, key.clone()), format!("goto {}", keep.name(tenant)));
                needs.chains.extend([Chain::Stay(count), keep]);
                Chain::Stay(count)
            } else {
                Chain::Pick(count)
            };
            format!("goto {}", chain.name(tenant))
        }
    };
    needs.elements.insert((Map::Services, key), verdict);
    needs
}

fn frontend_key(frontend: &Frontend) -> String {
    format!("{} . {} . {}", frontend.address, frontend.protocol, frontend.port)
}

/// Lets session affinity forget clients, all of them at once. Fails if one has been forgotten meanwhile.
pub fn forget(family: Family, tenant: &TenantKey, clients: &[Remembered]) -> String {
    let mut script = Script::new(family);
    let keys: Vec<_> = clients.iter().map(|entry| format!("{} . {}", entry.client, frontend_key(&entry.frontend))).collect();
    script.elements("delete", &Map::Affinity.name(tenant), &keys);
    script.into_text()
}
