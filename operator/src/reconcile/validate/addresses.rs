//! The tenant's Service range and what follows from it.

use super::later;
use super::problems::Problems;
use crate::config::OperatorConfig;
use crate::network::service_range::{self, DNS_INDEX};
use crate::reconcile::dereference::Dereferenced;
use ipnet::{IpNet, Ipv4Net};
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::Network;
use std::net::IpAddr;

const FIELD: &str = "spec.network.serviceCIDR";
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
    pub fn find(
        network: &Network,
        accepted: Option<&str>,
        tenant: &TenantUid,
        reads: &Dereferenced,
        config: &OperatorConfig,
        problems: &mut Problems,
    ) -> Option<Self> {
        let Network { service_cidr, cluster_domain, node_ports } = network;
        later::node_ports(*node_ports, problems);
        if !is_dns_name(cluster_domain) {
            problems.add("spec.network.clusterDomain", format!("{cluster_domain:?} must be a DNS domain such as cluster.local"));
        }
        let accepted = accepted.and_then(|range| range.parse::<Ipv4Net>().ok());
        let range = match (service_cidr, accepted) {
            (Some(asked), accepted) => asked_for(asked, accepted, &reads.host_ranges, problems)?,
            (None, Some(accepted)) => accepted,
            (None, None) => allocated(tenant, reads, config, problems)?,
        };
        Some(Self {
            service_cidr: IpNet::V4(range),
            kubernetes: service_range::nth(&range, 1)?,
            dns: service_range::nth(&range, DNS_INDEX)?,
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
    if let Some(taken) = host.iter().find(|other| service_range::overlap(&IpNet::V4(range), other)) {
        problems
            .add(FIELD, format!("{range} overlaps {taken}, which the host uses: the tenant's pods could not reach the host's addresses"));
        return None;
    }
    Some(range)
}

fn allocated(tenant: &TenantUid, reads: &Dereferenced, config: &OperatorConfig, problems: &mut Problems) -> Option<Ipv4Net> {
    let others = reads.taken.iter().filter(|(other, _)| other != tenant).map(|(_, range)| *range);
    let avoid: Vec<IpNet> = reads.host_ranges.iter().copied().chain(others).collect();
    let range = service_range::allocate(config.service_cidr_pool, config.service_cidr_prefix, tenant, &avoid);
    range.map_err(|error| problems.add(FIELD, format!("cannot be allocated: {error}; name a range yourself"))).ok()
}

/// RFC 1123 subdomain.
pub(super) fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}
