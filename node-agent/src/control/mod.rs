//! The agent's side of the operator's control API: which tenants this node serves, and the certificates to serve them with.
//!
//! `client` reads the installation's certificate authorities from the host API and connects with them; [`watch`] follows
//! the stream of tenants and sends [`Change`]s; [`certificates`] gets certificates signed and renewed. While the operator
//! is unavailable, the last known tenants stay.

pub mod certificates;
mod client;
pub mod watch;

pub use client::{InstallationCas, Operator};
pub use watch::Change;

#[cfg(test)]
mod tests;
