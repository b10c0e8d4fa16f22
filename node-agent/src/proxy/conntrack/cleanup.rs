//! What a change of rules leaves to be cleaned up, because rules reach new connections only. Pure.

use crate::proxy::nft::AffinityEntry;
use crate::proxy::table::{AddressChange, Backend, Frontend, NodeTable, ServiceTable, Target, TenantKey, find};
use crate::services::Protocol;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ConntrackCleanup {
    /// Addresses that had no rules before.
    pub(crate) added: BTreeSet<IpAddr>,
    /// Addresses that no pod has, or another tenant's pod, now, with the ranges they could reach (none: not known).
    pub(crate) removed: BTreeMap<IpAddr, BTreeSet<IpNet>>,
    /// A UDP flow may have lost its endpoint.
    pub(crate) udp_changed: bool,
    /// Tenants in which session affinity may have recorded an endpoint that is gone.
    pub(crate) affinity_changed: BTreeSet<TenantKey>,
}

impl ConntrackCleanup {
    /// `before` None: there was no table.
    pub(crate) fn between(before: Option<&NodeTable>, after: Option<&NodeTable>) -> Self {
        let nothing = NodeTable::default();
        let (before, after) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
        let mut cleanup = Self::default();
        for (address, tenant) in &before.sources {
            if after.sources.get(address) != Some(tenant) {
                let table = before.tenants.get(tenant).and_then(Option::as_ref);
                cleanup.removed.insert(*address, table.map(|table| table.ranges.clone()).unwrap_or_default());
            }
        }
        cleanup.added = after.sources.keys().filter(|address| !before.sources.contains_key(*address)).copied().collect();
        for (tenant, now) in &after.tenants {
            match (before.tenants.get(tenant), now) {
                // Inherited rules have become known ones.
                (Some(None), Some(_)) => {
                    cleanup.udp_changed = true;
                    cleanup.affinity_changed.insert(tenant.clone());
                }
                (Some(Some(then)), Some(now)) if !Arc::ptr_eq(then, now) => {
                    // While closed, flows could not begin, but may have begun before.
                    cleanup.udp_changed |= then.is_closed;
                    for change in then.changes(now) {
                        cleanup.udp_changed |= has_lost_udp(&change);
                        if has_lost_affinity(&change) {
                            cleanup.affinity_changed.insert(tenant.clone());
                        }
                    }
                }
                // New, or as before.
                _ => {}
            }
        }
        cleanup
    }

    pub(crate) fn needs_sweep(&self) -> bool {
        self.udp_changed || !self.added.is_empty() || !self.removed.is_empty()
    }
}

fn has_lost_udp(change: &AddressChange<'_>) -> bool {
    let is_udp = |frontend: &Frontend| frontend.protocol == Protocol::Udp;
    change.before.iter().filter(|(frontend, _)| is_udp(frontend)).any(|(frontend, then)| {
        find(change.after, frontend).is_none_or(|now| then.serving.iter().any(|address| !now.serving.contains(address)))
    })
}

fn has_lost_affinity(change: &AddressChange<'_>) -> bool {
    change.before.iter().any(|(frontend, then)| match (&then.backend, find(change.after, frontend).map(|now| &now.backend)) {
        (Backend::Endpoints { endpoints: then, affinity: Some(_) }, Some(Backend::Endpoints { endpoints: now, affinity: Some(_) })) => {
            then.iter().any(|endpoint| !now.contains(endpoint))
        }
        (Backend::Endpoints { affinity: Some(_), .. }, _) => true,
        _ => false,
    })
}

/// The client is kept at an endpoint that its Service has no more, or by a Service without session affinity.
pub(crate) fn is_stale_affinity(table: &ServiceTable, entry: &AffinityEntry) -> bool {
    let target = table.target(&entry.frontend);
    !target.is_some_and(
        |target| matches!(&target.backend, Backend::Endpoints { endpoints, affinity: Some(_) } if endpoints.contains(&entry.endpoint)),
    )
}

/// One entry, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) protocol: Protocol,
    pub(crate) client: IpAddr,
    /// Where the client sent it.
    pub(crate) destination: SocketAddr,
    /// The address that answers. Differs from the destination's when the connection is translated.
    pub(crate) replier: IpAddr,
}

