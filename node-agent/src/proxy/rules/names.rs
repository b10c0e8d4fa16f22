//! Names of objects in the table. They depend on nothing but what the object is, so that an agent finds again what a
//! former process made.

use nestling_crds::names::{TenantUid, hash65};
use std::fmt;
use std::str::FromStr;

/// The table, in each family.
pub const TABLE: &str = "nestling";

/// The empty chain that says by which layout the table was made. To be counted up with every change of a type or a name.
pub const LAYOUT: &str = "layout-2";

/// A tenant in names of chains and maps: its UID where nft's lexer takes it, else a hash of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantKey(String);

impl TenantKey {
    pub fn of(uid: &TenantUid) -> Self {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let uid = uid.as_str();
        if !uid.is_empty() && uid.len() <= 64 && uid.chars().all(is_plain) { Self(uid.to_owned()) } else { Self(hash65(&[uid])) }
    }
}

impl fmt::Display for TenantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A chain of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// Where the tenant's new connections enter.
    Tenant,
    Learn,
    /// One of this many endpoints, at random.
    Pick(u32),
    /// As the client was served before, else one of this many.
    Stay(u32),
    /// Remembers for this many seconds who served the client.
    Keep(u32),
}

impl Chain {
    pub fn name(self, tenant: &TenantKey) -> String {
        match self {
            Self::Tenant => format!("tenant-{tenant}"),
            Self::Learn => format!("learn-{tenant}"),
            Self::Pick(count) => format!("pick-{count}-{tenant}"),
            Self::Stay(count) => format!("stay-{count}-{tenant}"),
            Self::Keep(seconds) => format!("keep-{seconds}-{tenant}"),
        }
    }

    /// The reverse of [`Chain::name`]; None for the table's own chains.
    pub fn parse(name: &str) -> Option<(Self, TenantKey)> {
        let (kind, rest) = name.split_once('-')?;
        let counted = || {
            let (count, tenant) = rest.split_once('-')?;
            Some((u32::from_str(count).ok()?, tenant))
        };
        let (chain, tenant) = match kind {
            "tenant" => (Self::Tenant, rest),
            "learn" => (Self::Learn, rest),
            "pick" => counted().map(|(count, tenant)| (Self::Pick(count), tenant))?,
            "stay" => counted().map(|(count, tenant)| (Self::Stay(count), tenant))?,
            "keep" => counted().map(|(seconds, tenant)| (Self::Keep(seconds), tenant))?,
            _ => return None,
        };
        Some((chain, TenantKey(tenant.to_owned())))
    }
}

/// A map or set of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Map {
    Services,
    /// Of Services that have this many. Lives and dies with [`Chain::Pick`] of the same number.
    Endpoints(u32),
    Sticky,
    /// Filled by the kernel.
    Affinity,
    /// A set.
    Addresses,
}

impl Map {
    /// Those that every tenant has.
    pub const FIXED: [Self; 4] = [Self::Services, Self::Sticky, Self::Affinity, Self::Addresses];

    /// All maps of a tenant with these chains.
    pub fn of_chains<'a>(chains: impl IntoIterator<Item = &'a Chain>) -> impl Iterator<Item = Self> {
        let endpoints = chains.into_iter().filter_map(|chain| match chain {
            Chain::Pick(count) => Some(Self::Endpoints(*count)),
            _ => None,
        });
        Self::FIXED.into_iter().chain(endpoints)
    }

    pub fn name(self, tenant: &TenantKey) -> String {
        match self {
            Self::Services => format!("services-{tenant}"),
            Self::Endpoints(count) => format!("endpoints-{count}-{tenant}"),
            Self::Sticky => format!("sticky-{tenant}"),
            Self::Affinity => format!("affinity-{tenant}"),
            Self::Addresses => format!("addresses-{tenant}"),
        }
    }

    /// nft's word for the object.
    pub fn word(self) -> &'static str {
        if self == Self::Addresses { "set" } else { "map" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chains_are_found_again(uid in ".{0,70}", count: u32) {
            let tenant = TenantKey::of(&TenantUid::new(uid));
            for chain in [Chain::Tenant, Chain::Learn, Chain::Pick(count), Chain::Stay(count), Chain::Keep(count)] {
                prop_assert_eq!(Chain::parse(&chain.name(&tenant)), Some((chain, tenant.clone())));
            }
        }

        #[test]
        fn names_are_such_as_nft_takes(uid in ".{0,300}") {
            let name = Chain::Pick(u32::MAX).name(&TenantKey::of(&TenantUid::new(uid)));
            prop_assert!(name.len() < 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{}", name);
        }
    }

    #[test]
    fn the_tables_own_chains_are_nobodys() {
        for name in [LAYOUT, "prerouting", "postrouting", "learn", "refuse", "leave"] {
            assert_eq!(Chain::parse(name), None, "{name}");
        }
    }
}
