//! What may go wrong in a reconcile. The variant is the Event's reason and the metric's label.

use crate::apply::ApplyError;
use crate::host::client::Refused;
use crate::pki::PkiError;
use crate::reconcile::dereference::DereferenceError;
use crate::reconcile::retained::SettleError;
use crate::reconcile::subject::DecodeError;
use crate::reconcile::validate::Invalid;
use crate::state::Failure;
use crate::tenant::ConnectError;
use nestling_crds::labels;
use std::error::Error as StdError;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("this version of the operator cannot decode the VirtualCluster")]
    DecodeFailed(#[from] DecodeError),
    #[error("{}", list(.0))]
    Invalid(Vec<Invalid>),
    #[error("cannot read what the cluster depends on")]
    Dereference(#[source] DereferenceError),
    /// Data exists that was made with the keys.
    #[error(
        "Secret {secret} is gone, but the data that it belongs to is there: restore it from a backup, or, if new keys may replace it \
         (clients with the old certificates or tokens are cut off), annotate the VirtualCluster with {}=true",
        labels::NEW_KEYS
    )]
    KeysLost { secret: String },
    #[error("cannot make the cluster's certificates")]
    Pki(#[from] PkiError),
    #[error("cannot set up the cluster on the host")]
    Apply(#[from] ApplyError),
    /// The Service in front of the API has no address yet; the host gives one at once or never.
    #[error("the host gave the Service of the API no address")]
    NoAddress,
    #[error("cannot change a pod or a volume claim of etcd")]
    Members(#[source] kube::Error),
    #[error("cannot reach into the cluster")]
    Inside(#[from] ConnectError),
    #[error("cannot set up what belongs inside the cluster")]
    Tenant(#[source] Failure),
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
    #[error("cannot read the VirtualCluster")]
    Read(#[source] kube::Error),
    #[error("cannot settle what becomes of the data")]
    Settle(#[from] SettleError),
    #[error("cannot read namespace {name}")]
    ReadNamespace {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot delete namespace {name}")]
    DeleteNamespace {
        name: String,
        #[source]
        source: kube::Error,
    },
}

impl From<DereferenceError> for Error {
    fn from(error: DereferenceError) -> Self {
        match error {
            DereferenceError::Object(error) => Self::Apply(error),
            DereferenceError::KeysLost { secret } => Self::KeysLost { secret },
            error @ (DereferenceError::Secret { .. } | DereferenceError::StatefulSet { .. }) => Self::Dereference(error),
        }
    }
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
            Self::KeysLost { .. } => "KeysLost",
            Self::Apply(ApplyError::Foreign { .. } | ApplyError::Retained { .. }) => "NameConflict",
            Self::Apply(ApplyError::Terminating { .. }) => "WaitingForDeletion",
            Self::Apply(_) => "ApplyFailed",
            Self::NoAddress => "NoAddress",
            Self::Members(_) => "MembersFailed",
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

    /// Whether it stays until somebody changes the `VirtualCluster` or what is in its way.
    pub(crate) fn needs_intervention(&self) -> bool {
        matches!(
            self,
            Self::Invalid(_)
                | Self::DecodeFailed(_)
                | Self::KeysLost { .. }
                | Self::Apply(ApplyError::Foreign { .. } | ApplyError::Retained { .. })
                | Self::Pki(PkiError::UnusableAuthority { .. } | PkiError::AuthorityExpired { .. })
        )
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
