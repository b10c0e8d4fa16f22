//! The tenant's own API: a [`connection`] with an identity minted in memory, and what is [`mod@observe`]d through it.
//!
//! A starting apiserver is probed until it answers; then two watches follow nodes and CoreDNS, and each change makes the
//! tenant's cluster due for a reconcile. What the operator writes through the connection is [`addons`](crate::addons).

pub mod connection;
pub(crate) mod observe;
