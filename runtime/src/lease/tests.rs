//! The whole loop, on paused time.

use super::*;
use crate::testing::{ApiServer, Fault};
use std::time::Duration;
use tokio::time::sleep;

fn holder(api: &ApiServer) -> Option<String> {
    let lease: LeaseObject = api.get("system", "controller")?;
    record::holder(&lease).map(Into::into)
}

fn params(me: &str) -> LeaseParams {
    LeaseParams::new("system", "controller", me, "test")
}

async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), future).await.expect("within time")
}

/// An API with a lease that `a` holds.
async fn held() -> (ApiServer, Lease) {
    let api = ApiServer::new();
    let a = Lease::hold(api.client(), params("a"));
    within(1, a.leadership().acquired()).await;
    (api, a)
}

#[tokio::test(start_paused = true)]
async fn the_first_takes_it_and_renews_and_the_second_waits() {
    let (api, a) = held().await;
    let b = Lease::hold(api.client(), params("b"));
    sleep(Duration::from_secs(62)).await;
    assert!(a.leadership().is_held());
    assert!(!b.leadership().is_held());
    assert_eq!(b.leadership().holder().as_deref(), Some("a"));
    assert_eq!(api.take_writes().len(), 13);
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_the_next_look() {
    let (api, a) = held().await;
    let b = Lease::hold(api.client(), params("b"));
    sleep(Duration::from_secs(7)).await;
    let leadership = a.leadership();
    a.release().await.unwrap();
    assert!(!leadership.is_held());
    assert_eq!(holder(&api), None);
    within(3, b.leadership().acquired()).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_waited_out() {
    let (api, a) = held().await;
    drop(a);
    let b = Lease::hold(api.client(), params("b"));
    sleep(Duration::from_secs(14)).await;
    assert!(!b.leadership().is_held());
    within(3, b.leadership().acquired()).await;
    assert_eq!(holder(&api).as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_cut_off_stops_before_another_starts() {
    let (api, mut a) = held().await;
    api.inject("*", "leases", usize::MAX, Fault::Hang);
    let leadership = a.leadership();
    let start = Instant::now();
    let error = within(11, a.lost()).await;
    assert!(matches!(error, LeaseError::Expired { .. }), "{error}");
    assert!(start.elapsed() <= Duration::from_secs(10));
    assert!(!leadership.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_short_cut_is_survived() {
    let (api, a) = held().await;
    sleep(Duration::from_secs(4)).await;
    api.inject("*", "leases", usize::MAX, Fault::Hang);
    sleep(Duration::from_secs(4)).await;
    api.heal();
    sleep(Duration::from_secs(30)).await;
    assert!(a.leadership().is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_away_is_lost() {
    let (api, mut a) = held().await;
    api.edit::<LeaseObject>("system", "controller", |lease| lease["spec"]["holderIdentity"] = "thief".into());
    let error = within(11, a.lost()).await;
    assert!(matches!(&error, LeaseError::Taken { holder, .. } if holder == "thief"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again() {
    let (api, a) = held().await;
    assert!(api.remove::<LeaseObject>("system", "controller"));
    sleep(Duration::from_secs(9)).await;
    assert!(a.leadership().is_held());
    assert_eq!(holder(&api).as_deref(), Some("a"));
}
