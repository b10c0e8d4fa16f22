//! Names, addresses and zones of the cluster: arithmetic on a node count, no IO.

use std::net::Ipv4Addr;

/// More would not fit the third octet of the pod ranges, nor one machine.
pub const MAX_NODES: u8 = 100;

/// Three nodes are three zones: what most tests want.
pub const DEFAULT_NODES: u8 = 3;

pub const CONTROL: &str = "control";
pub const CONTROL_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 200);
/// The root namespace's end of the veth, where people and tests come from.
pub const ROOT_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 253);
/// The switch's own address: every node's default route, and nothing is forwarded there.
pub const SWITCH_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 254);
pub const NODE_PREFIX_LENGTH: u8 = 24;
pub const POD_CIDR: &str = "10.244.0.0/16";
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// First address of the service range: `kubernetes.default`.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const API_PORT: u16 = 6443;
pub const REGION: &str = "local";

#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("a cluster has 1 to {MAX_NODES} nodes, not {0}")]
    NodeCount(u8),
    #[error("no node {0:?}: names are node-1, node-2, …")]
    NodeName(String),
}

/// One node, known by its number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node(u8);

impl Node {
    pub fn all(count: u8) -> Result<Vec<Self>, TopologyError> {
        if (1..=MAX_NODES).contains(&count) { Ok((1..=count).map(Self).collect()) } else { Err(TopologyError::NodeCount(count)) }
    }

    pub fn parse(name: &str) -> Result<Self, TopologyError> {
        let unknown = || TopologyError::NodeName(name.to_owned());
        let number: u8 = name.strip_prefix("node-").and_then(|digits| digits.parse().ok()).ok_or_else(unknown)?;
        let node = Self(number);
        if (1..=MAX_NODES).contains(&number) && node.name() == name { Ok(node) } else { Err(unknown()) }
    }

    pub fn number(self) -> u8 {
        self.0
    }
    pub fn name(self) -> String {
        format!("node-{}", self.0)
    }
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, self.0)
    }
    pub fn pod_cidr(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }
    /// Zones a, b and c in turn: three nodes are three zones.
    pub fn zone(self) -> &'static str {
        ["zone-a", "zone-b", "zone-c"][usize::from((self.0 - 1) % 3)]
    }
    /// The switch's port for this node.
    pub fn port(self) -> String {
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
