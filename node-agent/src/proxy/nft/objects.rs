//! The objects of the nft table, typed: chains, maps, their elements, and the commands that change them. Names depend on
//! nothing but what the object is, so that an agent finds what a former process made.

use crate::proxy::table::{Family, Frontend, TenantKey};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The table, in each family.
pub(crate) const TABLE: &str = "nestling";

/// The empty chain that names the layout by which the table was made. To be counted up with every change of a type or a
/// name: a table of another layout is replaced as a whole.
pub(crate) const LAYOUT: &str = "layout-3";

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chain {
    /// [`LAYOUT`].
    Layout,
    /// Refuses a connection.
    Reject,
    /// Hook: where connections of tenants' pods are translated.
    Prerouting,
    /// Hook: where endpoints of session affinity are recorded.
    Record,
    Masquerading,
    /// Hook: where connections are masqueraded.
    Postrouting,
    Of(TenantKey, TenantChain),
}

/// A chain of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TenantChain {
    /// Where the tenant's new connections enter.
    Tenant,
    /// Where the tenant's translated connections enter.
    Recorder,
    /// Load balancing: one of this many endpoints, at random.
    LoadBalance(u32),
    /// Session affinity: the recorded endpoint, else one of this many.
    Affinity(u32),
    /// Records the client's endpoint for this many seconds.
    Record(u32),
}

impl Chain {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Layout => LAYOUT.to_owned(),
            // `reject` and `masquerade` alone are keywords.
            Self::Reject => "reject-connection".to_owned(),
            Self::Prerouting => "prerouting".to_owned(),
            Self::Record => "record".to_owned(),
            Self::Masquerading => "masquerading".to_owned(),
            Self::Postrouting => "postrouting".to_owned(),
            Self::Of(tenant, chain) => match chain {
                TenantChain::Tenant => format!("tenant-{tenant}"),
                TenantChain::Recorder => format!("recorder-{tenant}"),
                TenantChain::LoadBalance(count) => format!("lb-{count}-{tenant}"),
                TenantChain::Affinity(count) => format!("affinity-{count}-{tenant}"),
                TenantChain::Record(seconds) => format!("record-{seconds}-{tenant}"),
            },
        }
    }
}

impl TenantChain {
    /// The reverse of [`Chain::name`]; None for the table's own chains.
    pub(crate) fn parse(name: &str) -> Option<(TenantKey, Self)> {
        let (kind, rest) = name.split_once('-')?;
        let counted = || {
            let (count, tenant) = rest.split_once('-')?;
            Some((tenant, u32::from_str(count).ok()?))
        };
        let (tenant, chain) = match kind {
            "tenant" => (rest, Self::Tenant),
            "recorder" => (rest, Self::Recorder),
            "lb" => counted().map(|(tenant, count)| (tenant, Self::LoadBalance(count)))?,
            "affinity" => counted().map(|(tenant, count)| (tenant, Self::Affinity(count)))?,
            "record" => counted().map(|(tenant, seconds)| (tenant, Self::Record(seconds)))?,
            _ => return None,
        };
        Some((TenantKey::of_name(tenant), chain))
    }

    pub(crate) fn of(self, tenant: &TenantKey) -> Chain {
        Chain::Of(tenant.clone(), self)
    }
}

/// A map or set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Map {
    /// Pods by address → their tenant's chain.
    Sources,
    /// Pods by address → their tenant's recorder.
    Recorders,
    /// A set of pods' addresses.
    Pods,
    /// A set: each pod's address, twice.
    Hairpin,
    /// A set: each bridge, twice.
    Bridges,
    Of(TenantKey, TenantMap),
}

/// A map or set of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TenantMap {
    /// Frontends → what happens to a connection.
    Services,
    /// Endpoints of frontends that have this many. Is made and removed with [`TenantChain::LoadBalance`] of the same number.
    Endpoints(u32),
    /// Frontends with session affinity → how long.
    Sticky,
    /// Clients and frontends → endpoint. Filled by the kernel.
    Affinity,
    /// A set of all addresses that have frontends.
    ClusterIps,
}

