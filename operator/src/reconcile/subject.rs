//! The cluster that a reconcile is about.

use crate::host::Cluster;
use crate::state::Context;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::runtime::reflector::{Lookup as _, ObjectRef};
use kube::{Resource, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::{VirtualCluster, VirtualClusterStatus};

/// The stored object is not one that this version of the operator can read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DecodeError(pub String);

/// Which cluster it is: known even of an object whose spec or status cannot be decoded.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub uid: TenantUid,
    pub namespace: String,
    pub name: String,
    pub reference: ObjectRef<Cluster>,
}

impl Identity {
    fn of(meta: &ObjectMeta, reference: ObjectRef<Cluster>) -> Result<Self, DecodeError> {
        let uid = TenantUid::new(meta.uid.clone().ok_or(DecodeError("it has no uid".into()))?);
        let namespace = meta.namespace.clone().ok_or(DecodeError("it has no namespace".into()))?;
        Ok(Self { uid, namespace, name: meta.name.clone().unwrap_or_default(), reference })
    }

    /// For objects that are to go with the `VirtualCluster`.
    pub(crate) fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: <VirtualCluster as Resource>::api_version(&()).into(),
            kind: <VirtualCluster as Resource>::kind(&()).into(),
            name: self.name.clone(),
            uid: self.uid.to_string(),
            controller: None,
            block_owner_deletion: None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub id: Identity,
    /// With the status as last written: the watch may be behind our own writes.
    pub vc: VirtualCluster,
}

impl Subject {
    pub(crate) fn status(&self) -> VirtualClusterStatus {
        self.vc.status.clone().unwrap_or_default()
    }

    /// For Events.
    pub(crate) fn object_reference(&self) -> ObjectReference {
        self.vc.object_ref(&())
    }

    pub(crate) fn is_finalized_by_us(&self) -> bool {
        self.vc.finalizers().iter().any(|finalizer| finalizer == labels::FINALIZER)
    }
}

/// Which cluster `cluster` is, and the cluster itself if it can be decoded.
pub(crate) fn read(cluster: &Cluster, ctx: &Context) -> Result<(Identity, Result<Subject, DecodeError>), DecodeError> {
    let id = Identity::of(cluster.meta(), cluster.to_object_ref(()))?;
    let subject = match cluster.0.clone() {
        Ok(mut vc) => {
            if let Some(written) = ctx.state.with(&id.uid, |state| state.status.clone()) {
                vc.status = Some(written);
            }
            Ok(Subject { id: id.clone(), vc })
        }
        Err(invalid) => Err(DecodeError(invalid.error)),
    };
    Ok((id, subject))
}
