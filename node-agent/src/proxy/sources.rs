//! Which tenant each pod address on this node belongs to.

use nestling_crds::names::TenantUid;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Claims of tenants on addresses. An address can have two for a moment: its old pod has ended and its new one begun, and
/// the two tenants' watches do not tell in that order. The later claim counts, because it is of the later pod.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Claimants in the order of their claims, never empty.
    claims: BTreeMap<IpAddr, Vec<TenantUid>>,
    /// Tenants that have spoken, also those that have no pods here.
    known: BTreeSet<TenantUid>,
}

impl Sources {
    /// The tenant's addresses, all of them. False: as before.
    pub fn set(&mut self, tenant: &TenantUid, addresses: &BTreeSet<IpAddr>) -> bool {
        let mut changed = self.known.insert(tenant.clone());
        self.claims.retain(|address, claimants| {
            if !addresses.contains(address) {
                let before = claimants.len();
                claimants.retain(|claimant| claimant != tenant);
                changed |= claimants.len() != before;
            }
            !claimants.is_empty()
        });
        for address in addresses {
            let claimants = self.claims.entry(*address).or_default();
            if !claimants.contains(tenant) {
                claimants.push(tenant.clone());
                changed = true;
            }
        }
        changed
    }

    pub fn remove(&mut self, tenant: &TenantUid) {
        self.set(tenant, &BTreeSet::new());
        self.known.remove(tenant);
    }

    /// The tenant has said what its pods are.
    pub fn knows(&self, tenant: &TenantUid) -> bool {
        self.known.contains(tenant)
    }

    pub fn owners(&self) -> impl Iterator<Item = (IpAddr, &TenantUid)> {
        self.claims.iter().filter_map(|(address, claimants)| Some((*address, claimants.last()?)))
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
        assert!(!sources.set(&a, &addresses(&[1, 2])), "said again is no new claim");
        assert_eq!(owner(&sources, 2).as_deref(), Some("b"));
        assert!(sources.set(&b, &addresses(&[3])));
        assert_eq!(owner(&sources, 2).as_deref(), Some("a"));
        sources.remove(&a);
        assert_eq!((owner(&sources, 1), owner(&sources, 2)), (None, None));
        assert!(!sources.knows(&a) && sources.knows(&b));
    }
}
