//! What Nestling is tested with on a Kubernetes cluster: the local one of `nestling-hostcluster`, or the one that `KUBECONFIG` names.
//!
//! [`suite`] has kubectl, tenants and deadlines for the tests below `tests/`, [`images`] packs Nestling's own programs, [`demo`] is what
//! `make demo` runs, [`mod@bench`] and [`scale`] measure the figures that [`mod@figures`] publishes, [`schemas`] is
//! what the chart is checked against.
//!
//! Order: suite ← figures ← images ← demo ← bench ← scale ← schemas

pub mod bench;
pub mod demo;
mod figures;
pub mod images;
pub mod scale;
pub mod schemas;
pub mod suite;
