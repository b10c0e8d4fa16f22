//! The cluster that a reconcile is about.

use crate::host::Cluster;
use crate::state::Context;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::reflector::{Lookup as _, ObjectRef};
use kube::{Resource as _, ResourceExt as _};
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::{VirtualCluster, VirtualClusterStatus};

/// The stored object is not one that this version of the operator can read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DecodeError(pub String);

#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// With the status as last written: the watch may be behind our own writes.
    pub vc: VirtualCluster,
    pub uid: TenantUid,
    pub namespace: String,
    pub name: String,
    pub reference: ObjectRef<Cluster>,
}

impl Subject {
    pub(crate) fn new(cluster: &Cluster, ctx: &Context) -> Result<Self, DecodeError> {
        let mut vc = cluster.0.clone().map_err(|invalid| DecodeError(invalid.error))?;
        let uid = TenantUid::new(vc.metadata.uid.clone().ok_or(DecodeError("it has no uid".into()))?);
        let namespace = vc.metadata.namespace.clone().ok_or(DecodeError("it has no namespace".into()))?;
        if let Some(written) = ctx.state.with(&uid, |state| state.status.clone()) {
            vc.status = Some(written);
        }
        Ok(Self { uid, namespace, name: vc.name_any(), reference: cluster.to_object_ref(()), vc })
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.vc.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn status(&self) -> VirtualClusterStatus {
        self.vc.status.clone().unwrap_or_default()
    }

    /// For Events.
    pub(crate) fn object_reference(&self) -> ObjectReference {
        self.vc.object_ref(&())
    }
}
