//! The tenant's service range, taken from the spec or from the operator's pool, and what follows from it.
//!
//! Ranges of two tenants may overlap, since each is seen by its own pods only: two reconciles that choose the same range at
//! the same time do no harm, and different ranges keep packet captures and firewall logs readable. A range that the host
//! itself uses is excluded: the tenant's pods could not reach those host addresses.

use crate::config::OperatorConfig;
use crate::reconcile::dereference::Dereferenced;
use crate::reconcile::validate::problems::{Problems, is_dns_name};
use ipnet::{IpNet, Ipv4Net};
use nestling_crds::names::{TenantUid, hash65};
use nestling_crds::v1alpha1::Network;
use std::net::{IpAddr, Ipv4Addr};
use thiserror::Error;

const FIELD: &str = "spec.network.serviceCIDRs";
/// Position of `kube-dns` in the range, as kubeadm has it.
pub(crate) const DNS_INDEX: u32 = 10;
/// kube-apiserver takes 20 host bits at most (`validateMaxCIDRRange`); DNS is the tenth address.
const PREFIXES: std::ops::RangeInclusive<u8> = 12..=28;

pub(super) struct Addresses {
    pub service_cidr: IpNet,
    /// First address of the range.
    pub kubernetes: IpAddr,
    pub dns: IpAddr,
    pub cluster_domain: String,
}

impl Addresses {
    /// `accepted` is the range in force. It stays, even if the host has grown into it since: Services have addresses in it.
    pub(super) fn find(
        network: &Network,
        accepted: Option<&str>,
        tenant: &TenantUid,
        reads: &Dereferenced,
        config: &OperatorConfig,
        problems: &mut Problems,
    ) -> Option<Self> {
        // The former name and further ranges are refused by the CRD's rules.
        let Network { service_cidrs, service_cidr: _, cluster_domain, node_ports: _ } = network;
        if !is_dns_name(cluster_domain) {
            problems.add("spec.network.clusterDomain", format!("{cluster_domain:?} must be a DNS domain such as cluster.local"));
        }
        let accepted = accepted.and_then(|range| range.parse::<Ipv4Net>().ok());
        let range = match (service_cidrs.first(), accepted) {
            (Some(asked), accepted) => asked_for(asked, accepted, &reads.host_ranges, problems)?,
            (None, Some(accepted)) => accepted,
            (None, None) => allocated(tenant, reads, config, problems)?,
        };
        Some(Self {
            service_cidr: IpNet::V4(range),
            kubernetes: nth(range, 1)?,
            dns: nth(range, DNS_INDEX)?,
            cluster_domain: cluster_domain.clone(),
        })
    }
}

fn asked_for(asked: &str, accepted: Option<Ipv4Net>, host: &[IpNet], problems: &mut Problems) -> Option<Ipv4Net> {
    let Ok(range) = asked.parse::<IpNet>() else {
        problems.add(FIELD, format!("{asked:?} must be a CIDR such as 10.100.0.0/20"));
        return None;
    };
    let IpNet::V4(range) = range else {
        problems.add(FIELD, "IPv6 is not supported yet; use an IPv4 range");
        return None;
    };
    if range != range.trunc() || !PREFIXES.contains(&range.prefix_len()) {
        problems.add(FIELD, format!("{asked} must be between /12 and /28, without host bits"));
        return None;
    }
    if let Some(accepted) = accepted {
        if accepted == range {
            return Some(range);
        }
        problems.add(FIELD, format!("is immutable: the tenant's Services have addresses in {accepted}"));
        return None;
    }
    if let Some(taken) = host.iter().find(|other| overlap(&IpNet::V4(range), other)) {
        problems
            .add(FIELD, format!("{range} overlaps {taken}, which the host uses: the tenant's pods could not reach the host's addresses"));
        return None;
    }
    Some(range)
}

