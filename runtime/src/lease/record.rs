//! The rule of the election and the Lease objects that it reads and writes. Pure.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub struct LeaseParams {
    pub namespace: String,
    pub name: String,
    /// Who holds it: unique to the process, such as the pod's name.
    pub identity: String,
    pub field_manager: String,
    /// How long others wait for a holder that does not renew.
    pub duration: Duration,
    /// How long a holder goes on without a successful renewal; shorter than `duration`.
    pub renew_deadline: Duration,
    /// How often a holder renews.
    pub renew_every: Duration,
    /// How often a waiting replica reads the lease, and a failed write is retried.
    pub retry_every: Duration,
}

impl LeaseParams {
    /// 15 s duration and 10 s deadline, as the controllers of Kubernetes have them; renewed every 5 s.
    pub fn new(namespace: &str, name: &str, identity: &str, field_manager: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            field_manager: field_manager.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            renew_every: Duration::from_secs(5),
            retry_every: Duration::from_secs(2),
        }
    }
}

/// What was last seen of the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// `None` when it was released.
    pub holder: Option<String>,
    /// Within which the holder is to renew it.
    pub duration: Duration,
    /// Local time at which this state was first seen.
    pub seen: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is free or has expired: try to take it.
    Acquire,
    /// It is ours: renew it.
    Renew,
    /// Another replica holds it, for at least this long.
    Wait(Duration),
}

pub(super) fn decide(observed: Option<&Observed>, me: &str, now: Instant) -> Decision {
    let Some(Observed { holder: Some(holder), duration, seen }) = observed else {
        return Decision::Acquire;
    };
    if holder == me {
        return Decision::Renew;
    }
    match (*seen + *duration).checked_duration_since(now) {
        Some(left) if !left.is_zero() => Decision::Wait(left),
        _ => Decision::Acquire,
    }
}

/// Whether the holder has not written since: any change means that it is alive (client-go compares the whole record).
pub(super) fn is_same(a: &Lease, b: &Lease) -> bool {
    let key = |lease: &Lease| {
        lease.spec.as_ref().map(|s| (s.holder_identity.clone(), s.renew_time.clone(), s.acquire_time.clone(), s.lease_transitions))
    };
    key(a) == key(b)
}

pub(super) fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

pub(super) fn observed(lease: &Lease, seen: Instant, fallback: Duration) -> Observed {
    let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
    Observed { holder: holder(lease).map(Into::into), duration: seconds.map_or(fallback, Duration::from_secs), seen }
}

/// The lease as held by us from now on; `previous` as it stands in the API, with its resourceVersion.
pub(super) fn held(previous: Option<&Lease>, params: &LeaseParams, now: Timestamp) -> Lease {
    let old = previous.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let ours = previous.and_then(holder) == Some(params.identity.as_str());
    let transitions = old.lease_transitions.unwrap_or(0);
    let spec = LeaseSpec {
        holder_identity: Some(params.identity.clone()),
        lease_duration_seconds: Some(i32::try_from(params.duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: if ours { old.acquire_time } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if ours || previous.is_none() { transitions } else { transitions.saturating_add(1) }),
        preferred_holder: None,
        strategy: None,
    };
    Lease { metadata: metadata(previous, params), spec: Some(spec) }
}

/// The lease as given up: others need not wait for it (client-go leaves a duration of 1 s).
pub(super) fn released(previous: &Lease, params: &LeaseParams, now: Timestamp) -> Lease {
    let spec = LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        renew_time: Some(MicroTime(now)),
        ..previous.spec.clone().unwrap_or_default()
    };
    Lease { metadata: metadata(Some(previous), params), spec: Some(spec) }
}

fn metadata(previous: Option<&Lease>, params: &LeaseParams) -> ObjectMeta {
    match previous {
        Some(lease) => ObjectMeta { managed_fields: None, ..lease.metadata.clone() },
        None => ObjectMeta { name: Some(params.name.clone()), namespace: Some(params.namespace.clone()), ..ObjectMeta::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(me: &str) -> LeaseParams {
        LeaseParams::new("system", "controller", me, "test")
    }

    #[test]
    fn taking_over_counts_a_transition_and_renewing_does_not() {
        let start = Timestamp::UNIX_EPOCH;
        let first = held(None, &params("a"), start);
        assert_eq!(first.spec.as_ref().unwrap().lease_transitions, Some(0));
        let renewed = held(Some(&first), &params("a"), start + Duration::from_secs(1));
        let spec = renewed.spec.as_ref().unwrap();
        assert_eq!((spec.lease_transitions, spec.acquire_time.as_ref().unwrap().0), (Some(0), start));
        assert!(!is_same(&first, &renewed));
        let taken = held(Some(&renewed), &params("b"), start + Duration::from_secs(2));
        let spec = taken.spec.as_ref().unwrap();
        assert_eq!((spec.lease_transitions, holder(&taken)), (Some(1), Some("b")));
        assert_eq!(spec.acquire_time, spec.renew_time);
    }

    #[test]
    fn a_released_lease_has_no_holder() {
        let lease = released(&held(None, &params("a"), Timestamp::UNIX_EPOCH), &params("a"), Timestamp::UNIX_EPOCH);
        assert_eq!(holder(&lease), None);
        assert_eq!(observed(&lease, Instant::now(), Duration::from_secs(15)).holder, None);
    }

    const DURATION: Duration = Duration::from_secs(15);

    fn held_by(holder: &str, seen: Instant) -> Observed {
        Observed { holder: Some(holder.into()), duration: DURATION, seen }
    }

    #[test]
    fn a_free_lease_is_acquired() {
        let now = Instant::now();
        assert_eq!(decide(None, "me", now), Decision::Acquire);
        let released = Observed { holder: None, duration: DURATION, seen: now };
        assert_eq!(decide(Some(&released), "me", now), Decision::Acquire);
    }

    #[test]
    fn our_own_lease_is_renewed_even_when_it_has_expired() {
        let now = Instant::now();
        assert_eq!(decide(Some(&held_by("me", now)), "me", now), Decision::Renew);
        assert_eq!(decide(Some(&held_by("me", now)), "me", now + 2 * DURATION), Decision::Renew);
    }

    #[test]
    fn others_are_waited_for_from_when_they_were_seen() {
        let now = Instant::now();
        let other = held_by("other", now);
        assert_eq!(decide(Some(&other), "me", now), Decision::Wait(DURATION));
        assert_eq!(decide(Some(&other), "me", now + Duration::from_secs(14)), Decision::Wait(Duration::from_secs(1)));
        assert_eq!(decide(Some(&other), "me", now + DURATION), Decision::Acquire);
    }
}