impl Map {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Sources => "sources".to_owned(),
            Self::Recorders => "recorders".to_owned(),
            Self::Pods => "pods".to_owned(),
            Self::Hairpin => "hairpin".to_owned(),
            Self::Bridges => "bridges".to_owned(),
            Self::Of(tenant, map) => match map {
                TenantMap::Services => format!("services-{tenant}"),
                TenantMap::Endpoints(count) => format!("endpoints-{count}-{tenant}"),
                TenantMap::Sticky => format!("sticky-{tenant}"),
                TenantMap::Affinity => format!("affinity-{tenant}"),
                TenantMap::ClusterIps => format!("cluster-ips-{tenant}"),
            },
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        matches!(self, Self::Pods | Self::Hairpin | Self::Bridges | Self::Of(_, TenantMap::ClusterIps))
    }
}

impl TenantMap {
    /// Those that every tenant has.
    pub(crate) const FIXED: [Self; 4] = [Self::Services, Self::Sticky, Self::Affinity, Self::ClusterIps];

    /// All maps of a tenant with these chains.
    pub(crate) fn of_chains<'a>(chains: impl IntoIterator<Item = &'a TenantChain>) -> impl Iterator<Item = Self> {
        let endpoints = chains.into_iter().filter_map(|chain| match chain {
            TenantChain::LoadBalance(count) => Some(Self::Endpoints(*count)),
            _ => None,
        });
        Self::FIXED.into_iter().chain(endpoints)
    }

    pub(crate) fn of(self, tenant: &TenantKey) -> Map {
        Map::Of(tenant.clone(), self)
    }
}

/// The key of an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Address(IpAddr),
    /// An address with itself.
    Hairpin(IpAddr),
    /// A bridge with itself.
    Bridge(String),
    Frontend(Frontend),
    /// One endpoint of a frontend that has several.
    Endpoint(Frontend, u32),
    Client(IpAddr, Frontend),
}

/// The value of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Of a set's element.
    None,
    Goto(Chain),
    Drop,
    Endpoint(SocketAddr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    AddTable,
    DeleteTable,
    AddChain(Chain),
    /// Adds the rules of a chain that is there and empty. `ranges` are those of its tenant, for [`TenantChain::Tenant`].
    AddRules {
        chain: Chain,
        ranges: Vec<IpNet>,
    },
    FlushChain(Chain),
    DeleteChain(Chain),
    AddMap(Map),
    FlushMap(Map),
    DeleteMap(Map),
    AddElements(Map, Vec<(Key, Value)>),
    DeleteElements(Map, Vec<Key>),
}

/// Commands for one family's table, applied in order: all of them or none. Shown as text for `nft -f`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) family: Family,
    pub(crate) commands: Vec<Command>,
}

/// The endpoint recorded for a client of a Service with session affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AffinityEntry {
    pub(crate) client: IpAddr,
    pub(crate) frontend: Frontend,
    pub(crate) endpoint: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;
    use nestling_crds::names::TenantUid;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chains_are_found_again(uid in ".{0,70}", count: u32) {
            use TenantChain::{Affinity, LoadBalance, Record, Recorder, Tenant};
            let tenant = TenantKey::of(&TenantUid::new(uid));
            for chain in [Tenant, Recorder, LoadBalance(count), Affinity(count), Record(count)] {
                prop_assert_eq!(TenantChain::parse(&chain.of(&tenant).name()), Some((tenant.clone(), chain)));
            }
        }

        #[test]
        fn names_are_such_as_nft_takes(uid in ".{0,300}") {
            let name = TenantChain::Affinity(u32::MAX).of(&TenantKey::of(&TenantUid::new(uid))).name();
            prop_assert!(name.len() < 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{}", name);
        }
    }

    #[test]
    fn the_tables_own_chains_are_no_tenants() {
        for chain in [Chain::Layout, Chain::Reject, Chain::Prerouting, Chain::Record, Chain::Masquerading, Chain::Postrouting] {
            assert_eq!(TenantChain::parse(&chain.name()), None, "{chain:?}");
        }
    }
}
