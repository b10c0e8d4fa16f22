//! What may go wrong in a reconcile. The variant is the Event's reason and the metric's label.

use crate::apply::ApplyError;
use crate::host::client::Refused;
use crate::pki::PkiError;
use crate::reconcile::dereference::DereferenceError;
use crate::reconcile::subject::DecodeError;
use crate::reconcile::validate::Invalid;
use crate::tenant::ConnectError;
use nestling_crds::names::WorkloadNamespace;
use std::error::Error as StdError;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("this version of the operator cannot decode the VirtualCluster")]
    DecodeFailed(#[from] DecodeError),
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
    Inside(#[from] ConnectError),
    #[error("cannot set up what belongs inside the cluster")]
    Tenant(#[source] ApplyError),
    #[error("cannot clean up after the cluster")]
    Cleanup(#[from] CleanupError),
    #[error("cannot write the cluster's status")]
    Status(#[source] kube::Error),
    #[error("reconciling took longer than {0:?}")]
    ReconcileTimeout(Duration),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanupError {
    #[error("cannot add the finalizer")]
    AddFinalizer(#[source] kube::Error),
    #[error("cannot remove the finalizer")]
    RemoveFinalizer(#[source] kube::Error),
    #[error("cannot read namespace {name}")]
    ReadNamespace {
        name: WorkloadNamespace,
        #[source]
        source: kube::Error,
    },
    #[error("cannot delete namespace {name}")]
    DeleteNamespace {
        name: WorkloadNamespace,
        #[source]
        source: kube::Error,
    },
}

fn list(invalid: &[Invalid]) -> String {
    invalid.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::DecodeFailed(_) => "DecodeFailed",
            Self::Invalid(_) => "Invalid",
            Self::Dereference(_) => "DereferenceFailed",
            Self::Pki(_) => "CertificatesFailed",
            Self::Apply(ApplyError::Foreign { .. }) => "NameConflict",
            Self::Apply(ApplyError::Terminating { .. }) => "WaitingForDeletion",
            Self::Apply(_) => "ApplyFailed",
            Self::NoAddress => "NoAddress",
            Self::Inside(_) => "TenantClientFailed",
            Self::Tenant(_) => "TenantApplyFailed",
            Self::Cleanup(_) => "CleanupFailed",
            Self::Status(_) => "StatusFailed",
            Self::ReconcileTimeout(_) => "ReconcileTimeout",
        }
    }

    /// Whether it passes by itself.
    pub(crate) fn is_a_wait(&self) -> bool {
        matches!(self, Self::Apply(ApplyError::Terminating { .. }))
    }

    /// Whether only a change of the `VirtualCluster` can help.
    pub(crate) fn waits_for_change(&self) -> bool {
        matches!(self, Self::DecodeFailed(_))
    }

    /// Whether it is nobody's trouble: this replica has just lost its lease.
    pub(crate) fn is_lost_lease(&self) -> bool {
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
