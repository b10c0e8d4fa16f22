//! Marks on host objects by which the agent knows its own, and checks them before it writes or deletes.

use super::key::PodKey;
use crate::tenant::{Tenant, TenantSpec};
use crate::volumes::Source;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nestling_crds::labels;
use nestling_crds::names::NodeName;
use std::collections::BTreeMap;

/// Longest label value that the API takes.
const MAX_LABEL: usize = 63;

/// The agent of one node, for one tenant.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    pub tenant: &'a TenantSpec,
    pub node: &'a NodeName,
}

impl<'a> Owner<'a> {
    pub fn of(tenant: &'a Tenant) -> Self {
        Self { tenant: &tenant.spec, node: &tenant.node }
    }

    /// Metadata of a host pod. The tenant's labels and annotations stay behind: host selectors, policies and webhooks
    /// must not be steered by them.
    pub fn pod_metadata(&self, key: &PodKey) -> ObjectMeta {
        let name = key.host_name(&self.tenant.uid).to_string();
        self.pod_object(name, key)
    }

    /// Metadata of a pod Secret.
    pub fn pod_secret_metadata(&self, key: &PodKey) -> ObjectMeta {
        let name = key.secret_name(&self.tenant.uid).to_string();
        self.pod_object(name, key)
    }

    /// Metadata of the copy of a tenant object with UID `uid`.
    pub fn copy_metadata(&self, source: &Source, uid: &str) -> ObjectMeta {
        let name = source.host_name(&self.tenant.uid, self.node).to_string();
        self.object(name, self.labels(), &source.namespace, &source.name, uid)
    }

    fn pod_object(&self, name: String, key: &PodKey) -> ObjectMeta {
        let mut marks = self.labels();
        marks.insert(labels::POD_UID.into(), key.uid.clone());
        self.object(name, marks, &key.namespace, &key.name, &key.uid)
    }

    fn object(&self, name: String, marks: BTreeMap<String, String>, tenant_namespace: &str, tenant_name: &str, uid: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.tenant.workload_namespace.to_string()),
            labels: Some(marks),
            annotations: Some(BTreeMap::from([
                (labels::TENANT_NAMESPACE.into(), tenant_namespace.into()),
                (labels::TENANT_NAME.into(), tenant_name.into()),
                (labels::TENANT_OBJECT_UID.into(), uid.into()),
            ])),
            ..ObjectMeta::default()
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut marks = BTreeMap::from([
            (labels::MANAGED_BY.into(), labels::AGENT.into()),
            (labels::TENANT.into(), self.tenant.uid.to_string()),
            (labels::NODE.into(), self.node.to_string()),
            (labels::COMPONENT.into(), "workload".into()),
        ]);
        // For people; a longer name is no label value.
        if self.tenant.name.len() <= MAX_LABEL {
            marks.insert(labels::CLUSTER.into(), self.tenant.name.clone());
        }
        marks
    }
}

/// Selects the host objects of `tenant` that this node's agent owns.
pub fn selector(tenant: &Tenant) -> String {
    format!("{}={},{}={},{}={}", labels::TENANT, tenant.spec.uid, labels::NODE, tenant.node, labels::MANAGED_BY, labels::AGENT)
}

/// Whether a host object is this agent's.
pub fn is_ours(metadata: &ObjectMeta, tenant: &Tenant) -> bool {
    let mark = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    mark(labels::MANAGED_BY) == Some(labels::AGENT)
        && mark(labels::TENANT) == Some(tenant.spec.uid.as_str())
        && mark(labels::NODE) == Some(tenant.node.as_str())
}

/// Whether a host pod is this agent's and realizes `key`.
pub fn realizes(metadata: &ObjectMeta, tenant: &Tenant, key: &PodKey) -> bool {
    let uid = metadata.labels.as_ref().and_then(|labels| labels.get(labels::POD_UID));
    is_ours(metadata, tenant) && uid == Some(&key.uid)
}
