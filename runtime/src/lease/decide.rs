//! The rule of the election, without IO.

use std::time::Duration;
use tokio::time::Instant;

/// What was last seen of the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// `None` when it was released.
    pub holder: Option<String>,
    /// What the holder promised to renew within.
    pub duration: Duration,
    /// Local time at which this state was first seen.
    pub seen: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nobody holds it: try to take it.
    Acquire,
    /// It is ours: renew it.
    Renew,
    /// Somebody holds it, for at least so long.
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

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn held_by(holder: &str, seen: Instant) -> Observed {
        Observed { holder: Some(holder.into()), duration: DURATION, seen }
    }

    #[test]
    fn nobody_holds_it() {
        let now = Instant::now();
        assert_eq!(decide(None, "me", now), Decision::Acquire);
        let released = Observed { holder: None, duration: DURATION, seen: now };
        assert_eq!(decide(Some(&released), "me", now), Decision::Acquire);
    }

    #[test]
    fn it_is_ours_even_when_it_ran_out() {
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
