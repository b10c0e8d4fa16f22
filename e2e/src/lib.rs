//! What Nestling is tested with on a Kubernetes cluster: the local one of `nestling-hostcluster`, or the one that `KUBECONFIG` names.
//!
//! [`suite`] has kubectl, tenants and deadlines for the tests below `tests/`, [`images`] packs Nestling's own programs, [`demo`] is what
//! `make demo` runs, [`mod@bench`] measures the published figures, [`schemas`] is what the chart is
//! checked against.
//!
//! Order: suite ← images ← demo ← bench ← schemas

pub mod bench;
pub mod demo;
pub mod images;
pub mod schemas;
pub mod suite;
