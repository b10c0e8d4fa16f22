//! Which tenant pod: the key of everything that is kept or done for one pod.

use k8s_openapi::api::core::v1::Pod;
use nestling_crds::labels;
use nestling_crds::names::{HostName, TenantUid};
use std::fmt;

/// A tenant pod. Two pods of one name that follow each other (a StatefulSet's) have different keys: the old host pod can
/// still be stopping while the new one starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodKey {
    /// The key of a tenant pod.
    pub fn of_tenant(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        Some(Self { namespace: meta.namespace.clone()?, name: meta.name.clone()?, uid: meta.uid.clone()? })
    }

    /// The key of the tenant pod that a host pod realizes.
    pub fn of_host(pod: &Pod) -> Option<Self> {
        let notes = pod.metadata.annotations.as_ref()?;
        Some(Self {
            namespace: notes.get(labels::TENANT_NAMESPACE)?.clone(),
            name: notes.get(labels::TENANT_NAME)?.clone(),
            uid: pod.metadata.labels.as_ref()?.get(labels::POD_UID)?.clone(),
        })
    }

    /// Name of the host pod.
    pub fn host_name(&self, tenant: &TenantUid) -> HostName {
        HostName::for_object(tenant, "Pod", &self.namespace, &self.name, &self.uid)
    }

    /// Name of the pod Secret.
    pub fn secret_name(&self, tenant: &TenantUid) -> HostName {
        HostName::for_object(tenant, "PodSecret", &self.namespace, &self.name, &self.uid)
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
