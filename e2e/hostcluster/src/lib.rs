//! A multi-node Kubernetes cluster on one Linux machine, without Docker: real etcd, control plane, kubelets, kube-proxies and
//! containerds, each node in namespaces of its own.
//!
//! [`programs`] compiles what `versions.toml` lists from pinned Go modules. [`image`] and [`archive`] write OCI images by hand;
//! `catalog` packs the upstream ones and `seed` unpacks them once for all nodes. `topology` computes names, addresses and zones
//! from a node count; `control` and `node` turn it into `unit`s (which programs run in which namespaces), `network` connects
//! them, `launch` starts one and `supervisor` is its process 1. `cluster` brings everything up and down; `fault` stops, restarts and
//! disconnects parts. [`cli`] is the command line.
//!
//! Everything that may be left on the machine can be found again without a state file: processes are in cgroups named
//! `nestling-*`, namespaces are pinned below the work directory, and one link is named `nestling0`.
//!
//! Order: topology ← files ← command ← workdir ← programs ← image ← archive ← catalog ← cgroup ← unit ← supervisor ← launch ← pki ← containerd ← seed ← network ← control ← node ← health ← preflight ← cluster ← fault ← cli

pub mod archive;
mod catalog;
mod cgroup;
pub mod cli;
mod cluster;
mod command;
mod containerd;
mod control;
mod fault;
mod files;
mod health;
pub mod image;
mod launch;
mod network;
mod node;
mod pki;
mod preflight;
pub mod programs;
mod seed;
mod supervisor;
mod topology;
mod unit;
mod workdir;

pub use files::FileError;
pub use workdir::Cache;
