//! What every Nestling program needs once, so that none of them has its own variant of it.
//!
//! [`process::run`] is the outermost frame: it sets up [`telemetry`], serves the [`admin`] endpoints, watches for signals
//! ([`shutdown`]) and runs the program with a [`process::Process`] in its hand. From there a program takes [`readiness`]
//! handles, registers [`metrics`], holds a [`lease`] while it writes, calls Kubernetes APIs through [`kube`](mod@kube),
//! works on objects from a [`queue`], spaces retries with [`backoff`] and reaches the operator through [`control`] over
//! certificates from [`tls`].

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
pub mod tls;
