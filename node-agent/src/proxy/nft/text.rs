//! Commands → text for `nft -f`. nft 1.0.6 (Debian 12) sets the limits: no `destroy`, no nested tables without a newline
//! before each brace, numbers instead of some priority names, and no object named by one of its keywords.

use super::objects::{Chain, Command, Key, Map, TABLE, TenantChain, TenantMap, Transaction, Value};
use crate::proxy::table::{Family, Frontend};
use crate::services::Protocol;
use ipnet::IpNet;
use std::fmt;

/// Clients of one tenant with a recorded endpoint at one time, on one node: about 12 MiB of kernel memory when full,
/// nothing when empty. Past it, new clients get any endpoint.
const AFFINITY_ENTRIES: u32 = 65_536;

impl Family {
    /// nft's word for the family, in tables and in expressions.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.family;
        let table = format!("{} {TABLE}", family.word());
        for command in &self.commands {
            match command {
                Command::AddTable => writeln!(f, "add table {table}")?,
                Command::DeleteTable => writeln!(f, "delete table {table}")?,
                Command::AddChain(chain) => writeln!(f, "add chain {table} {}{}", chain.name(), hook(chain))?,
                Command::AddRules { chain, ranges } => {
                    for rule in rules(family, chain, ranges) {
                        writeln!(f, "add rule {table} {} {rule}", chain.name())?;
                    }
                }
                Command::FlushChain(chain) => writeln!(f, "flush chain {table} {}", chain.name())?,
                Command::DeleteChain(chain) => writeln!(f, "delete chain {table} {}", chain.name())?,
                Command::AddMap(map) => writeln!(f, "add {} {table} {} {{ {}; }}", kind(map), map.name(), definition(family, map))?,
                Command::FlushMap(map) => writeln!(f, "flush {} {table} {}", kind(map), map.name())?,
                Command::DeleteMap(map) => writeln!(f, "delete {} {table} {}", kind(map), map.name())?,
                Command::AddElements(map, elements) => {
                    write!(f, "add element {table} {} {{ ", map.name())?;
                    for (index, (key, value)) in elements.iter().enumerate() {
                        write!(f, "{}{key}{value}", if index == 0 { "" } else { ", " })?;
                    }
                    writeln!(f, " }}")?;
                }
                Command::DeleteElements(map, keys) => {
                    write!(f, "delete element {table} {} {{ ", map.name())?;
                    for (index, key) in keys.iter().enumerate() {
                        write!(f, "{}{key}", if index == 0 { "" } else { ", " })?;
                    }
                    writeln!(f, " }}")?;
                }
            }
        }
        Ok(())
    }
}

/// nft's word for the object.
fn kind(map: &Map) -> &'static str {
    if map.is_set() { "set" } else { "map" }
}

fn definition(family: Family, map: &Map) -> String {
    let word = family.word();
    let address = family.address_type();
    match map {
        Map::Sources | Map::Recorders => format!("type {address} : verdict"),
        Map::Hairpin => format!("type {address} . {address}"),
        Map::Bridges => "type ifname . ifname".to_owned(),
        Map::Of(_, TenantMap::Services | TenantMap::Sticky) => format!("type {address} . inet_proto . inet_service : verdict"),
        Map::Of(_, TenantMap::Endpoints(1)) => format!("type {address} . inet_proto . inet_service : {address} . inet_service"),
        // `typeof` is the only way to say "32-bit number" in a key; which modulus does not matter. Hazard: nft 1.0.6 cannot
        // make a rule that looks up such a map ("conflicting protocols") unless it makes the map in the same transaction. So
        // each has one rule, made with it and never again.
        Map::Of(_, TenantMap::Endpoints(_)) => {
            format!("typeof {word} daddr . meta l4proto . th dport . numgen random mod 2 : {word} daddr . th dport")
        }
        // The map's own timeout is a fallback: each element brings that of its Service.
        Map::Of(_, TenantMap::Affinity) => format!(
            "type {address} . {address} . inet_proto . inet_service : {address} . inet_service; \
             flags dynamic,timeout; size {AFFINITY_ENTRIES}; timeout 3h"
        ),
        Map::Pods | Map::Of(_, TenantMap::ClusterIps) => format!("type {address}"),
    }
}

