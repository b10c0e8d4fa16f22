//! Transactions as people read them (snapshots), and what they lead to on the fake kernel (properties). Whether the real
//! one takes them is for `contract.rs`, and what packets do then for `tests/proxy_netns.rs`.

use super::fake::Kernel;
use super::*;
use crate::proxy::table::{Backend, Frontend, NodeTable, ServiceTable, Target};
use crate::services::{Affinity, Protocol};
use nestling_crds::names::TenantUid;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub(super) fn key(name: &str) -> TenantKey {
    TenantKey::of(&TenantUid::new(name))
}

/// `10.96.0.1:80` or `10.96.0.1:53/udp`; then endpoints, or `reject` or `drop`; `+60` for session affinity.
fn service(text: &str) -> (Frontend, Target) {
    let mut words = text.split(' ');
    let frontend = words.next().unwrap();
    let (frontend, protocol) = match frontend.split_once('/') {
        Some((frontend, "udp")) => (frontend, Protocol::Udp),
        Some((frontend, _)) => (frontend, Protocol::Sctp),
        None => (frontend, Protocol::Tcp),
    };
    let frontend: SocketAddr = frontend.parse().unwrap();
    let mut endpoints: Vec<SocketAddr> = Vec::new();
    let mut affinity = None;
    let mut backend = None;
    for word in words {
        match word {
            "reject" => backend = Some(Backend::Reject),
            "drop" => backend = Some(Backend::Drop),
            word => match word.strip_prefix('+') {
                Some(seconds) => affinity = Some(Affinity { seconds: seconds.parse().unwrap() }),
                None => endpoints.push(word.parse().unwrap()),
            },
        }
    }
    let backend = backend.unwrap_or_else(|| Backend::Endpoints { endpoints: endpoints.into(), affinity });
    (Frontend { address: frontend.ip(), protocol, port: frontend.port() }, Target { backend, serving: [].into() })
}

pub(super) fn table(ranges: &[&str], services: &[&str]) -> Arc<ServiceTable> {
    let mut frontends: BTreeMap<IpAddr, Vec<(Frontend, Target)>> = BTreeMap::new();
    for (frontend, target) in services.iter().map(|text| service(text)) {
        frontends.entry(frontend.address).or_default().push((frontend, target));
    }
    let sorted = |mut frontends: Vec<(Frontend, Target)>| {
        frontends.sort_by_key(|(frontend, _)| *frontend);
        Arc::from(frontends)
    };
    Arc::new(ServiceTable {
        services: frontends.into_iter().map(|(address, frontends)| (address, sorted(frontends))).collect(),
        is_closed: false,
        ..ServiceTable::closed(ranges.iter().map(|range| range.parse().unwrap()))
    })
}

/// As `Desired` makes it for IPv4.
pub(super) fn desired(tenants: &[(&str, &Arc<ServiceTable>)], sources: &[(&str, &str)]) -> NodeTable {
    let tenants: BTreeMap<TenantKey, _> = tenants.iter().map(|(name, table)| (key(name), Some(Arc::clone(table)))).collect();
    let sources = sources.iter().map(|(address, name)| (address.parse().unwrap(), key(name)));
    let sources = sources.filter(|(address, key)| Family::of(*address) == Family::V4 && tenants.contains_key(key)).collect();
    NodeTable { tenants, sources, bridges: None }
}

fn change(installed: Option<&Installed>, desired: &NodeTable) -> (String, Option<Installed>) {
    let (transaction, after) = plan(Family::V4, Approach::Change, installed, desired);
    (transaction.to_string(), after)
}

fn strict() -> Kernel {
    Kernel { is_strict: true, ..Kernel::default() }
}

/// The change applied.
fn apply(kernel: &mut Kernel, installed: &mut Option<Installed>, desired: &NodeTable) {
    let (transaction, after) = plan(Family::V4, Approach::Change, installed.as_ref(), desired);
    kernel.apply(&transaction).unwrap();
    *installed = after;
}

#[test]
fn a_first_table() {
    let table = table(
        &["10.96.0.0/16"],
        &[
            "10.96.0.1:443 10.244.1.2:6443",
            "10.96.0.10:53/udp 10.244.1.5:53 10.244.2.5:53",
            "10.96.0.20:80 10.244.1.6:8080 10.244.2.6:8080 +10800",
            "10.96.0.30:80 reject",
            "10.96.0.31:7/sctp drop",
        ],
    );
    let mut desired = desired(&[("team-a", &table)], &[("10.244.1.9", "team-a")]);
    desired.bridges = Some(["cni0".to_owned()].into());
    insta::assert_snapshot!(change(None, &desired).0);
}

#[test]
fn a_first_table_of_ipv6() {
    let table = table(&["10.96.0.0/16", "fd00:96::/112"], &["[fd00:96::1]:80 [fd00:1::2]:8080", "10.96.0.1:80 reject"]);
    let mut desired = desired(&[("team-a", &table)], &[]);
    desired.sources.insert("fd00:1::9".parse().unwrap(), key("team-a"));
    insta::assert_snapshot!(plan(Family::V6, Approach::Change, None, &desired).0.to_string());
}

