//! What a tenant must do on a real host cluster, seen through kubectl. One process runs all of it, so that tests share a tenant where they
//! do not change it.
//!
//! Run by `make test`; by hand: `cargo test -p nestling-e2e --test cluster -- --ignored`.

mod configuration;
mod deletion;
mod etcd;
mod hibernation;
mod isolation;
mod members;
mod nodes;
mod plugin;
mod pods;
mod rights;
mod services;
mod streams;
mod upgrades;
mod validation;
mod workloads;
