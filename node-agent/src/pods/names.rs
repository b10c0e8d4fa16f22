//! Names and marks: which tenant pod, which tenant object, which host object stands for it, and whose a host object is.
//!
//! A host name carries a hash over tenant, kind, namespace, name and UID, so it is unique and never a word of the tenant's.
//! Whether a host object is this agent's is decided by its labels, before every write or delete.

use crate::tenant::{Tenant, TenantSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nestling_crds::labels;
use nestling_crds::names::{HostName, NodeName, TenantUid};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Longest label value that the API takes.
const MAX_LABEL: usize = 63;

/// A tenant pod. Two pods of one name that follow each other (a StatefulSet's) have different keys: the old host pod can
/// still be stopping while the new one starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodKey {
    /// The key of a tenant pod.
    pub(crate) fn of_tenant(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        Some(Self { namespace: meta.namespace.clone()?, name: meta.name.clone()?, uid: meta.uid.clone()? })
    }

    /// The key of the tenant pod that a host pod stands for.
    pub(crate) fn of_host(pod: &Pod) -> Option<Self> {
        let annotations = pod.metadata.annotations.as_ref()?;
        Some(Self {
            namespace: annotations.get(labels::TENANT_NAMESPACE)?.clone(),
            name: annotations.get(labels::TENANT_NAME)?.clone(),
            uid: pod.metadata.labels.as_ref()?.get(labels::POD_UID)?.clone(),
        })
    }

    /// Name of the host pod.
    pub(crate) fn host_name(&self, tenant: &TenantUid) -> HostName {
        HostName::for_object(tenant, "Pod", &self.namespace, &self.name, &self.uid)
    }

    /// Name of the pod Secret.
    pub(crate) fn secret_name(&self, tenant: &TenantUid) -> HostName {
        HostName::for_object(tenant, "PodSecret", &self.namespace, &self.name, &self.uid)
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SourceKind {
    ConfigMap,
    Secret,
}

impl SourceKind {
    /// The API kind, also the `kind` part of the host copy's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// A ConfigMap or Secret of the tenant that pods refer to by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Source {
    pub(crate) kind: SourceKind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Source {
    pub(crate) fn config_map(namespace: &str, name: &str) -> Self {
        Self { kind: SourceKind::ConfigMap, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn secret(namespace: &str, name: &str) -> Self {
        Self { kind: SourceKind::Secret, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Name of this node's copy.
    pub(crate) fn host_name(&self, tenant: &TenantUid, node: &NodeName) -> HostName {
        HostName::for_object(tenant, self.kind.as_str(), &self.namespace, &self.name, node.as_str())
    }
}

/// As a kubelet names objects in its events: `configmap "a"`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            SourceKind::ConfigMap => "configmap",
            SourceKind::Secret => "secret",
        };
        write!(f, "{kind} {:?} in namespace {:?}", self.name, self.namespace)
    }
}

/// Who owns host objects: the agent of one node, for one tenant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) tenant: &'a TenantSpec,
    pub(crate) node: &'a NodeName,
}

impl<'a> Owner<'a> {
    pub(crate) fn of(tenant: &'a Tenant) -> Self {
        Self { tenant: &tenant.spec, node: &tenant.node }
    }

    /// Metadata of a host pod. The tenant's labels and annotations stay behind: host selectors, policies and webhooks
    /// must not be steered by them.
    pub(crate) fn pod_metadata(&self, key: &PodKey) -> ObjectMeta {
        self.metadata_for_pod(&key.host_name(&self.tenant.uid), key)
    }

    /// Metadata of a pod Secret.
    pub(crate) fn pod_secret_metadata(&self, key: &PodKey) -> ObjectMeta {
        self.metadata_for_pod(&key.secret_name(&self.tenant.uid), key)
    }

    /// Metadata of the copy of a tenant object with UID `uid`.
    pub(crate) fn copy_metadata(&self, source: &Source, uid: &str) -> ObjectMeta {
        self.metadata(&source.host_name(&self.tenant.uid, self.node), self.labels(), &source.namespace, &source.name, uid)
    }

    fn metadata_for_pod(&self, name: &HostName, key: &PodKey) -> ObjectMeta {
        let mut labels = self.labels();
        labels.insert(labels::POD_UID.into(), key.uid.clone());
        self.metadata(name, labels, &key.namespace, &key.name, &key.uid)
    }

    fn metadata(&self, name: &HostName, labels: BTreeMap<String, String>, namespace: &str, tenant_name: &str, uid: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(self.tenant.workload_namespace.to_string()),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([
                (labels::TENANT_NAMESPACE.into(), namespace.into()),
                (labels::TENANT_NAME.into(), tenant_name.into()),
                (labels::TENANT_OBJECT_UID.into(), uid.into()),
            ])),
            ..ObjectMeta::default()
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([
            (labels::MANAGED_BY.into(), labels::AGENT.into()),
            (labels::TENANT.into(), self.tenant.uid.to_string()),
            (labels::NODE.into(), self.node.to_string()),
            (labels::COMPONENT.into(), "workload".into()),
        ]);
        // For people; a longer name is no label value.
        if self.tenant.name.len() <= MAX_LABEL {
            labels.insert(labels::CLUSTER.into(), self.tenant.name.clone());
        }
        labels
    }
}

/// Whether a host object is this agent's and made for pod `key`.
pub(crate) fn is_for_pod(metadata: &ObjectMeta, tenant: &Tenant, key: &PodKey) -> bool {
    let label = |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    label(labels::MANAGED_BY) == Some(labels::AGENT)
        && label(labels::TENANT) == Some(tenant.spec.uid.as_str())
        && label(labels::NODE) == Some(tenant.node.as_str())
        && label(labels::POD_UID) == Some(key.uid.as_str())
}

/// Replaces the host names of one pod and of what it mounts by the tenant's, in texts that reach the tenant: events,
/// waiting reasons, status messages. Plain replacement cannot hit a word of the tenant's own: a host name carries a hash
/// or is a UID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TenantText(Vec<(String, String)>);

impl TenantText {
    /// For pod `key` with host pod `host`, if there is one, which mounts copies of `sources`.
    pub(crate) fn new(owner: Owner<'_>, key: &PodKey, host: Option<&Pod>, sources: &BTreeSet<Source>) -> Self {
        let tenant = owner.tenant;
        let copy = |source: &Source| (source.host_name(&tenant.uid, owner.node).to_string(), source.name.clone());
        let mut pairs: Vec<(String, String)> = sources.iter().map(copy).collect();
        pairs.push((key.host_name(&tenant.uid).to_string(), key.name.clone()));
        pairs.push((key.secret_name(&tenant.uid).to_string(), key.name.clone()));
        pairs.push((tenant.workload_namespace.to_string(), key.namespace.clone()));
        pairs.extend(host.and_then(|host| host.metadata.uid.clone()).map(|uid| (uid, key.uid.clone())));
        Self(pairs)
    }

    pub(crate) fn of(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (host, tenant)| text.replace(host, tenant))
    }

    pub(crate) fn of_option(&self, text: Option<&String>) -> Option<String> {
        text.map(|text| self.of(text))
    }
}