/// Where a base chain is hooked in. Priorities: see the module.
fn hook(chain: &Chain) -> &'static str {
    match chain {
        Chain::Prerouting => " { type nat hook prerouting priority -110; policy accept; }",
        Chain::Record => " { type filter hook prerouting priority -90; policy accept; }",
        Chain::Postrouting => " { type nat hook postrouting priority 90; policy accept; }",
        Chain::Layout | Chain::Reject | Chain::Masquerading | Chain::Of(..) => "",
    }
}

fn rules(family: Family, chain: &Chain, ranges: &[IpNet]) -> Vec<String> {
    let word = family.word();
    let frontend = format!("{word} daddr . meta l4proto . th dport");
    // One rule per protocol: nft 1.0.6 cannot concatenate `ct original proto-dst` before it knows the protocol.
    let per_protocol = |rule: String| Protocol::ALL.map(|protocol| format!("meta l4proto {protocol} {rule}")).to_vec();
    match chain {
        Chain::Layout => Vec::new(),
        Chain::Reject => {
            let unreachable = if family == Family::V4 { "icmp" } else { "icmpv6" };
            vec!["meta l4proto tcp reject with tcp reset".to_owned(), format!("reject with {unreachable} type port-unreachable")]
        }
        Chain::Prerouting => vec![format!("{word} saddr vmap @{}", Map::Sources.name())],
        Chain::Record => vec![format!("ct state new ct status dnat {word} saddr vmap @{}", Map::Recorders.name())],
        // A pod that reaches itself through a Service would drop a packet from its own address, and its answer would not go
        // through the node.
        Chain::Masquerading => vec![
            format!("{word} saddr . {word} daddr @{} masquerade fully-random", Map::Hairpin.name()),
            format!("iifname . oifname @{} masquerade fully-random", Map::Bridges.name()),
        ],
        Chain::Postrouting => vec![format!("ct status dnat {word} saddr @{} goto {}", Map::Pods.name(), Chain::Masquerading.name())],
        Chain::Of(tenant, TenantChain::Tenant) => {
            let services = format!("{frontend} vmap @{}", TenantMap::Services.of(tenant).name());
            let other_ports = format!("{word} daddr @{} goto {}", TenantMap::ClusterIps.of(tenant).name(), Chain::Reject.name());
            let drops = ranges.iter().filter(|range| Family::of(range.addr()) == family).map(|range| format!("{word} daddr {range} drop"));
            [services, other_ports].into_iter().chain(drops).collect()
        }
        Chain::Of(tenant, TenantChain::Recorder) => {
            let sticky = TenantMap::Sticky.of(tenant).name();
            per_protocol(format!("ct original {word} daddr . meta l4proto . ct original proto-dst vmap @{sticky}"))
        }
        Chain::Of(tenant, TenantChain::LoadBalance(count)) => {
            let index = if *count == 1 { String::new() } else { format!(" . numgen random mod {count}") };
            vec![format!("dnat to {frontend}{index} map @{}", TenantMap::Endpoints(*count).of(tenant).name())]
        }
        Chain::Of(tenant, TenantChain::Affinity(count)) => vec![
            format!("dnat to {word} saddr . {frontend} map @{}", TenantMap::Affinity.of(tenant).name()),
            format!("goto {}", TenantChain::LoadBalance(*count).of(tenant).name()),
        ],
        // `update` refreshes the time of an element that is there and leaves its endpoint alone.
        Chain::Of(tenant, TenantChain::Record(seconds)) => per_protocol(format!(
            "update @{} {{ {word} saddr . ct original {word} daddr . meta l4proto . ct original proto-dst timeout {seconds}s : {word} daddr . th dport }}",
            TenantMap::Affinity.of(tenant).name()
        )),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Hairpin(address) => write!(f, "{address} . {address}"),
            Self::Bridge(name) => write!(f, "\"{name}\" . \"{name}\""),
            Self::Frontend(frontend) => frontend.fmt(f),
            Self::Endpoint(frontend, index) => write!(f, "{frontend} . {index}"),
            Self::Client(client, frontend) => write!(f, "{client} . {frontend}"),
        }
    }
}

/// As it follows its key.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Goto(chain) => write!(f, " : goto {}", chain.name()),
            Self::Drop => f.write_str(" : drop"),
            Self::Endpoint(address) => write!(f, " : {} . {}", address.ip(), address.port()),
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {} . {}", self.address, self.protocol, self.port)
    }
}
