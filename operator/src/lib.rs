//! The operator: makes a running tenant cluster out of a `VirtualCluster`, and tells node agents which tenants they serve.
//!
//! Data flows one way. Watches fill the [`stores`]; [`controller`] turns their changes into reconciles; a [`reconcile`]
//! reads, validates, builds, applies and reports. [`pki`], [`network`], `reconcile::validate` and `reconcile::build` are
//! pure. [`apply`] writes what is not already so, [`tenant`] speaks to the tenant's own API, [`control`] serves agents from
//! the same stores. [`app`] wires it all.
//!
//! Every replica watches and serves; the holder of the lease writes, and [`guard`] asks for the lease at each write.

pub mod app;
pub mod apply;
pub mod conditions;
pub mod config;
pub mod context;
pub mod control;
pub mod controller;
pub mod events;
pub mod guard;
pub mod installation;
pub mod metrics;
pub mod network;
pub mod pki;
pub mod reconcile;
pub mod stores;
pub mod tenant;
