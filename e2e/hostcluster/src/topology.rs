//! Names, addresses and zones of the cluster: arithmetic on a node count, no IO.

use std::net::{Ipv4Addr, SocketAddr};

/// A node's number is the third octet of its pod range and the last of its address, below the fixed addresses.
pub(crate) const MAX_NODES: u8 = 100;

/// One node per zone.
pub(crate) const DEFAULT_NODES: u8 = 3;

/// The unit of the control plane.
pub(crate) const CONTROL: &str = "control";
/// The unit that unpacks images once for all nodes; it runs no containers.
pub(crate) const SEED: &str = "seed";
pub(crate) const CONTROL_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 200);
/// The machine's end of the veth: where users and tests connect from.
pub(crate) const ROOT_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 253);
/// The switch's own address: every node's default route, and nothing is forwarded there.
pub(crate) const SWITCH_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 254);
pub(crate) const NODE_PREFIX_LENGTH: u8 = 24;
pub(crate) const POD_CIDR: &str = "10.244.0.0/16";
pub(crate) const SERVICE_CIDR: &str = "10.96.0.0/16";
/// First address of the service range: `kubernetes.default`.
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub(crate) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub(crate) const API_PORT: u16 = 6443;
pub(crate) const REGION: &str = "local";

pub(crate) fn api_address() -> SocketAddr {
    (CONTROL_ADDRESS, API_PORT).into()
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TopologyError {
    #[error("a cluster has 1 to {MAX_NODES} nodes, not {0}")]
    NodeCount(u8),
    #[error("no node {0:?}: names are node-1, node-2, …")]
    NodeName(String),
}

/// One node, known by its number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node(u8);

impl Node {
    pub(crate) fn all(count: u8) -> Result<Vec<Self>, TopologyError> {
        if (1..=MAX_NODES).contains(&count) { Ok((1..=count).map(Self).collect()) } else { Err(TopologyError::NodeCount(count)) }
    }

    pub(crate) fn parse(name: &str) -> Result<Self, TopologyError> {
        let unknown = || TopologyError::NodeName(name.to_owned());
        let number: u8 = name.strip_prefix("node-").and_then(|digits| digits.parse().ok()).ok_or_else(unknown)?;
        let node = Self(number);
        if (1..=MAX_NODES).contains(&number) && node.name() == name { Ok(node) } else { Err(unknown()) }
    }

    pub(crate) fn name(self) -> String {
        format!("node-{}", self.0)
    }
    pub(crate) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, self.0)
    }
    pub(crate) fn pod_cidr(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }
    /// Zones a, b and c in turn: three nodes are three zones.
    pub(crate) fn zone(self) -> &'static str {
        ["zone-a", "zone-b", "zone-c"][usize::from((self.0 - 1) % 3)]
    }
    /// The switch's port for this node.
    pub(crate) fn port(self) -> String {
        format!("port-{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_distinct_names_and_addresses_clear_of_the_fixed_ones() {
        let nodes = Node::all(MAX_NODES).unwrap();
        let addresses: std::collections::BTreeSet<_> = nodes.iter().map(|node| node.address()).collect();
        assert_eq!(addresses.len(), usize::from(MAX_NODES));
        for fixed in [CONTROL_ADDRESS, ROOT_ADDRESS, SWITCH_ADDRESS] {
            assert!(!addresses.contains(&fixed));
        }
    }

    #[test]
    fn three_nodes_are_three_zones() {
        let zones: Vec<_> = Node::all(4).unwrap().into_iter().map(Node::zone).collect();
        assert_eq!(zones, ["zone-a", "zone-b", "zone-c", "zone-a"]);
    }

    #[test]
    fn names_parse_back_and_nothing_else_does() {
        for node in Node::all(MAX_NODES).unwrap() {
            assert_eq!(Node::parse(&node.name()).unwrap(), node);
        }
        for bad in ["node-0", "node-01", "node-101", "node-", "node-300", "control", "node-+1"] {
            assert!(Node::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_out_of_range_are_refused() {
        assert!(Node::all(0).is_err());
        assert!(Node::all(MAX_NODES + 1).is_err());
    }
}
