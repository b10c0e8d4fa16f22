//! Desired state → nft commands. Pure: what the kernel has ([`Installed`]) and what is wanted ([`Want`]) go in, one
//! transaction and the state after it come out ([`plan`]).
//!
//! The table, per address family:
//!
//! ```text
//! nat prerouting −110: ip saddr ─ sources ─▶ tenant-T
//!   tenant-T: daddr.proto.dport ─ services-T ─▶ pick-N-T | stay-N-T | refuse | drop
//!             daddr in addresses-T ─▶ refuse          (a Service, but not a port of it)
//!             daddr in the tenant's ranges ─▶ drop    (no Service; and never a host Service of the same address)
//!   pick-N-T: dnat to daddr.proto.dport.(random mod N) ─ endpoints-N-T
//!   stay-N-T: dnat to saddr.daddr.proto.dport ─ affinity-T, if there; else pick-N-T
//! filter prerouting −90: new and dnat: ip saddr ─ learners ─▶ learn-T
//!   learn-T: original daddr.proto.dport ─ sticky-T ─▶ keep-SECONDS-T: remember the endpoint in affinity-T
//! nat postrouting 90: dnat and saddr in pods; and saddr.daddr in hairpin, or in and out by one of bridges ─▶ masquerade
//! ```
//! Everything hangs on the source address, which is unique on a node, so tenants may overlap with each other and with the
//! host. Chains per number of endpoints (N) instead of per Service: a change touches map elements only, and ten thousand
//! Services load in half a second. −110 is before the host's kube-proxy (−100); nat chains of all tables run in the
//! order of their priorities at one hook, and the first that translates ends it.
//!
//! `reject` and `drop` stand in the nat chain itself: it sees exactly the first packet of a connection that nobody has
//! translated, so what is established is never cut.

mod layout;
mod names;
mod plan;
mod script;
mod tenant;

#[cfg(test)]
mod pretend;
#[cfg(test)]
mod tests;

pub use names::{Chain, LAYOUT, Map, TABLE, TenantKey};
pub use plan::{Approach, plan};
pub use tenant::forget;

use crate::proxy::model::{Frontend, ServiceTable};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Address families have a table each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// nft's word for the family, in tables and in expressions.
    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

/// What the node's rules are to be, for both families.
#[derive(Clone, Debug, Default)]
pub struct Want {
    pub tenants: BTreeMap<TenantKey, WantedTenant>,
    /// Pods by address. A source of a tenant that is not in `tenants` is not mapped.
    pub sources: BTreeMap<IpAddr, TenantKey>,
    /// Bridges whose ports hear each other's replies without the IP layer: see [`crate::proxy::bridges`].
    pub bridges: BTreeMap<Family, BTreeSet<String>>,
}

#[derive(Clone, Debug)]
pub enum WantedTenant {
    /// Not known yet; the rules that a former agent process left stay.
    Keep,
    Table(Arc<ServiceTable>),
}

/// What the kernel has of one family's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub tenants: BTreeMap<TenantKey, InstalledTenant>,
    pub sources: BTreeMap<IpAddr, TenantKey>,
    /// None: inherited, not known.
    pub bridges: Option<BTreeSet<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstalledTenant {
    pub chains: BTreeSet<Chain>,
    /// None: inherited from a former agent process, not known.
    pub table: Option<Arc<ServiceTable>>,
}

/// A client that session affinity keeps at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    pub client: IpAddr,
    pub frontend: Frontend,
    pub endpoint: SocketAddr,
}
