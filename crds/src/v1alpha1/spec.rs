//! The desired state of a tenant cluster.

use super::{Addons, ControlPlane, Etcd, Images, Nodes, rules, status::VirtualClusterStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Desired state of a tenant cluster. Every field has a default: `spec: {}` gives a working cluster.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "nestling.dev",
    version = "v1alpha1",
    kind = "VirtualCluster",
    plural = "virtualclusters",
    shortname = "vc",
    category = "nestling",
    namespaced,
    doc = "A tenant Kubernetes cluster that runs inside this cluster.",
    status = "VirtualClusterStatus",
    derive = "PartialEq",
    cel,
    validation = rules::name_length(),
    validation = rules::name_form(),
    scale(
        spec_replicas_path = ".spec.controlPlane.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Running Kubernetes version"),
    printcolumn(name = "Topology", type_ = "string", json_path = ".spec.topology", description = "Where etcd runs"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the cluster is ready"
    ),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes.ready", description = "Nodes that are ready"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", description = "URL of the tenant's API"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "Why the cluster is not ready",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::spec()))]
pub struct VirtualClusterSpec {
    /// Kubernetes version of the tenant, e.g. `v1.37.2`, or `v1.37` for its newest known patch. Default: the newest known. It is
    /// resolved once (`status.release`); an upgrade of the operator changes nothing. Minor versions go up one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = rules::version()))]
    pub version: Option<String>,
    /// Where etcd runs. Cannot be changed. Default: `Stacked`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = rules::topology()))]
    pub topology: Topology,
    /// The tenant's control plane.
    #[serde(default)]
    pub control_plane: ControlPlane,
    /// The tenant's etcd.
    #[serde(default)]
    pub etcd: Etcd,
    /// Addresses and names inside the tenant.
    #[serde(default)]
    pub network: Network,
    /// How the tenant's API is reached from outside its control plane.
    #[serde(default)]
    pub expose: Expose,
    /// Which host nodes serve the tenant, and how much of them.
    #[serde(default)]
    pub nodes: Nodes,
    /// What the operator installs inside the tenant.
    #[serde(default)]
    pub addons: Addons,
    /// Where the images of the control plane and of the add-ons come from.
    #[serde(default)]
    pub images: Images,
    /// Isolation of the tenant's pods from other tenants and the host.
    #[serde(default)]
    pub isolation: Isolation,
    /// The admin kubeconfig.
    #[serde(default)]
    pub kubeconfig: Kubeconfig,
    /// Stop reconciling; running components keep running. Default: false.
    #[serde(default)]
    pub paused: bool,
    /// Scale the control plane to zero and keep its data: the tenant's API is away until this is false again. Needs etcd on a
    /// volume. Default: false.
    #[serde(default)]
    pub hibernate: bool,
    /// What happens to the tenant's pods while the cluster hibernates. Default: `Stop`.
    #[serde(default)]
    pub hibernated_pods: HibernatedPods,
    /// What happens to etcd's volumes and keys when the `VirtualCluster` is deleted. Default: `Delete`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl VirtualClusterSpec {
    /// Members of etcd.
    pub fn etcd_members(&self) -> i32 {
        match self.topology {
            Topology::External => self.etcd.replicas.unwrap_or(1),
            Topology::Stacked | Topology::SingleNode => self.control_plane.replicas,
        }
    }
}

/// Where etcd runs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// Control plane and the one worker on a single host node.
    SingleNode,
    /// An etcd member beside each kube-apiserver.
    #[default]
    Stacked,
    /// etcd in a `StatefulSet` of its own.
    External,
}

/// What happens to the tenant's pods while the cluster hibernates.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HibernatedPods {
    /// They are stopped, and start again as the same pods when the cluster wakes, as after a reboot of their nodes. Pods with
    /// `restartPolicy: Never` end as `Failed`.
    #[default]
    Stop,
    /// They keep running, and their Services keep working; nothing about them changes.
    Keep,
}

/// What happens to etcd's volumes and keys when the `VirtualCluster` is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// They are deleted too.
    #[default]
    Delete,
    /// They are kept.
    Retain,
}

