//! Addresses that the operator gives out: the service range of a tenant. Pure.

pub mod service_range;
