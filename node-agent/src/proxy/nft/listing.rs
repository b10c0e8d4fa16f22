//! Reading nft's JSON listings: enough to take over the table of a former agent process.

use super::objects::{AffinityEntry, LAYOUT, TABLE, TenantChain};
use super::plan::Installed;
use crate::proxy::table::{Frontend, TenantKey};
use crate::services::Protocol;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What a kernel has of one family's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    Absent,
    /// Made by this layout: tenants with their chains, and the sources.
    Inherited(Installed),
    /// Made by another version of the agent, or not readable.
    Foreign,
}

impl Listing {
    /// A table with these chains, and these elements of `sources` (address, and the chain it goes to). `sources` None: there
    /// is no such map, or an element of it cannot be read.
    pub(super) fn of<'a>(chains: impl Iterator<Item = &'a str>, sources: Option<Vec<(IpAddr, &str)>>) -> Self {
        let mut installed = Installed::default();
        let mut is_ours = false;
        for name in chains {
            is_ours |= name == LAYOUT;
            if let Some((tenant, chain)) = TenantChain::parse(name) {
                installed.table.tenants.insert(tenant.clone(), None);
                installed.chains.entry(tenant).or_default().insert(chain);
            }
        }
        let owner = |(address, chain): (IpAddr, &str)| match TenantChain::parse(chain)? {
            // A source that enters no known chain would be left behind by a removal.
            (tenant, TenantChain::Tenant) if installed.table.tenants.contains_key(&tenant) => Some((address, tenant)),
            _ => None,
        };
        let sources: Option<BTreeMap<IpAddr, TenantKey>> = sources.and_then(|sources| sources.into_iter().map(owner).collect());
        match sources.filter(|_| is_ours) {
            Some(sources) => {
                installed.table.sources = sources;
                Self::Inherited(installed)
            }
            None => Self::Foreign,
        }
    }
}

/// nft writes `{"nftables": [{"<kind>": {...}}, ...]}`.
fn objects(json: &[u8]) -> serde_json::Result<Vec<Value>> {
    let mut value: Value = serde_json::from_slice(json)?;
    Ok(match value.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => objects,
        _ => Vec::new(),
    })
}

pub(super) fn has_table(json: &[u8]) -> serde_json::Result<bool> {
    Ok(objects(json)?.iter().any(|object| object["table"]["name"] == TABLE))
}

/// `sources` None: there is no such map.
pub(super) fn read(table: &[u8], sources: Option<&[u8]>) -> serde_json::Result<Listing> {
    let objects = objects(table)?;
    let elements = sources.map(elements).transpose()?;
    let sources = elements.as_ref().and_then(|elements| elements.iter().map(source).collect());
    Ok(Listing::of(objects.iter().filter_map(|object| object["chain"]["name"].as_str()), sources))
}

/// `["10.0.0.1", {"goto": {"target": "tenant-…"}}]`
fn source(element: &Value) -> Option<(IpAddr, &str)> {
    Some((element.get(0)?.as_str()?.parse().ok()?, element.get(1)?["goto"]["target"].as_str()?))
}

fn elements(json: &[u8]) -> serde_json::Result<Vec<Value>> {
    let map = objects(json)?.into_iter().find_map(|mut object| object.get_mut("map").map(Value::take));
    Ok(match map.and_then(|mut map| map.get_mut("elem").map(Value::take)) {
        Some(Value::Array(elements)) => elements,
        _ => Vec::new(),
    })
}

/// `[{"elem": {"val": {"concat": [client, address, protocol, port]}, …}}, {"concat": [address, port]}]`. An element that
/// is something else is left out: it times out by itself.
pub(super) fn affinity(json: &[u8]) -> serde_json::Result<Vec<AffinityEntry>> {
    let read = |element: &Value| {
        let key = &element.get(0)?["elem"]["val"]["concat"];
        let value = &element.get(1)?["concat"];
        let address = |value: &Value, index: usize| value.get(index)?.as_str()?.parse::<IpAddr>().ok();
        let port = |value: &Value, index: usize| u16::try_from(value.get(index)?.as_u64()?).ok();
        Some(AffinityEntry {
            client: address(key, 0)?,
            frontend: Frontend { address: address(key, 1)?, protocol: protocol(key.get(2)?)?, port: port(key, 3)? },
            endpoint: SocketAddr::new(address(value, 0)?, port(value, 1)?),
        })
    };
    Ok(elements(json)?.iter().filter_map(read).collect())
}

