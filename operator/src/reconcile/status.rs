//! Step five: what people see. [`compute`] is pure: it makes the whole status out of what was applied and observed;
//! [`explain`] says in one sentence why a part is not ready. A status that says nothing new is not written.

mod compute;
mod events;
pub mod explain;
mod parts;
mod write;

pub use compute::compute;
pub use write::{Written, claim_range, write};

use super::Error;
use super::apply::OnHost;
use super::validate::ValidatedCluster;
use crate::tenant::Observation;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

/// How far a reconcile came.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// Everything is applied; what runs is on its way, or there.
    Built(&'a Progress),
    Failed(&'a Error),
    Paused,
    /// What the deletion still waits for.
    Deleting(&'a str),
}

/// A cluster that is set up on the host.
#[derive(Debug)]
pub struct Progress {
    pub cluster: ValidatedCluster,
    pub host: OnHost,
    /// Its control-plane pods.
    pub pods: Vec<Arc<Pod>>,
    pub observation: Observation,
    /// Whether what belongs inside the tenant could be applied.
    pub inside: Result<(), Error>,
    /// When the first certificate is to be renewed.
    pub renew_at: Timestamp,
}
