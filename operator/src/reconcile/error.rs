//! What may go wrong in a reconcile. The variant is the Event's reason and the metric's label.

use super::cleanup::CleanupError;
use super::dereference::DereferenceError;
use super::inside::InsideError;
use super::validate::Invalid;
use crate::apply::ApplyError;
use crate::guard::Refused;
use crate::pki::PkiError;
use crate::tenant::apply::TenantError;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this version of the operator cannot read the VirtualCluster: {0}")]
    Unreadable(String),
    #[error("{}", list(.0))]
    Invalid(Vec<Invalid>),
    #[error("cannot read what the cluster depends on")]
    Dereference(#[from] DereferenceError),
    #[error("cannot make the cluster's certificates")]
    Pki(#[from] PkiError),
    #[error("cannot set up the cluster on the host")]
    Apply(#[from] ApplyError),
    /// The Service in front of the API has no address yet; the host gives one at once or never.
    #[error("the host gave the Service of the API no address")]
    NoAddress,
    #[error("cannot reach into the cluster")]
    Inside(#[from] InsideError),
    #[error("cannot set up what belongs inside the cluster")]
    Tenant(#[source] TenantError),
    #[error("cannot clean up after the cluster")]
    Cleanup(#[from] CleanupError),
    #[error("cannot write the cluster's status")]
    Status(#[source] kube::Error),
    #[error("reconciling took longer than {0:?}")]
    Slow(Duration),
}

fn list(invalid: &[Invalid]) -> String {
    invalid.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "Unreadable",
            Self::Invalid(_) => "Invalid",
            Self::Dereference(_) => "DereferenceFailed",
            Self::Pki(_) => "CertificatesFailed",
            Self::Apply(ApplyError::Foreign { .. }) => "NameTaken",
            Self::Apply(ApplyError::Terminating { .. }) => "WaitingForDeletion",
            Self::Apply(_) => "ApplyFailed",
            Self::NoAddress => "NoAddress",
            Self::Inside(_) => "TenantClientFailed",
            Self::Tenant(_) => "TenantApplyFailed",
            Self::Cleanup(_) => "CleanupFailed",
            Self::Status(_) => "StatusFailed",
            Self::Slow(_) => "Slow",
        }
    }

    /// Whether it passes by itself.
    pub fn is_a_wait(&self) -> bool {
        matches!(self, Self::Apply(ApplyError::Terminating { .. }))
    }

    /// Whether only a change of the `VirtualCluster` can help.
    pub fn waits_for_change(&self) -> bool {
        matches!(self, Self::Unreadable(_))
    }

    /// Whether it is nobody's trouble: this replica has just lost its lease.
    pub fn is_lost_lease(&self) -> bool {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = next {
            if matches!(error.downcast_ref(), Some(Refused::NotLeader)) {
                return true;
            }
            if let Some(kube::Error::Service(inner)) = error.downcast_ref()
                && matches!(inner.downcast_ref(), Some(Refused::NotLeader))
            {
                return true;
            }
            next = error.source();
        }
        false
    }
}

/// An error with all its causes, for a person. No text here repeats its source.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}