fn allocated(tenant: &TenantUid, reads: &Dereferenced, config: &OperatorConfig, problems: &mut Problems) -> Option<Ipv4Net> {
    let others = reads.taken.iter().filter(|(other, _)| other != tenant).map(|(_, range)| *range);
    let avoid: Vec<IpNet> = reads.host_ranges.iter().copied().chain(others).collect();
    let range = allocate(config.service_cidr_pool, config.service_cidr_prefix, tenant, &avoid);
    range.map_err(|error| problems.add(FIELD, format!("cannot be allocated: {error}; name a range yourself"))).ok()
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum AllocateError {
    #[error("the operator's pool {pool} has no free /{prefix}")]
    Exhausted { pool: IpNet, prefix: u8 },
    #[error("the operator's pool {pool} cannot be cut into ranges of /{prefix}")]
    Pool { pool: IpNet, prefix: u8 },
}

/// A range of the pool that overlaps none of `avoid`. Where the search begins depends on the tenant alone, so the answer is
/// stable as long as its surroundings are, and two tenants that are created together seldom meet.
pub(super) fn allocate(pool: IpNet, prefix: u8, tenant: &TenantUid, avoid: &[IpNet]) -> Result<Ipv4Net, AllocateError> {
    let refused = AllocateError::Pool { pool, prefix };
    let IpNet::V4(v4) = pool else { return Err(refused) };
    if !(v4.prefix_len()..=28).contains(&prefix) {
        return Err(refused);
    }
    let slots = 1u64 << (prefix - v4.prefix_len());
    let size = 1u64 << (32 - prefix);
    let first = start(tenant, slots);
    (0..slots)
        .filter_map(|step| {
            let offset = u32::try_from((first + step) % slots * size).ok()?;
            Ipv4Net::new(Ipv4Addr::from(u32::from(v4.network()).checked_add(offset)?), prefix).ok()
        })
        .find(|range| !avoid.iter().any(|other| overlap(&IpNet::V4(*range), other)))
        .ok_or(AllocateError::Exhausted { pool, prefix })
}

/// Whether two ranges share an address.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The address `index` after the range's network address, if it is in the range.
pub(crate) fn nth(range: Ipv4Net, index: u32) -> Option<IpAddr> {
    let address = Ipv4Addr::from(u32::from(range.network()).checked_add(index)?);
    range.contains(&address).then_some(IpAddr::V4(address))
}

fn start(tenant: &TenantUid, slots: u64) -> u64 {
    let hash = hash65(&["service-range", tenant.as_str()]);
    hash.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ranges() -> impl Strategy<Value = Vec<IpNet>> {
        let range = (any::<u32>(), 8u8..=32).prop_map(|(bits, prefix)| {
            // Most inside the pool, so that they matter.
            let bits = if bits % 4 == 0 { bits } else { 0x0a80_0000 | (bits & 0x003f_ffff) };
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from(bits), prefix).unwrap().trunc())
        });
        proptest::collection::vec(range, 0..40)
    }

    proptest! {
        #[test]
        fn a_range_is_from_the_pool_and_free(uid in "[a-f0-9-]{1,36}", avoid in ranges(), prefix in 16u8..=24) {
            let pool = net("10.128.0.0/10");
            match allocate(pool, prefix, &TenantUid::new(uid), &avoid) {
                Ok(range) => {
                    prop_assert_eq!(range, range.trunc());
                    prop_assert!(pool.contains(&IpNet::V4(range)));
                    prop_assert!(!avoid.iter().any(|other| overlap(&IpNet::V4(range), other)));
                }
                Err(error) => {
                    prop_assert_eq!(error, AllocateError::Exhausted { pool, prefix });
                    // Only if the avoided ranges really leave nothing.
                    let IpNet::V4(v4) = pool else { unreachable!() };
                    prop_assert!(v4.subnets(prefix).unwrap().all(|s| avoid.iter().any(|o| overlap(&IpNet::V4(s), o))));
                }
            }
        }

        #[test]
        fn ranges_elsewhere_change_nothing(uid in "[a-f0-9-]{1,36}", third in 0u8..=255) {
            let tenant = TenantUid::new(uid);
            let alone = allocate(net("10.128.0.0/10"), 20, &tenant, &[]).unwrap();
            let elsewhere = net(&format!("10.96.{third}.0/24"));
            prop_assert_eq!(alone, allocate(net("10.128.0.0/10"), 20, &tenant, &[elsewhere]).unwrap());
        }
    }

    #[test]
    fn the_default_pool_serves_a_thousand_tenants_side_by_side() {
        let mut taken = Vec::new();
        for tenant in 0..1024 {
            let range = allocate(net("10.128.0.0/10"), 20, &TenantUid::new(tenant.to_string()), &taken).unwrap();
            taken.push(IpNet::V4(range));
        }
        let refused = allocate(net("10.128.0.0/10"), 20, &TenantUid::new("one more"), &taken);
        assert_eq!(refused, Err(AllocateError::Exhausted { pool: net("10.128.0.0/10"), prefix: 20 }));
    }

    #[test]
    fn a_pool_that_cannot_be_cut_is_refused() {
        for (pool, prefix) in [("10.128.0.0/24", 20), ("10.128.0.0/10", 29), ("fd00::/48", 64)] {
            let refused = allocate(net(pool), prefix, &TenantUid::new("t"), &[]);
            assert_eq!(refused, Err(AllocateError::Pool { pool: net(pool), prefix }));
        }
    }

    #[test]
    fn addresses_count_from_the_network_address() {
        let range: Ipv4Net = "10.128.16.0/28".parse().unwrap();
        assert_eq!(nth(range, DNS_INDEX), Some("10.128.16.10".parse().unwrap()));
        assert_eq!(nth(range, 16), None);
    }
}
