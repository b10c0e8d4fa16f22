//! Which tenant each pod address on this node belongs to.

use nestling_crds::names::TenantUid;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// How long an address counts that only the container runtime has reported. The host pod's status follows within seconds;
/// if it does not, the end of the sandbox has been missed.
const ANNOUNCED: Duration = Duration::from_secs(60);

/// Claims of tenants on addresses. An address can have two for a moment: its old pod has ended and its new one started, and
/// the two tenants' watches deliver that in any order. The later claim counts, because it is of the later pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    /// Claimants in the order of their claims, never empty.
    claims: BTreeMap<IpAddr, Vec<TenantUid>>,
    /// From the host pods' statuses; also of tenants that have no pods here.
    confirmed: BTreeMap<TenantUid, BTreeSet<IpAddr>>,
    /// From the container runtime, ahead of the status, by sandbox.
    announced: BTreeMap<String, Announced>,
}

#[derive(Clone, Debug)]
struct Announced {
    tenant: TenantUid,
    addresses: BTreeSet<IpAddr>,
    at: Instant,
}

impl Sources {
    /// The tenant's addresses, all of them. False: as before.
    pub(super) fn set(&mut self, tenant: &TenantUid, addresses: &BTreeSet<IpAddr>) -> bool {
        let is_new = self.confirmed.insert(tenant.clone(), addresses.clone()).as_ref() != Some(addresses);
        self.announced.retain(|_, early| early.tenant != *tenant || !early.addresses.is_subset(addresses));
        // In this order: what was announced and is now confirmed stays all the while.
        self.settle(tenant) || is_new
    }

    /// A sandbox of the tenant has come up with these addresses. False: nothing new.
    pub(super) fn announce(&mut self, sandbox: &str, tenant: &TenantUid, addresses: BTreeSet<IpAddr>, at: Instant) -> bool {
        if self.confirmed.get(tenant).is_some_and(|confirmed| addresses.is_subset(confirmed)) {
            return false;
        }
        self.announced.insert(sandbox.to_owned(), Announced { tenant: tenant.clone(), addresses, at });
        self.settle(tenant)
    }

    /// The sandbox has ended.
    pub(super) fn retract(&mut self, sandbox: &str) -> bool {
        self.announced.remove(sandbox).is_some_and(|early| self.settle(&early.tenant))
    }

    /// Drops what was announced too long ago.
    pub(super) fn expire(&mut self, now: Instant) {
        let old: Vec<String> = self.announced.iter().filter(|(_, early)| now >= early.at + ANNOUNCED).map(|(id, _)| id.clone()).collect();
        for sandbox in old {
            self.retract(&sandbox);
        }
    }

    pub(super) fn remove(&mut self, tenant: &TenantUid) {
        self.confirmed.remove(tenant);
        self.announced.retain(|_, early| early.tenant != *tenant);
        self.settle(tenant);
    }

    /// The tenant's pods are known.
    pub(super) fn knows(&self, tenant: &TenantUid) -> bool {
        self.confirmed.contains_key(tenant)
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = (IpAddr, &TenantUid)> {
        self.claims.iter().filter_map(|(address, claimants)| Some((*address, claimants.last()?)))
    }

    /// Brings the tenant's claims up to date; those that it has keep their place in the order.
    fn settle(&mut self, tenant: &TenantUid) -> bool {
        let early = self.announced.values().filter(|early| early.tenant == *tenant).flat_map(|early| &early.addresses);
        let addresses: BTreeSet<IpAddr> = self.confirmed.get(tenant).into_iter().flatten().chain(early).copied().collect();
        let mut changed = false;
        self.claims.retain(|address, claimants| {
            if !addresses.contains(address) {
                let before = claimants.len();
                claimants.retain(|claimant| claimant != tenant);
                changed |= claimants.len() != before;
            }
            !claimants.is_empty()
        });
        for address in addresses {
            let claimants = self.claims.entry(address).or_default();
            if !claimants.contains(tenant) {
                claimants.push(tenant.clone());
                changed = true;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect()
    }

    fn owner(sources: &Sources, last: u8) -> Option<String> {
        sources.owners().find(|(address, _)| *address == IpAddr::from([10, 0, 0, last])).map(|(_, tenant)| tenant.to_string())
    }

    #[test]
    fn the_later_claim_counts_and_the_earlier_one_comes_back() {
        let (a, b) = (TenantUid::new("a"), TenantUid::new("b"));
        let mut sources = Sources::default();
        assert!(sources.set(&a, &addresses(&[1, 2])));
        assert!(sources.set(&b, &addresses(&[2, 3])));
        assert_eq!(owner(&sources, 2).as_deref(), Some("b"));
        assert!(!sources.set(&a, &addresses(&[1, 2])), "the same again is no new claim");
        assert_eq!(owner(&sources, 2).as_deref(), Some("b"));
        assert!(sources.set(&b, &addresses(&[3])));
        assert_eq!(owner(&sources, 2).as_deref(), Some("a"));
        sources.remove(&a);
        assert_eq!((owner(&sources, 1), owner(&sources, 2)), (None, None));
        assert!(!sources.knows(&a) && sources.knows(&b));
    }

    #[test]
    fn an_announced_address_counts_until_it_is_confirmed_retracted_or_too_old() {
        let a = TenantUid::new("a");
        let now = Instant::now();
        let mut sources = Sources::default();
        assert!(sources.announce("s1", &a, addresses(&[1]), now));
        assert!(!sources.knows(&a), "the runtime does not report every pod");
        assert!(sources.set(&a, &addresses(&[])));
        assert_eq!(owner(&sources, 1).as_deref(), Some("a"), "the status lags behind");
        assert!(sources.set(&a, &addresses(&[1])), "confirmed");
        assert!(!sources.retract("s1"), "the status decides when it ends");
        assert_eq!(owner(&sources, 1).as_deref(), Some("a"));
        assert!(!sources.announce("s1", &a, addresses(&[1]), now), "reported again by the runtime");

        assert!(sources.announce("s2", &a, addresses(&[2]), now));
        assert!(sources.retract("s2"));
        assert_eq!(owner(&sources, 2), None);
        assert!(sources.announce("s3", &a, addresses(&[3]), now));
        sources.expire(now + ANNOUNCED / 2);
        assert_eq!(owner(&sources, 3).as_deref(), Some("a"));
        sources.expire(now + ANNOUNCED);
        assert_eq!(owner(&sources, 3), None);
    }

    #[test]
    fn an_announcement_is_the_later_claim() {
        let (a, b) = (TenantUid::new("a"), TenantUid::new("b"));
        let mut sources = Sources::default();
        sources.set(&a, &addresses(&[1]));
        assert!(sources.announce("s", &b, addresses(&[1]), Instant::now()));
        sources.set(&a, &addresses(&[1, 2]));
        assert_eq!(owner(&sources, 1).as_deref(), Some("b"), "the pod of a has ended, and its status lags behind");
    }
}