/// Addresses and names inside the tenant.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::network()))]
pub struct Network {
    /// Service ranges of the tenant, one IPv4 CIDR between /12 and /28, e.g. `[10.100.0.0/20]`. Default: allocated from the
    /// operator's pool. Immutable. Tenants may share a range with each other, not with the host's nodes, pods and Services.
    #[serde(rename = "serviceCIDRs")]
    #[schemars(length(max = 2), inner(length(max = 43)), extend("x-kubernetes-validations" = rules::service_cidrs()))]
    pub service_cidrs: Vec<String>,
    /// The former name of `serviceCIDRs`; refused.
    #[serde(rename = "serviceCIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43), extend("x-kubernetes-validations" = rules::former("use serviceCIDRs, a list")))]
    pub service_cidr: Option<String>,
    /// DNS domain of the tenant, e.g. `dev.example`. Immutable. Default: `cluster.local`.
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-validations" = rules::cluster_domain()))]
    pub cluster_domain: String,
    /// From where `NodePorts` can be reached. Default: `Internal`.
    #[schemars(extend("x-kubernetes-validations" = rules::node_ports()))]
    pub node_ports: NodePorts,
}

impl Default for Network {
    fn default() -> Self {
        Self { service_cidrs: Vec::new(), service_cidr: None, cluster_domain: "cluster.local".into(), node_ports: NodePorts::Internal }
    }
}

/// From where `NodePorts` can be reached.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodePorts {
    /// The tenant's own pods and nodes.
    #[default]
    Internal,
    /// Anywhere, in a port range of the tenant's own. Not supported yet.
    External,
}

/// How the tenant's API is reached.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::expose()))]
pub struct Expose {
    /// Type of the host Service in front of the tenant's API. Default: `ClusterIP`.
    #[serde(rename = "type")]
    #[schemars(extend("x-kubernetes-validations" = rules::expose_type()))]
    pub type_: ExposeType,
    /// DNS name or address that clients use, e.g. `dev.k8s.example.com`; becomes part of the serving certificate and of the
    /// kubeconfig. Required with `NodePort`. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::hostname()))]
    pub hostname: String,
    /// Annotations of the host Service, e.g. for the host's load balancer. Default: none.
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// With `LoadBalancer`: addresses from which the load balancer admits clients, e.g. `[203.0.113.0/24]`. Default: any.
    #[schemars(length(max = 64), inner(length(max = 43)), extend("x-kubernetes-validations" = rules::source_ranges()))]
    pub source_ranges: Vec<String>,
    /// With `LoadBalancer`: class of the load balancer, e.g. `example.com/internal`. Cannot be changed while the type stays.
    /// Default: the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
}

/// Type of the host Service in front of the tenant's API.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExposeType {
    /// From inside the host cluster only.
    #[default]
    ClusterIP,
    /// On a port of every host node.
    NodePort,
    /// Through the host's load balancer.
    LoadBalancer,
    /// Through a Gateway of the host. Not supported yet.
    Gateway,
}

/// Isolation of the tenant's pods from other tenants and the host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Isolation {
    /// Pod Security Standard that the host enforces on the tenant's pods. Default: `baseline`.
    pub pod_security: PodSecurity,
    /// Keep other tenants' and the host's pods away from the tenant's. Default: true.
    pub network_policy: bool,
    /// `hard` of the `ResourceQuota` of the workload namespace, e.g. `{requests.cpu: "20", pods: "200"}`. Default: no quota.
    #[schemars(extend("maxProperties" = 64))]
    pub quota: BTreeMap<String, Quantity>,
}

impl Default for Isolation {
    fn default() -> Self {
        Self { pod_security: PodSecurity::Baseline, network_policy: true, quota: BTreeMap::new() }
    }
}

/// A Pod Security Standard.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurity {
    /// Unrestricted: a tenant can take over the host nodes it runs on.
    Privileged,
    /// No known privilege escalation.
    #[default]
    Baseline,
    /// Hardened pods only.
    Restricted,
}

/// The admin kubeconfig.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Kubeconfig {
    /// Life of the certificate in the admin kubeconfig, in hours, minutes and seconds, between 10m and 87600h, e.g. `720h`. It is
    /// renewed after two thirds of its life. Default: that of all certificates (the operator's setting, a year).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = rules::lifetime()))]
    pub lifetime: Option<String>,
}
