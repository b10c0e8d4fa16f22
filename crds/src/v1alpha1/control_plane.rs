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
    /// Replicas of each control-plane part, e.g. 3. With topology `Stacked` each has a member of etcd, so 1, 3 or 5; with `SingleNode` 1;
    /// with `External` 1 to 5. Default: 1.
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
    /// Metadata of the control plane's pods.
    pub pod_template: PodTemplate,
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
            pod_template: PodTemplate::default(),
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
    /// Requests and limits of the container, e.g. `{requests: {memory: 1Gi}}`. A CPU limit slows the start of the cluster. Default:
    /// requests of 50m CPU and 256Mi memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Further DNS names and IP addresses in the serving certificate, e.g. `[api.example.com, 192.0.2.7]`. Default: none.
    #[serde(rename = "certSANs")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)), extend("x-kubernetes-validations" = rules::cert_sans()))]
    pub cert_sans: Vec<String>,
    /// `AuthenticationConfiguration` (apiserver.config.k8s.io), e.g. `{jwt: [...]}` for OIDC. Default: health checks are
    /// anonymous, everything else needs a certificate or a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Raw>,
    /// `AuthorizationConfiguration` (apiserver.config.k8s.io). Not supported yet: Node and RBAC are always on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::authorization()))]
    pub authorization: Option<Raw>,
    /// Audit `Policy` (audit.k8s.io), e.g. `{rules: [{level: Metadata}]}`; events go to the container's log. Default: no audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Raw>,
    /// Encryption of resources in etcd. Default: none beyond that of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::encryption()))]
    pub encryption: Option<Encryption>,
    /// `AdmissionConfiguration` (apiserver.config.k8s.io), whose plugins are configured in place, not by files, e.g.
    /// `{plugins: [{name: PodSecurity, configuration: {...}}]}`. Default: upstream's plugins and NodeRestriction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Raw>,
}

/// Encryption of resources in etcd.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Encryption {
    /// Secret in the cluster's namespace with the `EncryptionConfiguration` (apiserver.config.k8s.io), e.g. `{name: dev-encryption}`. The
    /// operator copies it to where kube-apiserver reads it; a change is noticed within the operator's resync period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
}

/// A key of a Secret in the namespace of the `VirtualCluster`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct SecretKeyRef {
    /// Name of the Secret, e.g. `dev-encryption`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key inside the Secret, e.g. `config.yaml`. Default: `encryption.yaml`.
    #[serde(default = "SecretKeyRef::encryption")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl SecretKeyRef {
    fn encryption() -> String {
        "encryption.yaml".into()
    }
}

/// The tenant's kube-controller-manager.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerManager {
    /// Controllers to run, as kube-controller-manager's `--controllers`: `*`, `name`, `-name`, e.g.
    /// `["*", "-cronjob-controller"]`. Default: `["*"]`.
    #[schemars(length(min = 1, max = 64), inner(length(max = 64)), extend("x-kubernetes-validations" = rules::controllers()))]
    pub controllers: Vec<String>,
    /// Further flags of kube-controller-manager, in this order, e.g. `[{name: v, value: "4"}]`. Flags that the operator
    /// manages are refused with the field that controls them. Default: none.
    #[schemars(length(max = 64), transform = rules::controller_manager_args)]
    pub extra_args: Vec<ExtraArg>,
    /// Requests and limits of the container, e.g. `{requests: {memory: 128Mi}}`. Default: requests of 20m CPU and 64Mi memory.
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
    /// `profiles` of `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1), e.g. `[{schedulerName: packing}]`. Default:
    /// upstream's one profile.
    #[schemars(length(max = 16))]
    pub profiles: Vec<Raw>,
    /// Further flags of kube-scheduler, in this order, e.g. `[{name: v, value: "4"}]`. Flags that the operator
    /// manages are refused with the field that controls them. Default: none.
    #[schemars(length(max = 64), transform = rules::scheduler_args)]
    pub extra_args: Vec<ExtraArg>,
    /// Requests and limits of the container, e.g. `{requests: {memory: 128Mi}}`. Default: requests of 10m CPU and 48Mi memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// The tenant's cloud-controller-manager; the host is the cloud.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudControllerManager {
    /// Controllers to run, as upstream's `--controllers`: `*`, `name`, `-name`. Known: `node`, e.g. `["-node"]`. Default: `["*"]`.
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

/// Metadata of pods, beside the operator's own.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct PodTemplate {
    /// Labels, e.g. `{cost-center: "42"}`. Default: none.
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = rules::bounded(63), "x-kubernetes-validations" = rules::pod_labels()))]
    pub labels: BTreeMap<String, String>,
    /// Annotations, e.g. `{sidecar.istio.io/inject: "false"}`. Default: none.
    #[schemars(extend("maxProperties" = 32, "x-kubernetes-validations" = rules::pod_annotations()))]
    pub annotations: BTreeMap<String, String>,
}

/// Where pods are scheduled on the host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Labels that a host node must have, e.g. `{pool: control}`. Default: none.
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of host nodes that the pods tolerate, e.g. `[{key: control, operator: Exists}]`. Default: none.
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// `PriorityClass` of the host, e.g. `tenants`. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub priority_class_name: String,
    /// Whether replicas go to different host nodes. Default: `Preferred`.
    pub host_spread: Spread,
    /// Whether replicas go to different zones (label `topology.kubernetes.io/zone` of the host nodes). Default: `Preferred`.
    pub zone_spread: Spread,
}

/// Spread over host nodes or zones.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// A replica that finds no place of its own stays pending.
    Required,
    /// A place for each replica where there are enough.
    #[default]
    Preferred,
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