#[test]
fn a_changed_endpoint_touches_elements_only() {
    let old = table(&["10.96.0.0/16"], &["10.96.0.1:80 10.244.1.2:80 10.244.1.3:80", "10.96.0.2:80 10.244.1.4:80"]);
    let new = table(&["10.96.0.0/16"], &["10.96.0.1:80 10.244.1.2:80 10.244.1.7:80", "10.96.0.2:80 reject"]);
    let (_, installed) = change(None, &desired(&[("a", &old)], &[]));
    insta::assert_snapshot!(change(installed.as_ref(), &desired(&[("a", &new)], &[])).0, @r"
    delete element ip nestling services-a { 10.96.0.2 . tcp . 80 }
    delete element ip nestling endpoints-1-a { 10.96.0.2 . tcp . 80 }
    delete element ip nestling endpoints-2-a { 10.96.0.1 . tcp . 80 . 1 }
    add element ip nestling services-a { 10.96.0.2 . tcp . 80 : goto reject-connection }
    add element ip nestling endpoints-2-a { 10.96.0.1 . tcp . 80 . 1 : 10.244.1.7 . 80 }
    ");
}

#[test]
fn a_new_pod_is_four_elements() {
    let table = table(&["10.96.0.0/16"], &["10.96.0.1:80 10.244.1.2:80"]);
    let (_, installed) = change(None, &desired(&[("a", &table)], &[]));
    insta::assert_snapshot!(change(installed.as_ref(), &desired(&[("a", &table)], &[("10.244.1.2", "a")])).0, @r"
    add element ip nestling pods { 10.244.1.2 }
    add element ip nestling hairpin { 10.244.1.2 . 10.244.1.2 }
    add element ip nestling recorders { 10.244.1.2 : goto recorder-a }
    add element ip nestling sources { 10.244.1.2 : goto tenant-a }
    ");
}

#[test]
fn a_tenant_goes_with_everything_it_had() {
    let table = table(&["10.96.0.0/16"], &["10.96.0.1:80 10.244.1.2:80 +60"]);
    let (_, installed) = change(None, &desired(&[("a", &table), ("b", &table)], &[("10.244.1.2", "a"), ("10.244.1.3", "b")]));
    insta::assert_snapshot!(change(installed.as_ref(), &desired(&[("b", &table)], &[("10.244.1.3", "b")])).0);
}

#[test]
fn nothing_is_written_when_nothing_changes() {
    let table = table(&["10.96.0.0/16"], &["10.96.0.1:80 10.244.1.2:80 +60"]);
    let desired = desired(&[("a", &table)], &[("10.244.1.2", "a")]);
    let (_, installed) = change(None, &desired);
    assert_eq!(change(installed.as_ref(), &desired), (String::new(), installed));
}

#[test]
fn a_family_without_ranges_gets_no_table() {
    let table = table(&["10.96.0.0/16"], &[]);
    assert!(table.concerns(Family::V4) && !table.concerns(Family::V6));
    assert_eq!(change(None, &NodeTable::default()), (String::new(), None));
}

/// A former process left the tenant with other Services; only names and sources of it are known.
#[test]
fn inherited_rules_are_replaced_in_place_and_affinity_stays() {
    let old = table(&["10.96.0.0/16"], &["10.96.0.1:80 10.244.1.2:80 10.244.1.3:80 +60", "10.96.0.2:80 reject"]);
    let (mut kernel, mut installed) = (strict(), None);
    apply(&mut kernel, &mut installed, &desired(&[("a", &old)], &[("10.244.1.2", "a"), ("10.244.1.8", "a")]));
    kernel.maps.get_mut("affinity-a").unwrap().insert("client".into(), "endpoint".into());
    let mut inherited = installed.unwrap();
    inherited.table.bridges = None;
    inherited.table.tenants.insert(key("a"), None);

    let keep = NodeTable { bridges: None, ..inherited.table.clone() };
    let (text, _) = change(Some(&inherited), &keep);
    assert_eq!(text, "flush set ip nestling bridges\n");

    let new = table(&["10.96.0.0/16", "10.97.0.0/16"], &["10.96.0.1:80 10.244.1.2:80"]);
    let wanted = desired(&[("a", &new)], &[("10.244.1.2", "a"), ("10.244.1.9", "a")]);
    let mut installed = Some(inherited);
    apply(&mut kernel, &mut installed, &wanted);
    assert_eq!(kernel.outcome("10.244.1.2", "10.96.0.1 . tcp . 80"), "10.244.1.2 . 80");
    assert_eq!(kernel.outcome("10.244.1.9", "10.96.0.2 . tcp . 80"), "not a service");
    assert_eq!(kernel.outcome("10.244.1.8", "10.96.0.1 . tcp . 80"), "not ours");
    assert_eq!(kernel.maps["affinity-a"].len(), 1);
    assert_eq!(change(installed.as_ref(), &wanted).0, "");
}

#[test]
fn a_replacement_needs_to_know_nothing() {
    let table = table(&["10.96.0.0/16"], &["10.96.0.1:80 10.244.1.2:80"]);
    let desired = desired(&[("a", &table)], &[("10.244.1.2", "a")]);
    let (transaction, installed) = plan(Family::V4, Approach::Replace, None, &desired);
    let mut kernel = strict();
    kernel.apply(&transaction).unwrap();
    kernel.apply(&transaction).unwrap();
    assert_eq!(installed, change(None, &desired).1);
    let (transaction, installed) = plan(Family::V4, Approach::Replace, None, &NodeTable::default());
    assert_eq!((transaction.to_string().as_str(), installed), ("add table ip nestling\ndelete table ip nestling\n", None));
}

fn services() -> impl Strategy<Value = Vec<String>> {
    let frontend = (1..5u8, prop_oneof![Just("80"), Just("53/udp"), Just("443")]);
    let backend = prop_oneof![
        Just("reject".to_owned()),
        Just("drop".to_owned()),
        (proptest::collection::btree_set(1..6u8, 1..4), prop_oneof![Just(""), Just(" +60"), Just(" +10800")])
            .prop_map(|(ends, affinity)| { ends.iter().map(|end| format!("10.244.0.{end}:80")).collect::<Vec<_>>().join(" ") + affinity }),
    ];
    proptest::collection::btree_map(frontend, backend, 0..6)
        .prop_map(|services| services.iter().map(|((last, port), backend)| format!("10.96.0.{last}:{port} {backend}")).collect())
}

/// A tenant's Services and how many ranges it has.
type Drawn = Option<(Vec<String>, u8)>;

/// Three tenants that come and go, with Services, ranges and pods that change.
pub(super) fn histories(longest: usize) -> impl Strategy<Value = Vec<NodeTable>> {
    let tenant = proptest::option::weighted(0.8, (services(), 1..3u8));
    let step = (proptest::array::uniform3(tenant), proptest::collection::btree_map(1..6u8, 0..3usize, 0..5), any::<bool>());
    proptest::collection::vec(step, 1..longest).prop_map(|steps| {
        let names = ["a", "b", "c"];
        let step = |(tenants, sources, bridge): ([Drawn; 3], BTreeMap<u8, usize>, bool)| {
            let mut step = NodeTable { bridges: Some(bridge.then(|| "cni0".to_owned()).into_iter().collect()), ..NodeTable::default() };
            for (name, tenant) in names.iter().zip(tenants) {
                if let Some((services, ranges)) = tenant {
                    let services: Vec<&str> = services.iter().map(String::as_str).collect();
                    let ranges: Vec<String> = (0..ranges).map(|i| format!("10.{}.0.0/16", 96 + 2 * i)).collect();
                    let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
                    step.tenants.insert(key(name), Some(table(&ranges, &services)));
                }
            }
            let sources = sources.into_iter().map(|(last, owner)| (IpAddr::from([10, 244, 0, last]), key(names[owner])));
            step.sources = sources.filter(|(_, key)| step.tenants.contains_key(key)).collect();
            step
        };
        steps.into_iter().map(step).collect()
    })
}

proptest! {
    #[test]
    fn changes_lead_to_what_a_replacement_would_make(history in histories(8)) {
        let (mut kernel, mut installed) = (strict(), None);
        for desired in &history {
            apply(&mut kernel, &mut installed, desired);
            let mut replaced = strict();
            replaced.apply(&plan(Family::V4, Approach::Replace, None, desired).0).unwrap();
            if replaced.has_table {
                prop_assert_eq!(kernel.reachable(), replaced.reachable());
            } else {
                prop_assert!(kernel.maps.get("sources").is_none_or(BTreeMap::is_empty));
            }
        }
    }

    #[test]
    fn every_connection_goes_where_its_tenant_says(history in histories(8)) {
        let (mut kernel, mut installed) = (strict(), None);
        for desired in &history {
            apply(&mut kernel, &mut installed, desired);
        }
        let Some(last) = history.last().filter(|_| kernel.has_table) else { return Ok(()) };
        for client in (1..6).map(|last| IpAddr::from([10, 244, 0, last])) {
            let Some(table) = last.sources.get(&client).and_then(|tenant| last.tenants[tenant].as_ref()) else {
                prop_assert_eq!(kernel.outcome(&client.to_string(), "10.96.0.1 . tcp . 80"), "not ours");
                continue;
            };
            for (frontend, target) in table.services.values().flat_map(|frontends| frontends.iter()) {
                let expected = match &target.backend {
                    Backend::Reject => "goto reject-connection".to_owned(),
                    Backend::Drop => "drop".to_owned(),
                    Backend::Endpoints { endpoints, .. } => {
                        endpoints.iter().map(|e| format!("{} . {}", e.ip(), e.port())).collect::<Vec<_>>().join(", ")
                    }
                };
                prop_assert_eq!(kernel.outcome(&client.to_string(), &frontend.to_string()), expected);
            }
        }
    }
}
