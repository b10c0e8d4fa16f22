//! What every [`Netfilter`] does, run against the fake and against `nft` in a network namespace of its own. The latter needs
//! root and `nft`; without one of them it fails and says so.

use super::fake::FakeNetfilter;
use super::objects::{Chain, Value};
use super::tests::{desired, histories, key, table};
use super::*;
use crate::proxy::table::{Frontend, NodeTable};
use crate::services::Protocol;
use nix::sched::{CloneFlags, unshare};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command as Program;

const FAMILY: Family = Family::V4;

fn transaction(commands: impl IntoIterator<Item = Command>) -> Transaction {
    Transaction { family: FAMILY, commands: commands.into_iter().collect() }
}

async fn keeps_the_contract(netfilter: &dyn Netfilter) {
    assert!(!netfilter.is_present(FAMILY).await.unwrap());
    assert_eq!(netfilter.list(FAMILY).await.unwrap(), Listing::Absent);
    assert!(netfilter.affinity(FAMILY, &key("a")).await.is_err(), "no table");

    // What was applied is listed.
    let services = table(&["10.96.0.0/16"], &["10.96.0.1:80 10.244.1.2:80 10.244.1.3:80 +60", "10.96.0.2:53/udp reject"]);
    let before = desired(&[("a", &services), ("b", &services)], &[("10.244.1.2", "a"), ("10.244.1.3", "b")]);
    let (first, installed) = plan(FAMILY, Approach::Change, None, &before);
    netfilter.apply(&first).await.unwrap();
    let installed = installed.unwrap();
    assert!(netfilter.is_present(FAMILY).await.unwrap());
    assert!(!netfilter.is_present(Family::V6).await.unwrap());
    assert_eq!(netfilter.list(FAMILY).await.unwrap(), as_listed(&installed));

    // A transaction that is refused changes nothing.
    let source = |last: u8| Key::Address([10, 244, 9, last].into());
    let to = |name: &str| Value::Goto(objects::TenantChain::Tenant.of(&key(name)));
    let good = || Command::AddElements(objects::Map::Sources, vec![(source(1), to("a"))]);
    for bad in [
        Command::DeleteElements(objects::Map::Sources, vec![source(2)]),
        Command::AddElements(objects::Map::Sources, vec![(Key::Address([10, 244, 1, 2].into()), to("b"))]),
        Command::AddElements(objects::Map::Sources, vec![(source(3), to("nobody"))]),
        Command::AddElements(TenantMap::ClusterIps.of(&key("nobody")), vec![(source(3), Value::None)]),
        Command::AddRules { chain: objects::TenantChain::Tenant.of(&key("nobody")), ranges: vec![] },
        Command::DeleteChain(Chain::Reject),
        Command::DeleteMap(TenantMap::Services.of(&key("a"))),
    ] {
        let refused = netfilter.apply(&transaction([good(), bad.clone()])).await;
        assert!(matches!(refused, Err(NetfilterError::Refused { .. })), "{bad:?}: {refused:?}");
        assert_eq!(netfilter.list(FAMILY).await.unwrap(), as_listed(&installed), "{bad:?}");
    }
    // An element that is there already is accepted.
    netfilter.apply(&transaction([good(), good()])).await.unwrap();
    netfilter.apply(&transaction([Command::DeleteElements(objects::Map::Sources, vec![source(1)])])).await.unwrap();

    // Session affinity can be read and removed.
    assert_eq!(netfilter.affinity(FAMILY, &key("a")).await.unwrap(), []);
    let frontend = Frontend { address: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: 80 };
    let entry = AffinityEntry { client: [10, 244, 1, 2].into(), frontend, endpoint: ([10, 244, 1, 3], 80).into() };
    let element = (Key::Client(entry.client, frontend), Value::Endpoint(entry.endpoint));
    let affinity = || TenantMap::Affinity.of(&key("a"));
    netfilter.apply(&transaction([Command::AddElements(affinity(), vec![element.clone()])])).await.unwrap();
    assert_eq!(netfilter.affinity(FAMILY, &key("a")).await.unwrap(), [entry]);
    netfilter.apply(&transaction([Command::DeleteElements(affinity(), vec![element.0])])).await.unwrap();
    assert_eq!(netfilter.affinity(FAMILY, &key("a")).await.unwrap(), []);

    // A tenant goes with everything, and then the table.
    let after = desired(&[("b", &services)], &[("10.244.1.3", "b")]);
    let (second, installed) = plan(FAMILY, Approach::Change, Some(&installed), &after);
    netfilter.apply(&second).await.unwrap();
    assert_eq!(netfilter.list(FAMILY).await.unwrap(), as_listed(&installed.unwrap()));
    netfilter.apply(&plan(FAMILY, Approach::Replace, None, &NodeTable::default()).0).await.unwrap();
    assert_eq!(netfilter.list(FAMILY).await.unwrap(), Listing::Absent);
}

