//! The workload namespace: where agents realize the tenant's pods, and what keeps them in their place.
//!
//! No Secret of the control plane is here, so whoever may make pods here (the agents) can mount no CA key.

pub mod namespace;
pub mod network_policy;
pub mod quota;
pub mod role_binding;
