//! When certificates begin, end and are renewed. X.509 counts whole seconds.

use jiff::{SignedDuration, Timestamp};

/// How far `notBefore` lies before the moment of minting, for readers whose clocks are behind.
pub(super) const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// When to renew: after two thirds of the life between minting and end.
pub(super) fn renewal(minted: Timestamp, not_after: Timestamp) -> Timestamp {
    let life = not_after.duration_since(minted).max(SignedDuration::ZERO);
    minted.saturating_add(life * 2 / 3).unwrap_or(not_after)
}