/// Which connections of one look through connection tracking are stale. Judged by the client's address first: entries of
/// host pods, and those that the host's kube-proxy made for the same Service address, are never deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    /// The pods of tenants, with the tenant's Services.
    pub(crate) clients: BTreeMap<IpAddr, Arc<ServiceTable>>,
    /// Clients that had no rules until now. What they sent before may have gone anywhere, also by TCP.
    pub(crate) added: BTreeSet<IpAddr>,
    /// Addresses that no pod has, or another tenant's pod, now, with the ranges of the tenant that had them. No ranges: not
    /// known any more, so all translated connections are meant.
    pub(crate) removed: BTreeMap<IpAddr, BTreeSet<IpNet>>,
}

impl Sweep {
    pub(crate) fn is_stale(&self, flow: &Flow) -> bool {
        let destination = flow.destination.ip();
        if let Some(table) = self.clients.get(&flow.client)
            && is_within(&table.ranges, destination)
        {
            let judged = flow.protocol == Protocol::Udp || self.added.contains(&flow.client) || self.removed.contains_key(&flow.client);
            return judged && !reaches(table, flow);
        }
        let is_translated = flow.replier != destination;
        self.removed.get(&flow.client).is_some_and(|ranges| is_translated && (ranges.is_empty() || is_within(ranges, destination)))
    }

    /// Adds what an earlier sweep could not do.
    pub(crate) fn merge(&mut self, earlier: Self) {
        self.added.extend(earlier.added);
        for (address, ranges) in earlier.removed {
            self.removed.entry(address).or_insert(ranges);
        }
    }
}

