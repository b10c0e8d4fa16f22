//! The node agent: every tenant's kubelet and kube-proxy on one host node.
//!
//! Order: tenant ← connection ← services ← control ← cri ← node ← pods ← proxy ← server ← supervise ← app
//!
//! Data flow: `control` watches the operator for the tenants that the node serves; for each, `supervise` runs one group of
//! tasks: `node` keeps the tenant's Node object, `pods` turns the tenant's pods into host pods and their state back into
//! pod status, `proxy` turns its Services into rules. `server` is the kubelet API for all tenants; it finds pods through
//! the `tenant::Tenants` registry and streams through `cri`.

pub mod app;
mod connection;
mod control;
mod cri;
#[cfg(test)]
mod fixtures;
mod node;
mod pods;
pub mod proxy;
mod server;
pub mod services;
mod supervise;
mod tenant;
