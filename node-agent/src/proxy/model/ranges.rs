//! Service ranges, from the operator's word and from the tenant's `ServiceCIDR` objects.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;

/// The same addresses in the fewest ranges.
pub fn merged(ranges: impl IntoIterator<Item = IpNet>) -> BTreeSet<IpNet> {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for range in ranges {
        match range.trunc() {
            IpNet::V4(net) => v4.push(net),
            IpNet::V6(net) => v6.push(net),
        }
    }
    let v4 = Ipv4Net::aggregate(&v4).into_iter().map(IpNet::V4);
    let v6 = Ipv6Net::aggregate(&v6).into_iter().map(IpNet::V6);
    v4.chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_and_adjacent_ranges_become_one() {
        let ranges = ["10.96.0.0/17", "10.96.128.0/17", "10.96.3.0/24", "fd00::/112"].map(|r| r.parse().unwrap());
        let expected: BTreeSet<IpNet> = ["10.96.0.0/16", "fd00::/112"].map(|r| r.parse().unwrap()).into();
        assert_eq!(merged(ranges), expected);
    }
}
