//! What every Nestling program needs once, so that it exists once.
//!
//! [`process::run`] is the outermost frame: it sets up [`telemetry`], serves the [`admin`] endpoints, watches for signals
//! ([`shutdown`]) and runs the program with a [`process::Process`]. From there a program takes [`readiness`]
//! handles, registers [`metrics`], holds a [`lease`] while it writes, calls Kubernetes APIs through [`kube`](mod@kube),
//! works on objects from a [`queue`], spaces retries with [`backoff`] and reaches the operator through [`control`] over
//! certificates from [`tls`].
//!
//! Order: sync ← error ← backoff ← queue ← metrics ← readiness ← shutdown ← telemetry ← tls ← admin ← kube ← lease ← control ←
//! process ← testing

pub mod admin;
pub mod backoff;
pub mod control;
pub mod error;
pub mod kube;
pub mod lease;
pub mod metrics;
pub mod process;
pub mod queue;
pub mod readiness;
pub mod shutdown;
mod sync;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
