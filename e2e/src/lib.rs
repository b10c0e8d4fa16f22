//! Test bed of Nestling: a real Kubernetes host cluster of several nodes on one Linux machine.
//!
//! [`hostcluster`] builds and runs it; cluster tests and benchmarks reach it through [`hostcluster::HostCluster`], which hands them
//! the user's own cluster instead when `KUBECONFIG` names one.
//!
//! [`suite`] is what those tests stand on, [`demo`] what `make demo` shows,
//! [`bench`] the published figures. [`images`] packs Nestling's own programs.

pub mod bench;
pub mod demo;
pub mod hostcluster;
pub mod images;
pub mod suite;
