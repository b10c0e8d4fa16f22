//! The node agent: every tenant's kubelet and kube-proxy on one host node.
//!
//! Data flow: `control` learns from the operator which tenants the node serves; for each, `tenant` runs one task group:
//! `node` keeps the tenant's Node object, `pods` (with `volumes`) turns the tenant's pods into host pods and mirrors what
//! becomes of them, `proxy` turns its Services into rules. `server` is the kubelet API for all tenants; it finds pods
//! through the `tenant::Tenants` registry and streams through `cri`.

pub mod app;
pub mod control;
pub mod cri;
pub mod node;
pub mod pods;
pub mod proxy;
pub mod server;
pub mod services;
pub mod tenant;
pub mod volumes;
