//! The rules as data, from the tenant's objects to the kernel: [`ServiceTable`] is one tenant's part, [`NodeTable`] one
//! address family's whole. The same types say what rules are to be and what rules the kernel has; `nft::plan` turns the
//! difference of two into commands.
//!
//! Versions of a `ServiceTable` share what has not changed between them, so a change in a tenant of ten thousand Services
//! costs ten thousand comparisons of pointers (about a tenth of a millisecond), and everything else in proportion to the
//! change.

use crate::services::{Affinity, Protocol};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nestling_crds::names::{TenantUid, hash65};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Address families have a table each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What a client connects to: a `ClusterIP` and a port of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Frontend {
    pub(crate) address: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// Where a new connection to a frontend goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// One of these, never empty, sorted, without doubles, all of the frontend's family.
    Endpoints { endpoints: Arc<[SocketAddr]>, affinity: Option<Affinity> },
    /// No endpoint anywhere: refused at once.
    Reject,
    /// Endpoints, but the traffic policy forbids them all from this node.
    Drop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) backend: Backend,
    /// Addresses of every serving endpoint, whatever policy and topology say: UDP flows to them are kept, as TCP connections
    /// are. Filled for UDP only.
    pub(crate) serving: Arc<[IpAddr]>,
}

/// All of one tenant's Services as this node sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    /// Frontends by `ClusterIP`, sorted, never empty.
    pub(crate) services: BTreeMap<IpAddr, Arc<[(Frontend, Target)]>>,
    /// Ranges that `ClusterIPs` come from, merged: an address in them that no Service has leads nowhere, never to a host
    /// Service.
    pub(crate) ranges: BTreeSet<IpNet>,
    /// The Services are not known yet, so there are no frontends.
    pub(crate) is_closed: bool,
}

/// A `ClusterIP` whose frontends differ between two tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressChange<'a> {
    pub(crate) address: IpAddr,
    /// Empty: the address was no Service's.
    pub(crate) before: &'a [(Frontend, Target)],
    pub(crate) after: &'a [(Frontend, Target)],
}

impl ServiceTable {
    /// A tenant whose Services are not known yet: nothing in its ranges can be reached.
    pub(crate) fn closed(ranges: impl IntoIterator<Item = IpNet>) -> Self {
        Self { ranges: merged(ranges), is_closed: true, ..Self::default() }
    }

    pub(crate) fn target(&self, frontend: &Frontend) -> Option<&Target> {
        find(self.services.get(&frontend.address)?, frontend)
    }

    pub(crate) fn frontends(&self) -> usize {
        self.services.values().map(|frontends| frontends.len()).sum()
    }

    /// The table has rules for this family.
    pub(crate) fn concerns(&self, family: Family) -> bool {
        // Addresses are sorted by family.
        let mut ends = self.services.first_key_value().into_iter().chain(self.services.last_key_value());
        ends.any(|(address, _)| Family::of(*address) == family) || self.ranges.iter().any(|range| Family::of(range.addr()) == family)
    }

    /// What differs in `after`, by address.
    pub(crate) fn changes<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = AddressChange<'a>> {
        let (mut old, mut new) = (self.services.iter().peekable(), after.services.iter().peekable());
        std::iter::from_fn(move || {
            loop {
                let order = match (old.peek(), new.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((old, _)), Some((new, _))) => old.cmp(new),
                };
                let before = if order == Ordering::Greater { None } else { old.next() };
                let after = if order == Ordering::Less { None } else { new.next() };
                if let (Some((_, before)), Some((_, after))) = (before, after)
                    && (Arc::ptr_eq(before, after) || before == after)
                {
                    continue;
                }
                let (address, _) = before.or(after)?;
                return Some(AddressChange {
                    address: *address,
                    before: before.map_or(&[][..], |(_, frontends)| frontends),
                    after: after.map_or(&[][..], |(_, frontends)| frontends),
                });
            }
        })
    }
}

