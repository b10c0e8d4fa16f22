//! The writer over a packet filter in memory: when it writes, and what it does when that fails.

use super::FOREIGN_HOLD;
use crate::proxy::nft::{Approach, FakeNetfilter, Kernel, Netfilter, plan};
use crate::proxy::table::{Family, NodeTable, ServiceTable, TenantKey};
use crate::proxy::{Proxy, ProxyConfig};
use nestling_crds::names::TenantUid;
use nestling_runtime::metrics::Metrics;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn uid(name: &str) -> TenantUid {
    TenantUid::new(name)
}

fn pod(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn table(ranges: &[&str]) -> Arc<ServiceTable> {
    Arc::new(ServiceTable { is_closed: false, ..ServiceTable::closed(ranges.iter().map(|range| range.parse().unwrap())) })
}

/// The kernel as a former process left it, with a pod for each tenant.
fn left_behind(tenants: &[(&str, u8)]) -> Kernel {
    let desired = NodeTable {
        tenants: tenants.iter().map(|(name, _)| (TenantKey::of(&uid(name)), Some(table(&["10.96.0.0/16"])))).collect(),
        sources: tenants.iter().map(|(name, last)| (pod(*last), TenantKey::of(&uid(name)))).collect(),
        bridges: None,
    };
    let mut kernel = Kernel::default();
    kernel.apply(&plan(Family::V4, Approach::Change, None, &desired).0).unwrap();
    kernel
}

/// A table that another version made.
fn another_layout() -> Kernel {
    Kernel { has_table: true, chains: [("layout-0".to_owned(), vec![])].into(), ..Kernel::default() }
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_one_transaction() {
    let fake = Arc::new(FakeNetfilter::default());
    let proxy = Proxy::fake(&fake);
    for tenant in 0..50 {
        proxy.set_services(&uid(&tenant.to_string()), &table(&["10.96.0.0/16"]));
    }
    proxy.settled().await;
    assert_eq!(fake.applied().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_does_not_wait() {
    let fake = Arc::new(FakeNetfilter::default());
    let proxy = Proxy::fake(&fake);
    proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
    proxy.settled().await;
    let begun = Instant::now();
    proxy.set_sources(&uid("a"), &[pod(1)].into());
    proxy.settled().await;
    assert!(begun.elapsed() < Duration::from_millis(2), "{:?}", begun.elapsed());
    assert!(fake.applied()[1].contains("add element ip nestling sources { 10.0.0.1 : goto tenant-a }"));
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_table_is_replaced() {
    let fake = Arc::new(FakeNetfilter::default());
    let proxy = Proxy::fake(&fake);
    proxy.keep_only([uid("a")].into());
    proxy.set_sources(&uid("a"), &[pod(1)].into());
    proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
    proxy.settled().await;
    fake.fail(3);
    proxy.set_services(&uid("a"), &table(&["10.97.0.0/16"]));
    proxy.settled().await;
    let applied = fake.applied();
    assert_eq!(applied.len(), 2);
    assert!(applied[1].starts_with("add table ip nestling\ndelete table ip nestling\n"), "{}", applied[1]);
    assert!(applied[1].contains("10.97.0.0/16") && applied[1].contains("10.0.0.1 : goto tenant-a"));
}

#[tokio::test(start_paused = true)]
async fn rules_of_tenants_that_are_not_known_yet_stay() {
    let fake = Arc::new(FakeNetfilter::default());
    fake.inherit(Family::V4, left_behind(&[("a", 1), ("b", 2)]));
    let proxy = Proxy::fake(&fake);
    proxy.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]);
    proxy.set_sources(&uid("a"), &[pod(1)].into());
    proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
    proxy.settled().await;
    let text = fake.applied().concat();
    assert!(text.contains("services-a") && !text.contains("-b") && !text.contains("delete"), "{text}");
    assert_eq!(fake.kernel(Family::V4).maps["sources"].len(), 2);

    proxy.keep_only([uid("a")].into());
    proxy.settled().await;
    let text = fake.applied().concat();
    assert!(
        text.contains("delete element ip nestling sources { 10.0.0.2 }") && text.contains("delete map ip nestling services-b"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_table_of_another_version_stays_until_all_is_known() {
    let fake = Arc::new(FakeNetfilter::default());
    fake.inherit(Family::V4, another_layout());
    let proxy = Proxy::fake(&fake);
    proxy.keep_only([uid("a"), uid("b")].into());
    proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
    proxy.set_sources(&uid("a"), &[pod(1)].into());
    tokio::time::sleep(FOREIGN_HOLD / 2).await;
    assert!(fake.applied().is_empty());
    proxy.settled().await;
    assert!(fake.applied()[0].starts_with("add table ip nestling\ndelete table ip nestling\n"), "the hold has ended");

    let fake = Arc::new(FakeNetfilter::default());
    fake.inherit(Family::V4, another_layout());
    let proxy = Proxy::fake(&fake);
    proxy.keep_only([uid("a")].into());
    proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
    proxy.set_sources(&uid("a"), &[pod(1)].into());
    let begun = Instant::now();
    proxy.settled().await;
    assert!(begun.elapsed() < FOREIGN_HOLD, "no other tenant to wait for");
}

#[tokio::test(start_paused = true)]
async fn the_rules_of_a_tenant_that_leaves_are_removed() {
    let fake = Arc::new(FakeNetfilter::default());
    let proxy = Proxy::fake(&fake);
    proxy.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]);
    proxy.set_sources(&uid("a"), &[pod(1)].into());
    proxy.settled().await;
    proxy.remove(&uid("a"));
    proxy.settled().await;
    let text = fake.applied().pop().unwrap();
    assert!(
        text.contains("delete element ip nestling sources { 10.0.0.1 }") && text.contains("delete chain ip nestling tenant-a"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_foreign_table_stays_while_the_operator_is_away() {
    let fake = Arc::new(FakeNetfilter::default());
    fake.inherit(Family::V4, another_layout());
    let proxy = Proxy::fake(&fake);
    proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
    tokio::time::sleep(3 * FOREIGN_HOLD).await;
    assert!(fake.applied().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_has_rules_from_its_sandbox_on() {
    let fake = Arc::new(FakeNetfilter::default());
    let proxy = Proxy::fake(&fake);
    proxy.announce("s", &uid("a"), [pod(1)].into());
    proxy.settled().await;
    assert!(fake.applied().is_empty(), "the tenant's ranges are not known");
    proxy.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]);
    proxy.settled().await;
    assert!(fake.applied()[0].contains("add element ip nestling sources { 10.0.0.1 : goto tenant-a }"));
    proxy.set_sources(&uid("a"), &[pod(1)].into());
    proxy.settled().await;
    assert_eq!(fake.applied().len(), 1, "its status changes nothing");
}

#[tokio::test(start_paused = true)]
async fn readiness_waits_for_the_packet_filter() {
    let readiness = nestling_runtime::readiness::Readiness::default();
    let fake = Arc::new(FakeNetfilter::default());
    let config = ProxyConfig::kernel(Metrics::default(), Some(readiness.pending("rules")));
    let config = ProxyConfig { netfilter: Arc::clone(&fake) as Arc<dyn Netfilter>, ..config };
    let proxy = Proxy::start(config, CancellationToken::new());
    assert!(!readiness.is_ready());
    proxy.expect(&uid("a"), &[]);
    proxy.settled().await;
    assert!(readiness.is_ready());
}

/// The listing is such as no transaction fits: a former process made the objects differently under the same names.
#[tokio::test(start_paused = true)]
async fn inherited_rules_that_cannot_be_changed_are_replaced() {
    let fake = Arc::new(FakeNetfilter::default());
    fake.inherit(Family::V4, left_behind(&[("a", 1)]));
    let proxy = Proxy::fake(&fake);
    fake.fail(2);
    proxy.expect(&uid("b"), &["10.96.0.0/16".parse().unwrap()]);
    proxy.settled().await;
    let applied = fake.applied();
    assert_eq!(applied.len(), 1, "changed, looked at and changed again, then replaced");
    assert!(applied[0].starts_with("add table ip nestling\ndelete table ip nestling\n"), "{}", applied[0]);
}
