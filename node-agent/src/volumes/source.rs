//! A tenant object that pods refer to by name.

use nestling_crds::names::{HostName, NodeName, TenantUid};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    ConfigMap,
    Secret,
}

impl SourceKind {
    /// The API kind, also the `kind` part of the host copy's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// A ConfigMap or Secret of the tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    pub kind: SourceKind,
    pub namespace: String,
    pub name: String,
}

impl Source {
    pub fn config_map(namespace: &str, name: &str) -> Self {
        Self { kind: SourceKind::ConfigMap, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub fn secret(namespace: &str, name: &str) -> Self {
        Self { kind: SourceKind::Secret, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Name of this node's copy.
    pub fn host_name(&self, tenant: &TenantUid, node: &NodeName) -> HostName {
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
