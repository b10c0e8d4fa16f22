//! Reading nft's JSON listings back: enough to take over the table of a former agent process.

use super::NetfilterError;
use crate::proxy::model::{Frontend, Protocol};
use crate::proxy::rules::{Chain, Installed, LAYOUT, Remembered, TABLE, TenantKey};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What a kernel has of one family's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    Absent,
    /// Made by this layout: tenants with their chains, and the sources.
    Inherited(Installed),
    /// Made by another version of the agent, or not readable.
    Foreign,
}

/// nft writes `{"nftables": [{"<kind>": {...}}, ...]}`.
fn objects(json: &[u8]) -> Result<Vec<Value>, NetfilterError> {
    let mut value: Value = serde_json::from_slice(json).map_err(|source| NetfilterError::Listing { source })?;
    Ok(match value.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => objects,
        _ => Vec::new(),
    })
}

pub fn has_table(json: &[u8]) -> Result<bool, NetfilterError> {
    Ok(objects(json)?.iter().any(|object| object["table"]["name"] == TABLE))
}

/// `sources` None: there is no such map.
pub fn read(table: &[u8], sources: Option<&[u8]>) -> Result<Listing, NetfilterError> {
    let mut installed = Installed::default();
    let mut is_ours = false;
    for object in objects(table)? {
        let Some(name) = object["chain"]["name"].as_str() else { continue };
        is_ours |= name == LAYOUT;
        if let Some((chain, tenant)) = Chain::parse(name) {
            installed.tenants.entry(tenant).or_default().chains.insert(chain);
        }
    }
    let sources = match sources {
        Some(json) => read_sources(json)?,
        None => None,
    };
    Ok(match sources {
        // A source that enters no known chain would be left behind by a removal.
        Some(sources) if is_ours && sources.values().all(|tenant| installed.tenants.contains_key(tenant)) => {
            installed.sources = sources;
            Listing::Inherited(installed)
        }
        _ => Listing::Foreign,
    })
}

fn elements(json: &[u8]) -> Result<Vec<Value>, NetfilterError> {
    let map = objects(json)?.into_iter().find_map(|mut object| object.get_mut("map").map(Value::take));
    Ok(match map.and_then(|mut map| map.get_mut("elem").map(Value::take)) {
        Some(Value::Array(elements)) => elements,
        _ => Vec::new(),
    })
}

/// `["10.0.0.1", {"goto": {"target": "tenant-…"}}]`; None if one is different.
fn read_sources(json: &[u8]) -> Result<Option<BTreeMap<IpAddr, TenantKey>>, NetfilterError> {
    let source = |element: &Value| {
        let address: IpAddr = element[0].as_str()?.parse().ok()?;
        match Chain::parse(element[1]["goto"]["target"].as_str()?)? {
            (Chain::Tenant, tenant) => Some((address, tenant)),
            _ => None,
        }
    };
    Ok(elements(json)?.iter().map(source).collect())
}

/// `[{"elem": {"val": {"concat": [client, address, protocol, port]}, …}}, {"concat": [address, port]}]`. An element that
/// is something else is left out: it times out by itself.
pub fn remembered(json: &[u8]) -> Result<Vec<Remembered>, NetfilterError> {
    let read = |element: &Value| {
        let key = &element[0]["elem"]["val"]["concat"];
        let value = &element[1]["concat"];
        let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
        Some(Remembered {
            client: key[0].as_str()?.parse().ok()?,
            frontend: Frontend { address: key[1].as_str()?.parse().ok()?, protocol: protocol(&key[2])?, port: port(&key[3])? },
            endpoint: SocketAddr::new(value[0].as_str()?.parse().ok()?, port(&value[1])?),
        })
    };
    Ok(elements(json)?.iter().filter_map(read).collect())
}

/// A number with `--numeric`, a name where nft does not heed it.
fn protocol(value: &Value) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| {
        value.as_u64().is_some_and(|number| number == u64::from(protocol.number())) || value.as_str() == Some(&protocol.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let listing = read(&table(&[LAYOUT, "prerouting", "tenant-a", "learn-a", "pick-2-a", "keep-60-a"]), Some(&sources)).unwrap();
        let Listing::Inherited(installed) = listing else { panic!("{listing:?}") };
        assert_eq!(installed.sources.len(), 1);
        let (_, tenant) = installed.tenants.first_key_value().unwrap();
        assert_eq!(tenant.chains, [Chain::Tenant, Chain::Learn, Chain::Pick(2), Chain::Keep(60)].into());
    }

    #[test]
    fn anything_else_is_foreign() {
        let known = sources(&json!([["10.0.0.1", {"goto": {"target": "tenant-a"}}]]));
        assert_eq!(read(&table(&["layout-0", "tenant-a"]), Some(&known)).unwrap(), Listing::Foreign, "another layout");
        assert_eq!(read(&table(&[LAYOUT]), Some(&known)).unwrap(), Listing::Foreign, "a source without its tenant");
        assert_eq!(read(&table(&[LAYOUT, "tenant-a"]), None).unwrap(), Listing::Foreign, "no map of sources");
        let odd = sources(&json!([["10.0.0.1", {"drop": null}]]));
        assert_eq!(read(&table(&[LAYOUT, "tenant-a"]), Some(&odd)).unwrap(), Listing::Foreign, "a verdict of somebody else");
    }
}