/// What a later process finds of it.
fn as_listed(installed: &Installed) -> Listing {
    let mut installed = installed.clone();
    installed.table.bridges = None;
    installed.table.tenants.values_mut().for_each(|table| *table = None);
    Listing::Inherited(installed)
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    keeps_the_contract(&FakeNetfilter::default()).await;
}

/// Runs a test in a network namespace that goes with its thread.
fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "the contract makes a network namespace and loads nftables rules: run it as root");
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        // Of this thread, so that the programs it starts are in the namespace too.
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn nft_keeps_the_contract() {
    in_a_namespace(|| async { keeps_the_contract(&Nft::default()).await });
}

/// Elements by map, as nft lists them.
fn elements() -> BTreeMap<String, BTreeSet<String>> {
    let output = Program::new("nft").args(["list", "table", "ip", objects::TABLE]).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    let read = |map: &str| {
        let list = map.split("elements = {").nth(1)?.split('}').next()?;
        let elements = list.split(',').map(|element| element.split_whitespace().collect::<Vec<_>>().join(" "));
        Some((map.split(' ').next()?.to_owned(), elements.collect()))
    };
    listing.split("\n\tmap ").flat_map(|part| part.split("\n\tset ")).filter_map(read).collect()
}

/// The same of the fake.
fn fake_elements(fake: &FakeNetfilter) -> BTreeMap<String, BTreeSet<String>> {
    let element = |(key, value): (&String, &String)| if value.is_empty() { key.clone() } else { format!("{key} : {value}") };
    let maps = fake.kernel(FAMILY).maps.into_iter().filter(|(_, elements)| !elements.is_empty());
    maps.map(|(name, elements)| (name, elements.iter().map(element).collect())).collect()
}

/// A few hundred changes of three tenants: the kernel takes them all, and has then what the fake has.
#[test]
fn nft_and_the_fake_have_the_same_after_any_history() {
    in_a_namespace(|| async {
        let (nft, fake) = (Nft::default(), FakeNetfilter::default());
        let mut runner = TestRunner::deterministic();
        let mut installed = None;
        for _ in 0..20 {
            let history = histories(12).new_tree(&mut runner).unwrap().current();
            for desired in &history {
                let (transaction, after) = plan(FAMILY, Approach::Change, installed.as_ref(), desired);
                fake.apply(&transaction).await.unwrap();
                nft.apply(&transaction).await.unwrap();
                installed = after;
            }
            assert_eq!(nft.list(FAMILY).await.unwrap(), fake.list(FAMILY).await.unwrap());
            assert_eq!(elements(), fake_elements(&fake));
            let changed = elements();
            let (transaction, after) = plan(FAMILY, Approach::Replace, None, history.last().unwrap());
            fake.apply(&transaction).await.unwrap();
            nft.apply(&transaction).await.unwrap();
            assert_eq!(nft.list(FAMILY).await.unwrap(), fake.list(FAMILY).await.unwrap());
            assert_eq!(elements(), changed);
            installed = after;
        }
    });
}
