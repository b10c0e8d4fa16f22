//! What a tenant's Services mean on this node, as plain data.
//!
//! `service` and `slice` cut API objects down to the facts that matter, `select` chooses the endpoints of one Service
//! port, and [`Catalogue`] holds it all for one tenant: fed with changes, it answers with a [`ServiceTable`].

mod catalogue;
mod ranges;
mod select;
mod service;
mod slice;

pub use catalogue::{Catalogue, Place};
pub use ranges::merged;
pub use service::ServiceFacts;
pub use slice::SliceFacts;

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Transport protocols that a Service port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The API's name; absent means TCP. None for a protocol that the API does not know.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// The word that nft uses.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// What a client connects to: a `ClusterIP` and a port of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// What becomes of a new connection to a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// One of these, never empty, sorted, without doubles, all of the frontend's family.
    Endpoints { endpoints: Arc<[SocketAddr]>, affinity: Option<Affinity> },
    /// No endpoint anywhere: the client is told at once.
    Reject,
    /// Endpoints, but the traffic policy forbids them all from here.
    Drop,
}

/// `sessionAffinity: ClientIP`: a client keeps its endpoint until it has made no new connection for this many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Affinity {
    pub seconds: u32,
}

/// A frontend's backend, with what a UDP flow that already exists may go on talking to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub backend: Backend,
    /// Every serving endpoint's address, whatever policy and topology say: a change of those must not cut flows, as it
    /// does not cut TCP connections. Filled for UDP only.
    pub serving: Arc<[IpAddr]>,
}

/// All of one tenant's Services as this node sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    pub frontends: BTreeMap<Frontend, Target>,
    /// Ranges that `ClusterIPs` come from, merged: an address in them that no Service owns is a dead end, never a host Service.
    pub ranges: BTreeSet<IpNet>,
    /// The Services are not known yet, so there are no frontends.
    pub is_closed: bool,
}

impl ServiceTable {
    /// A tenant whose Services are not known yet: everything in its ranges is a dead end.
    pub fn closed(ranges: impl IntoIterator<Item = IpNet>) -> Self {
        Self { frontends: BTreeMap::new(), ranges: merged(ranges), is_closed: true }
    }
}