/// A number with `--numeric`, a name where nft ignores it.
fn protocol(value: &Value) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| {
        value.as_u64().is_some_and(|number| number == u64::from(protocol.number())) || value.as_str() == Some(&protocol.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn table(chains: &[&str]) -> Vec<u8> {
        let chains: Vec<Value> = chains.iter().map(|name| json!({"chain": {"family": "ip", "table": "nestling", "name": name}})).collect();
        json!({"nftables": chains}).to_string().into_bytes()
    }

    fn sources(elements: &Value) -> Vec<u8> {
        json!({"nftables": [{"metainfo": {}}, {"map": {"name": "sources", "elem": elements}}]}).to_string().into_bytes()
    }

    #[test]
    fn a_table_of_this_layout_is_inherited() {
        let sources = sources(&json!([["10.0.0.1", {"goto": {"target": "tenant-a"}}]]));
        let listing = read(&table(&[LAYOUT, "prerouting", "tenant-a", "recorder-a", "lb-2-a", "record-60-a"]), Some(&sources)).unwrap();
        let Listing::Inherited(installed) = listing else { panic!("{listing:?}") };
        assert_eq!(installed.table.sources.len(), 1);
        let (tenant, chains) = installed.chains.first_key_value().unwrap();
        assert!(installed.table.is_inherited(tenant));
        let expected = [TenantChain::Tenant, TenantChain::Recorder, TenantChain::LoadBalance(2), TenantChain::Record(60)];
        assert_eq!(*chains, expected.into());
    }

    #[test]
    fn anything_else_is_foreign() {
        let known = sources(&json!([["10.0.0.1", {"goto": {"target": "tenant-a"}}]]));
        assert_eq!(read(&table(&["layout-2", "tenant-a"]), Some(&known)).unwrap(), Listing::Foreign, "another layout");
        assert_eq!(read(&table(&[LAYOUT]), Some(&known)).unwrap(), Listing::Foreign, "a source without its tenant");
        assert_eq!(read(&table(&[LAYOUT, "tenant-a"]), None).unwrap(), Listing::Foreign, "no map of sources");
        let odd = sources(&json!([["10.0.0.1", {"drop": null}]]));
        assert_eq!(read(&table(&[LAYOUT, "tenant-a"]), Some(&odd)).unwrap(), Listing::Foreign, "a verdict that is not ours");
    }

    #[test]
    fn affinity_is_read_back() {
        let entry = json!([
            {"elem": {"val": {"concat": ["10.0.0.1", "10.96.0.1", 6, 80]}, "timeout": 60, "expires": 59}},
            {"concat": ["10.0.0.2", 8080]}
        ]);
        let json = json!({"nftables": [{"map": {"elem": [entry, "something else"]}}]}).to_string();
        let entries = affinity(json.as_bytes()).unwrap();
        let frontend = Frontend { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
        let endpoint = "10.0.0.2:8080".parse().unwrap();
        assert_eq!(entries, [AffinityEntry { client: "10.0.0.1".parse().unwrap(), frontend, endpoint }]);
    }

    /// A listing of nft's with parts cut out, doubled or replaced.
    fn mangled() -> impl Strategy<Value = Vec<u8>> {
        let whole = json!({"nftables": [
            {"table": {"name": "nestling"}}, {"chain": {"name": LAYOUT}}, {"chain": {"name": "tenant-a"}}, {"chain": {"name": "lb-2-a"}},
            {"map": {"name": "sources", "elem": [
                ["10.0.0.1", {"goto": {"target": "tenant-a"}}],
                [{"elem": {"val": {"concat": ["10.0.0.1", "10.96.0.1", "tcp", 80]}}}, {"concat": ["10.0.0.2", 80]}]
            ]}}
        ]})
        .to_string()
        .into_bytes();
        let cut = (0..whole.len(), 0..8usize, proptest::collection::vec(any::<u8>(), 0..4));
        proptest::collection::vec(cut, 0..4).prop_map(move |cuts| {
            let mut bytes = whole.clone();
            for (at, length, with) in cuts {
                let at = at.min(bytes.len());
                let end = (at + length).min(bytes.len());
                bytes.splice(at..end, with);
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_listing_or_an_error(one in prop_oneof![mangled(), proptest::collection::vec(any::<u8>(), 0..64)], other in mangled()) {
            let _ = has_table(&one);
            let _ = affinity(&one);
            if let Ok(Listing::Inherited(installed)) = read(&one, Some(&other)) {
                prop_assert!(installed.table.sources.values().all(|tenant| installed.table.is_inherited(tenant)));
            }
        }
    }
}
