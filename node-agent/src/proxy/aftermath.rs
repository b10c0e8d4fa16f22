//! What a change of rules leaves to be cleaned up, because rules reach new connections only. Pure.

use super::model::{Backend, Protocol, ServiceTable};
use super::rules::{Installed, Remembered, TenantKey};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// Addresses that had no rules before.
    pub fresh: BTreeSet<IpAddr>,
    /// Addresses that are nobody's, or somebody else's, now, with the ranges they could reach (none: not known).
    pub departed: BTreeMap<IpAddr, BTreeSet<IpNet>>,
    /// A UDP flow may have lost its endpoint.
    pub is_udp_touched: bool,
    /// Tenants in which session affinity may remember an endpoint that is gone.
    pub forgetful: BTreeSet<TenantKey>,
}

impl Aftermath {
    /// `before` None: there was no table.
    pub fn of(before: Option<&Installed>, after: Option<&Installed>) -> Self {
        let nothing = Installed::default();
        let (before, after) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
        let mut aftermath = Self::default();
        for (address, tenant) in &before.sources {
            if after.sources.get(address) != Some(tenant) {
                let table = before.tenants.get(tenant).and_then(|tenant| tenant.table.as_ref());
                aftermath.departed.insert(*address, table.map(|table| table.ranges.clone()).unwrap_or_default());
            }
        }
        aftermath.fresh = after.sources.keys().filter(|address| !before.sources.contains_key(*address)).copied().collect();
        for (tenant, now) in &after.tenants {
            let Some(then) = before.tenants.get(tenant) else { continue };
            match (&then.table, &now.table) {
                // Inherited rules have become known ones, or are as before.
                (None, Some(_)) => {
                    aftermath.is_udp_touched = true;
                    aftermath.forgetful.insert(tenant.clone());
                }
                (Some(then), Some(now)) if !std::sync::Arc::ptr_eq(then, now) => {
                    aftermath.is_udp_touched |= has_lost_udp(then, now);
                    if has_lost_affinity(then, now) {
                        aftermath.forgetful.insert(tenant.clone());
                    }
                }
                _ => {}
            }
        }
        aftermath
    }

    pub fn calls_for_sweep(&self) -> bool {
        self.is_udp_touched || !self.fresh.is_empty() || !self.departed.is_empty()
    }
}

fn has_lost_udp(then: &ServiceTable, now: &ServiceTable) -> bool {
    // While closed, flows could not begin, but may have begun before.
    then.is_closed
        || then.frontends.iter().filter(|(frontend, _)| frontend.protocol == Protocol::Udp).any(|(frontend, then)| {
            now.frontends.get(frontend).is_none_or(|now| then.serving.iter().any(|address| !now.serving.contains(address)))
        })
}

fn has_lost_affinity(then: &ServiceTable, now: &ServiceTable) -> bool {
    then.frontends.iter().any(|(frontend, then)| match (&then.backend, now.frontends.get(frontend).map(|now| &now.backend)) {
        (Backend::Endpoints { endpoints: then, affinity: Some(_) }, Some(Backend::Endpoints { endpoints: now, affinity: Some(_) })) => {
            then.iter().any(|endpoint| !now.contains(endpoint))
        }
        (Backend::Endpoints { affinity: Some(_), .. }, _) => true,
        _ => false,
    })
}

/// The client is kept at an endpoint that its Service has no more, or by a Service that keeps nobody.
pub fn is_misremembered(table: &ServiceTable, entry: &Remembered) -> bool {
    let target = table.frontends.get(&entry.frontend);
    !target.is_some_and(
        |target| matches!(&target.backend, Backend::Endpoints { endpoints, affinity: Some(_) } if endpoints.contains(&entry.endpoint)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::model::{Affinity, Frontend, Target};
    use super::super::rules::InstalledTenant;
    use super::*;
    use nestling_crds::names::TenantUid;
    use std::sync::Arc;

    fn key() -> TenantKey {
        TenantKey::of(&TenantUid::new("a"))
    }

    fn table(protocol: Protocol, endpoints: &[&str], affinity: bool) -> Arc<ServiceTable> {
        let endpoints: Arc<[_]> = endpoints.iter().map(|endpoint| format!("{endpoint}:53").parse().unwrap()).collect();
        let serving = if protocol == Protocol::Udp { endpoints.iter().map(std::net::SocketAddr::ip).collect() } else { [].into() };
        let frontend = Frontend { address: "10.96.0.10".parse().unwrap(), protocol, port: 53 };
        let backend = Backend::Endpoints { endpoints, affinity: affinity.then_some(Affinity { seconds: 60 }) };
        Arc::new(ServiceTable { frontends: [(frontend, Target { backend, serving })].into(), ..ServiceTable::closed([]) })
    }

    fn installed(table: Option<Arc<ServiceTable>>, sources: &[u8]) -> Installed {
        let table = table.map(|table| Arc::new(ServiceTable { is_closed: false, ..(*table).clone() }));
        Installed {
            tenants: [(key(), InstalledTenant { chains: BTreeSet::new(), table })].into(),
            sources: sources.iter().map(|last| (IpAddr::from([10, 0, 0, *last]), key())).collect(),
            bridges: None,
        }
    }

    fn touched(then: &Installed, now: &Installed) -> (bool, bool) {
        let aftermath = Aftermath::of(Some(then), Some(now));
        (aftermath.is_udp_touched, !aftermath.forgetful.is_empty())
    }

    #[test]
    fn a_lost_udp_endpoint_calls_for_a_sweep_a_new_one_does_not() {
        let (one, two) = (table(Protocol::Udp, &["10.0.0.8"], false), table(Protocol::Udp, &["10.0.0.8", "10.0.0.9"], false));
        let (one, two) = (installed(Some(one), &[]), installed(Some(two), &[]));
        assert_eq!(touched(&one, &two), (false, false));
        assert_eq!(touched(&two, &one), (true, false));
        assert_eq!(touched(&two, &installed(Some(Arc::default()), &[])), (true, false));
    }

    #[test]
    fn tcp_is_not_swept_but_forgotten() {
        let (one, two) = (table(Protocol::Tcp, &["10.0.0.8"], true), table(Protocol::Tcp, &["10.0.0.8", "10.0.0.9"], true));
        let loose = table(Protocol::Tcp, &["10.0.0.8"], false);
        let (one, two, loose) = (installed(Some(one), &[]), installed(Some(two), &[]), installed(Some(loose), &[]));
        assert_eq!(touched(&one, &two), (false, false));
        assert_eq!(touched(&two, &one), (false, true));
        assert_eq!(touched(&one, &loose), (false, true));
        assert_eq!(touched(&loose, &one), (false, false));
    }

    #[test]
    fn what_was_inherited_is_looked_through_once() {
        let (inherited, known) = (installed(None, &[]), installed(Some(Arc::default()), &[]));
        assert_eq!(touched(&inherited, &known), (true, true));
        assert_eq!(touched(&inherited, &inherited), (false, false));
        assert_eq!(touched(&known, &known), (false, false));
    }

    #[test]
    fn pods_come_and_go() {
        let aftermath = Aftermath::of(Some(&installed(None, &[1, 2])), Some(&installed(None, &[2, 3])));
        assert_eq!(aftermath.fresh, [IpAddr::from([10, 0, 0, 3])].into());
        assert_eq!(aftermath.departed, [(IpAddr::from([10, 0, 0, 1]), BTreeSet::new())].into());
        assert!(aftermath.calls_for_sweep());
    }
}
