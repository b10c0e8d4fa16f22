//! The tenant's control plane: replicas, where they run, and the settings of each of its programs.

use super::rules;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The tenant's control plane.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ControlPlane {
    /// Replicas of each control-plane part. Odd with topology `Stacked`, 1 with `SingleNode`. More than 1 is not supported yet.
    #[schemars(range(min = 0, max = 9), extend("x-kubernetes-validations" = rules::replicas()))]
    pub replicas: i32,
    /// kube-apiserver.
    pub api_server: ApiServer,
    /// kube-controller-manager.
    pub controller_manager: ControllerManager,
    /// kube-scheduler.
    pub scheduler: Scheduler,
    /// cloud-controller-manager: initializes the tenant's Nodes from the host nodes behind them.
    pub cloud_controller_manager: CloudControllerManager,
    /// Feature gates of kube-apiserver, kube-controller-manager and kube-scheduler, e.g. `{DynamicResourceAllocation: false}`.
    /// Default: those of the Kubernetes version. A gate that the version does not know keeps its programs from starting.
    #[schemars(extend("maxProperties" = 64, "x-kubernetes-validations" = rules::feature_gates()))]
    pub feature_gates: BTreeMap<String, bool>,
    /// Where the control plane's pods are scheduled on the host.
    pub placement: Placement,
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self {
            replicas: 1,
            api_server: ApiServer::default(),
            controller_manager: ControllerManager::default(),
            scheduler: Scheduler::default(),
            cloud_controller_manager: CloudControllerManager::default(),
            feature_gates: BTreeMap::new(),
            placement: Placement::default(),
        }
    }
}

/// The tenant's kube-apiserver.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiServer {
    /// Further flags of kube-apiserver, in this order, e.g. `[{name: event-ttl, value: "2h"}]`. Flags that the operator
    /// manages are refused with the field that controls them. Default: none.
    #[schemars(length(max = 64), transform = rules::api_server_args)]
    pub extra_args: Vec<ExtraArg>,
    /// Requests and limits of the container. A CPU limit slows the start of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Further DNS names and IP addresses in the serving certificate.
    #[serde(rename = "certSANs")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)), extend("x-kubernetes-validations" = rules::cert_sans()))]
    pub cert_sans: Vec<String>,
    /// `AuthenticationConfiguration` (apiserver.config.k8s.io), e.g. OIDC issuers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Raw>,
    /// `AuthorizationConfiguration` (apiserver.config.k8s.io). Not supported yet: Node and RBAC are always on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::authorization()))]
    pub authorization: Option<Raw>,
    /// Audit `Policy` (audit.k8s.io).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Raw>,
    /// `EncryptionConfiguration` (apiserver.config.k8s.io).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Raw>,
    /// `AdmissionConfiguration` (apiserver.config.k8s.io).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Raw>,
}

/// The tenant's kube-controller-manager.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerManager {
    /// Controllers to run, as kube-controller-manager's `--controllers`: `*`, `name`, `-name`.
    #[schemars(length(min = 1, max = 64), inner(length(max = 64)), extend("x-kubernetes-validations" = rules::controllers()))]
    pub controllers: Vec<String>,
    /// Further flags of kube-controller-manager, in this order, e.g. `[{name: v, value: "4"}]`. Flags that the operator
    /// manages are refused with the field that controls them. Default: none.
    #[schemars(length(max = 64), transform = rules::controller_manager_args)]
    pub extra_args: Vec<ExtraArg>,
    /// Requests and limits of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

impl Default for ControllerManager {
    fn default() -> Self {
        Self { controllers: vec!["*".into()], extra_args: Vec::new(), resources: None }
    }
}

/// The tenant's own kube-scheduler.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Scheduler {
    /// `profiles` of `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1).
    #[schemars(length(max = 16))]
    pub profiles: Vec<Raw>,
    /// Further flags of kube-scheduler, in this order, e.g. `[{name: v, value: "4"}]`. Flags that the operator
    /// manages are refused with the field that controls them. Default: none.
    #[schemars(length(max = 64), transform = rules::scheduler_args)]
    pub extra_args: Vec<ExtraArg>,
    /// Requests and limits of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// The tenant's cloud-controller-manager; the host is the cloud.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudControllerManager {
    /// Controllers to run, as upstream's `--controllers`: `*`, `name`, `-name`. Known: `node`.
    #[schemars(length(min = 1, max = 16), inner(length(max = 64)), extend("x-kubernetes-validations" = rules::cloud_controllers()))]
    pub controllers: Vec<String>,
    /// Further flags of cloud-controller-manager, in this order, e.g. `[{name: log-format, value: json}]`. Flags that the
    /// operator manages are refused with the field that controls them. Default: none.
    #[schemars(length(max = 64), transform = rules::cloud_controller_manager_args)]
    pub extra_args: Vec<ExtraArg>,
    /// Requests and limits of the container, e.g. `{requests: {memory: 32Mi}}`. Default: requests of 5m CPU and 16Mi memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

impl Default for CloudControllerManager {
    fn default() -> Self {
        Self { controllers: vec!["*".into()], extra_args: Vec::new(), resources: None }
    }
}

/// A flag of a program.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraArg {
    /// Name without leading dashes, e.g. `event-ttl`. `_` is the same as `-`.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Value, e.g. `2h`. A flag that may be repeated is listed once for each value.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// Where pods are scheduled on the host. Replicas are always spread over host nodes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Labels that a host node must have.
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of host nodes that the pods tolerate.
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// `PriorityClass` of the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub priority_class_name: String,
    /// Whether replicas go to different zones (label `topology.kubernetes.io/zone` of the host nodes).
    pub zone_spread: ZoneSpread,
}

/// Spread over zones.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZoneSpread {
    /// A replica that finds no zone of its own stays pending.
    Required,
    /// A zone for each replica where there are enough.
    #[default]
    Preferred,
    /// Zones are ignored.
    Off,
}

/// Configuration of an upstream program, passed on as it is: any JSON object.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(transparent)]
pub struct Raw(pub serde_json::Map<String, serde_json::Value>);

/// Not derived: `additionalProperties` would make the apiserver prune everything below the first level.
impl JsonSchema for Raw {
    fn schema_name() -> Cow<'static, str> {
        "Raw".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}
