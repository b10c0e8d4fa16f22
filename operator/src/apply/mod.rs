//! Server-side apply that writes only what is not already so.
//!
//! Every object carries a hash of what was asked for ([`stamp`]), so a field that is no longer asked for is seen as well
//! as one that somebody changed ([`holds`]). [`host`] applies objects of the host through the stores: at rest it costs no
//! request at all. [`tenant`](crate::tenant) applies objects inside tenants with the same two functions.

pub mod holds;
pub mod host;
mod kinds;
pub mod stamp;
#[cfg(test)]
pub mod testing;
pub mod verified;

pub use host::{Applier, ApplyError};
