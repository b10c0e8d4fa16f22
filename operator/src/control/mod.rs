//! The control API: which tenants a node serves, certificates for its agent, and the host's nodes as a tenant's cloud.
//!
//! Every replica serves it from its own stores. [`directory`] turns the stores into what is served, [`identity`] says who
//! calls, [`service`] puts the two together, [`feed`] is what one open stream has told its caller, [`server`] listens.

pub mod directory;
pub mod feed;
pub mod identity;
mod metrics;
pub mod server;
pub mod service;
mod sign;
pub mod tokens;

#[cfg(test)]
mod tests;