fn is_within(ranges: &BTreeSet<IpNet>, address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// The tenant's rules would let the flow go where it goes.
fn reaches(table: &ServiceTable, flow: &Flow) -> bool {
    let frontend = Frontend { address: flow.destination.ip(), protocol: flow.protocol, port: flow.destination.port() };
    table.target(&frontend).is_some_and(|target: &Target| {
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
    use crate::services::Affinity;
    use nestling_crds::names::TenantUid;
    use rstest::rstest;

    fn key() -> TenantKey {
        TenantKey::of(&TenantUid::new("a"))
    }

    fn table(protocol: Protocol, endpoints: &[&str], affinity: bool) -> Arc<ServiceTable> {
        let endpoints: Arc<[_]> = endpoints.iter().map(|endpoint| format!("{endpoint}:53").parse().unwrap()).collect();
        let serving = if protocol == Protocol::Udp { endpoints.iter().map(std::net::SocketAddr::ip).collect() } else { [].into() };
        let frontend = Frontend { address: "10.96.0.10".parse().unwrap(), protocol, port: 53 };
        let backend = Backend::Endpoints { endpoints, affinity: affinity.then_some(Affinity { seconds: 60 }) };
        Arc::new(ServiceTable {
            services: [(frontend.address, [(frontend, Target { backend, serving })].into())].into(),
            ..ServiceTable::default()
        })
    }

    fn installed(table: Option<Arc<ServiceTable>>, sources: &[u8]) -> NodeTable {
        NodeTable {
            tenants: [(key(), table)].into(),
            sources: sources.iter().map(|last| (IpAddr::from([10, 0, 0, *last]), key())).collect(),
            bridges: None,
        }
    }

    fn touched(then: &NodeTable, now: &NodeTable) -> (bool, bool) {
        let cleanup = ConntrackCleanup::between(Some(then), Some(now));
        (cleanup.udp_changed, !cleanup.affinity_changed.is_empty())
    }

    #[test]
    fn a_lost_udp_endpoint_needs_a_sweep_a_new_one_does_not() {
        let (one, two) = (table(Protocol::Udp, &["10.0.0.8"], false), table(Protocol::Udp, &["10.0.0.8", "10.0.0.9"], false));
        let (one, two) = (installed(Some(one), &[]), installed(Some(two), &[]));
        assert_eq!(touched(&one, &two), (false, false));
        assert_eq!(touched(&two, &one), (true, false));
        assert_eq!(touched(&two, &installed(Some(Arc::default()), &[])), (true, false));
    }

    #[test]
    fn tcp_is_not_swept_but_its_affinity_is() {
        let (one, two) = (table(Protocol::Tcp, &["10.0.0.8"], true), table(Protocol::Tcp, &["10.0.0.8", "10.0.0.9"], true));
        let loose = table(Protocol::Tcp, &["10.0.0.8"], false);
        let (one, two, loose) = (installed(Some(one), &[]), installed(Some(two), &[]), installed(Some(loose), &[]));
        assert_eq!(touched(&one, &two), (false, false));
        assert_eq!(touched(&two, &one), (false, true));
        assert_eq!(touched(&one, &loose), (false, true));
        assert_eq!(touched(&loose, &one), (false, false));
    }

    #[test]
    fn what_was_inherited_is_cleaned_up_once() {
        let (inherited, known) = (installed(None, &[]), installed(Some(Arc::default()), &[]));
        assert_eq!(touched(&inherited, &known), (true, true));
        assert_eq!(touched(&inherited, &inherited), (false, false));
        assert_eq!(touched(&known, &known), (false, false));
    }

    #[test]
    fn pods_come_and_go() {
        let cleanup = ConntrackCleanup::between(Some(&installed(None, &[1, 2])), Some(&installed(None, &[2, 3])));
        assert_eq!(cleanup.added, [IpAddr::from([10, 0, 0, 3])].into());
        assert_eq!(cleanup.removed, [(IpAddr::from([10, 0, 0, 1]), BTreeSet::new())].into());
        assert!(cleanup.needs_sweep());
    }

    /// Service 10.96.0.10:53 with endpoint 10.0.0.1, serving also 10.0.0.2 over UDP.
    fn dns() -> Arc<ServiceTable> {
        let address = "10.96.0.10".parse().unwrap();
        let frontend = |protocol| {
            let endpoints = ["10.0.0.1:53".parse().unwrap()].into();
            let serving: Vec<IpAddr> = if protocol == Protocol::Udp { vec!["10.0.0.2".parse().unwrap()] } else { vec![] };
            let target = Target { backend: Backend::Endpoints { endpoints, affinity: None }, serving: serving.into() };
            (Frontend { address, protocol, port: 53 }, target)
        };
        let services = [(address, [Protocol::Tcp, Protocol::Udp].map(frontend).into())].into();
        Arc::new(ServiceTable { services, ..ServiceTable::closed(["10.96.0.0/16".parse().unwrap()]) })
    }

    fn flow(text: &str) -> Flow {
        let words: Vec<&str> = text.split(' ').collect();
        Flow {
            protocol: if words[0] == "udp" { Protocol::Udp } else { Protocol::Tcp },
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
    #[case::added_and_right("tcp 10.9.0.2 10.96.0.10:53 10.0.0.1", false)]
    #[case::removed("tcp 10.9.0.3 10.96.0.10:53 10.0.0.1", true)]
    #[case::removed_elsewhere("tcp 10.9.0.3 10.43.0.10:53 10.0.0.1", false)]
    #[case::removed_direct("tcp 10.9.0.3 10.96.0.10:53 10.96.0.10", false)]
    #[case::removed_with_its_tenant("tcp 10.9.0.4 10.43.0.10:53 10.0.0.1", true)]
    #[case::of_another_tenant_now("tcp 10.9.0.5 10.96.0.10:53 10.0.0.9", true)]
    #[case::of_another_tenant_and_right("tcp 10.9.0.5 10.96.0.10:53 10.0.0.1", false)]
    fn stale(#[case] text: &str, #[case] expected: bool) {
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let ranges: BTreeSet<IpNet> = ["10.96.0.0/16".parse().unwrap()].into();
        let sweep = Sweep {
            clients: ["10.9.0.1", "10.9.0.2", "10.9.0.5"].map(|client| (address(client), dns())).into(),
            added: [address("10.9.0.2")].into(),
            removed: [(address("10.9.0.3"), ranges.clone()), (address("10.9.0.4"), BTreeSet::new()), (address("10.9.0.5"), ranges)].into(),
        };
        assert_eq!(sweep.is_stale(&flow(text)), expected);
    }
}
