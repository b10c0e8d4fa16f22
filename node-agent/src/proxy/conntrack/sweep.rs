//! Which connections are stale. Judged by the client's address first: entries of host pods, and those that the host's
//! kube-proxy made for the same Service address, are never looked at.

use crate::proxy::model::{Backend, Frontend, Protocol, ServiceTable};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One entry, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub transport: Transport,
    pub client: IpAddr,
    /// Where the client sent it.
    pub destination: SocketAddr,
    /// Who answers. Not the destination's address: somebody translated it.
    pub replier: IpAddr,
}

/// The protocols that Services can have; others are never stale.
pub type Transport = Protocol;

#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// The pods of tenants, with the tenant's Services.
    pub clients: BTreeMap<IpAddr, Arc<ServiceTable>>,
    /// Clients that had no rules until now. What they sent before may have gone anywhere, also by TCP.
    pub fresh: BTreeSet<IpAddr>,
    /// Addresses that are no pod's, or another tenant's pod's now, with the ranges of the tenant that had them. No ranges:
    /// not known any more, so all translated connections are meant.
    pub departed: BTreeMap<IpAddr, BTreeSet<IpNet>>,
}

impl Sweep {
    /// Nothing that happened calls for a sweep of more than UDP, and that is for the caller to know.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let destination = flow.destination.ip();
        if let Some(table) = self.clients.get(&flow.client)
            && is_within(&table.ranges, destination)
        {
            let judged = flow.transport == Protocol::Udp || self.fresh.contains(&flow.client) || self.departed.contains_key(&flow.client);
            return judged && !reaches(table, flow);
        }
        let is_translated = flow.replier != destination;
        self.departed.get(&flow.client).is_some_and(|ranges| is_translated && (ranges.is_empty() || is_within(ranges, destination)))
    }

    /// Adds what an earlier sweep could not do.
    pub fn merge(&mut self, earlier: Self) {
        self.fresh.extend(earlier.fresh);
        for (address, ranges) in earlier.departed {
            self.departed.entry(address).or_insert(ranges);
        }
    }
}

fn is_within(ranges: &BTreeSet<IpNet>, address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// The tenant's rules would let the flow go where it goes.
fn reaches(table: &ServiceTable, flow: &Flow) -> bool {
    let frontend = Frontend { address: flow.destination.ip(), protocol: flow.transport, port: flow.destination.port() };
    table.frontends.get(&frontend).is_some_and(|target| {
        let chosen = match &target.backend {
            Backend::Endpoints { endpoints, .. } => endpoints.iter().any(|endpoint| endpoint.ip() == flow.replier),
            Backend::Reject | Backend::Drop => false,
        };
        chosen || target.serving.contains(&flow.replier)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::model::Target;
    use rstest::rstest;

    /// Service 10.96.0.10:53 with endpoint 10.0.0.1, serving also 10.0.0.2 over UDP.
    fn table() -> Arc<ServiceTable> {
        let mut table = ServiceTable::closed(["10.96.0.0/16".parse().unwrap()]);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let frontend = Frontend { address: "10.96.0.10".parse().unwrap(), protocol, port: 53 };
            let endpoints = ["10.0.0.1:53".parse().unwrap()].into();
            let serving: Vec<IpAddr> = if protocol == Protocol::Udp { vec!["10.0.0.2".parse().unwrap()] } else { vec![] };
            table.frontends.insert(frontend, Target { backend: Backend::Endpoints { endpoints, affinity: None }, serving: serving.into() });
        }
        Arc::new(table)
    }

    fn flow(text: &str) -> Flow {
        let words: Vec<&str> = text.split(' ').collect();
        Flow {
            transport: if words[0] == "udp" { Protocol::Udp } else { Protocol::Tcp },
            client: words[1].parse().unwrap(),
            destination: words[2].parse().unwrap(),
            replier: words[3].parse().unwrap(),
        }
    }

    #[rstest]
    #[case::to_an_endpoint("udp 10.9.0.1 10.96.0.10:53 10.0.0.1", false)]
    #[case::to_a_serving_one("udp 10.9.0.1 10.96.0.10:53 10.0.0.2", false)]
    #[case::to_a_gone_one("udp 10.9.0.1 10.96.0.10:53 10.0.0.9", true)]
    #[case::not_translated("udp 10.9.0.1 10.96.0.10:53 10.96.0.10", true)]
    #[case::to_a_gone_port("udp 10.9.0.1 10.96.0.10:54 10.0.0.1", true)]
    #[case::to_a_gone_service("udp 10.9.0.1 10.96.7.7:53 10.0.0.1", true)]
    #[case::out_of_the_ranges("udp 10.9.0.1 8.8.8.8:53 8.8.8.8", false)]
    #[case::a_host_pods("udp 10.9.0.9 10.96.0.10:53 10.0.0.9", false)]
    #[case::tcp_is_left_alone("tcp 10.9.0.1 10.96.0.10:53 10.0.0.9", false)]
    #[case::but_not_from_before_the_rules("tcp 10.9.0.2 10.96.0.10:53 10.0.0.9", true)]
    #[case::fresh_and_right("tcp 10.9.0.2 10.96.0.10:53 10.0.0.1", false)]
    #[case::departed("tcp 10.9.0.3 10.96.0.10:53 10.0.0.1", true)]
    #[case::departed_elsewhere("tcp 10.9.0.3 10.43.0.10:53 10.0.0.1", false)]
    #[case::departed_direct("tcp 10.9.0.3 10.96.0.10:53 10.96.0.10", false)]
    #[case::departed_with_its_tenant("tcp 10.9.0.4 10.43.0.10:53 10.0.0.1", true)]
    #[case::of_another_tenant_now("tcp 10.9.0.5 10.96.0.10:53 10.0.0.9", true)]
    #[case::of_another_tenant_and_right("tcp 10.9.0.5 10.96.0.10:53 10.0.0.1", false)]
    fn stale(#[case] text: &str, #[case] expected: bool) {
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let ranges: BTreeSet<IpNet> = ["10.96.0.0/16".parse().unwrap()].into();
        let sweep = Sweep {
            clients: ["10.9.0.1", "10.9.0.2", "10.9.0.5"].map(|client| (address(client), table())).into(),
            fresh: [address("10.9.0.2")].into(),
            departed: [(address("10.9.0.3"), ranges.clone()), (address("10.9.0.4"), BTreeSet::new()), (address("10.9.0.5"), ranges)].into(),
        };
        assert_eq!(sweep.is_stale(&flow(text)), expected);
    }
}