/// The target of one of an address's frontends.
pub(crate) fn find<'a>(frontends: &'a [(Frontend, Target)], frontend: &Frontend) -> Option<&'a Target> {
    let index = frontends.binary_search_by(|(other, _)| other.cmp(frontend)).ok()?;
    Some(&frontends[index].1)
}

/// The same addresses in the fewest ranges.
pub(crate) fn merged(ranges: impl IntoIterator<Item = IpNet>) -> BTreeSet<IpNet> {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for range in ranges {
        match range.trunc() {
            IpNet::V4(net) => v4.push(net),
            IpNet::V6(net) => v6.push(net),
        }
    }
    let v4 = Ipv4Net::aggregate(&v4).into_iter().map(IpNet::V4);
    let v6 = Ipv6Net::aggregate(&v6).into_iter().map(IpNet::V6);
    v4.chain(v6).collect()
}

/// A tenant in names of chains and maps: its UID where nft's lexer takes it, else a hash of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TenantKey(Arc<str>);

impl TenantKey {
    pub(crate) fn of(uid: &TenantUid) -> Self {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let uid = uid.as_str();
        let is_name = !uid.is_empty() && uid.len() <= 64 && uid.chars().all(is_plain);
        Self(if is_name { uid.into() } else { hash65(&[uid]).into() })
    }

    /// Read back from the kernel.
    pub(crate) fn of_name(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for TenantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The rules of all tenants for one address family: as they are to be, or as the kernel has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeTable {
    /// None: rules that a former agent process left, which stay as they are until the tenant's Services are known.
    pub(crate) tenants: BTreeMap<TenantKey, Option<Arc<ServiceTable>>>,
    /// Pods by address. Their tenants are all in `tenants`.
    pub(crate) sources: BTreeMap<IpAddr, TenantKey>,
    /// Bridges whose replies bypass the IP layer: see [`super::bridges`]. None: left by a former process, not known.
    pub(crate) bridges: Option<BTreeSet<String>>,
}

impl NodeTable {
    /// The tenant has rules here that a former process left.
    pub(crate) fn is_inherited(&self, tenant: &TenantKey) -> bool {
        self.tenants.get(tenant).is_some_and(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_and_adjacent_ranges_become_one() {
        let ranges = ["10.96.0.0/17", "10.96.128.0/17", "10.96.3.0/24", "fd00::/112"].map(|r| r.parse().unwrap());
        let expected: BTreeSet<IpNet> = ["10.96.0.0/16", "fd00::/112"].map(|r| r.parse().unwrap()).into();
        assert_eq!(merged(ranges), expected);
    }

    fn frontends(last: u8, ports: &[u16]) -> (IpAddr, Arc<[(Frontend, Target)]>) {
        let address = IpAddr::from([10, 96, 0, last]);
        let target = Target { backend: Backend::Reject, serving: [].into() };
        let of = |port: &u16| (Frontend { address, protocol: Protocol::Tcp, port: *port }, target.clone());
        (address, ports.iter().map(of).collect())
    }

    #[test]
    fn changes_name_what_differs_and_nothing_else() {
        let table = |services: &[(u8, &[u16])]| ServiceTable {
            services: services.iter().map(|(last, ports)| frontends(*last, ports)).collect(),
            ..ServiceTable::default()
        };
        let before = table(&[(1, &[80]), (2, &[80]), (4, &[80])]);
        let after = table(&[(1, &[80]), (2, &[80, 443]), (3, &[80]), (5, &[80])]);
        let changes = before.changes(&after).map(|change| (change.address.to_string(), change.before.len(), change.after.len()));
        let expected = [("10.96.0.2", 1, 2), ("10.96.0.3", 0, 1), ("10.96.0.4", 1, 0), ("10.96.0.5", 0, 1)];
        assert_eq!(changes.collect::<Vec<_>>(), expected.map(|(address, before, after)| (address.to_owned(), before, after)));
        assert_eq!(after.changes(&after.clone()).count(), 0);
    }
}
