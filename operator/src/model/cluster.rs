//! What a spec means once it has been validated.

use ipnet::IpNet;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use nestling_crds::names::{NodeName, TenantUid, WorkloadNamespace};
use nestling_crds::v1alpha1::{CoreDns, DeletionPolicy, ExposeType, NodeSelector, PodSecurity, PodTemplate, Release, Spread, Topology};
use nestling_crds::versions::Version;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A `VirtualCluster` whose every field has been understood.
#[derive(Clone, Debug)]
pub struct ValidatedCluster {
    pub uid: TenantUid,
    pub name: String,
    pub namespace: String,
    /// Reference to the `VirtualCluster`, for the objects that go with it.
    pub owner: OwnerReference,
    /// Namespace of the installation.
    pub system_namespace: String,
    /// Host and port of the control API, for the cloud controller manager.
    pub control_url: String,
    /// Of kube-apiserver, and of the whole cluster once a change is done.
    pub version: Version,
    /// Of kube-controller-manager and kube-scheduler: behind [`Self::version`] until every kube-apiserver has it.
    pub controllers_version: Version,
    /// What the spec resolved to; recorded in the status before anything is built on it.
    pub release: Release,
    /// A change of the version that is under way or waits.
    pub version_change: Option<VersionChange>,
    pub images: Images,
    pub topology: Topology,
    /// Replicas of each control-plane part.
    pub replicas: i32,
    /// etcd members that are wanted.
    pub members: i32,
    pub membership: Membership,
    /// Nothing of the control plane runs.
    pub hibernate: bool,
    /// Node to which a `SingleNode` cluster is pinned; always there with that topology.
    pub pinned_node: Option<NodeName>,
    pub service_cidr: IpNet,
    /// First address of the range: the tenant's `kubernetes` Service.
    pub kubernetes_address: IpAddr,
    /// Tenth address of the range: the tenant's `kube-dns` Service.
    pub dns_address: IpAddr,
    pub cluster_domain: String,
    pub workload_namespace: WorkloadNamespace,
    pub api_server: ApiServerSettings,
    pub controller_manager: ControllerManagerSettings,
    pub scheduler: SchedulerSettings,
    pub cloud_controller_manager: CloudControllerManagerSettings,
    /// Of kube-apiserver, kube-controller-manager and kube-scheduler.
    pub feature_gates: BTreeMap<String, bool>,
    pub placement: PlacementSettings,
    /// Metadata of control-plane pods beside our own.
    pub pod_template: PodTemplate,
    /// Secrets with which control-plane pods pull their images.
    pub pull_secrets: Vec<String>,
    pub etcd: EtcdSettings,
    pub expose: ExposeSettings,
    /// The host nodes that serve the tenant.
    pub node_selector: NodeSelector,
    /// What the tenant sees of each node at most.
    pub node_capacity: BTreeMap<String, Quantity>,
    pub pod_security: PodSecurity,
    pub network_policy: bool,
    pub quota: BTreeMap<String, Quantity>,
    pub core_dns: CoreDns,
    /// Life of the certificate in the admin kubeconfig, if it differs from that of other certificates.
    pub kubeconfig_lifetime: Option<SignedDuration>,
    pub deletion_policy: DeletionPolicy,
    /// UID of the earlier cluster whose retained data is taken over.
    pub adopt: Option<String>,
}

impl ValidatedCluster {
    /// How many of `replicas` run.
    pub(crate) fn running(&self, replicas: i32) -> i32 {
        if self.hibernate { 0 } else { replicas }
    }
}

/// How far etcd is with its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Members that have a pod, and a volume claim unless their data is in memory: those with an ordinal below this.
    pub slots: i32,
    /// Most of them have served at once. From then on the data counts, and only members of etcd begin with an empty directory, each
    /// once.
    pub formed: bool,
}

/// A change of the version; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionChange {
    /// Asked for and not begun.
    Waiting(String),
    UnderWay(String),
}

/// Full image references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    pub api_server: String,
    pub controller_manager: String,
    pub scheduler: String,
    pub etcd: String,
    pub coredns: String,
    pub cloud_controller: String,
}

#[derive(Clone, Debug, Default)]
pub struct ApiServerSettings {
    pub extra_args: Vec<Flag>,
    pub resources: Option<ResourceRequirements>,
    /// Further names in the serving certificate.
    pub cert_sans: Vec<San>,
    pub files: ConfigFiles,
}

/// Upstream configuration files of kube-apiserver, as JSON (which is YAML).
#[derive(Clone, Debug, Default)]
pub struct ConfigFiles {
    /// `AuthenticationConfiguration`; always there, because it is what keeps anonymous requests to the health endpoints.
    pub authentication: String,
    pub audit: Option<String>,
    pub encryption: Option<String>,
    pub admission: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct ControllerManagerSettings {
    pub controllers: Vec<String>,
    pub extra_args: Vec<Flag>,
    pub resources: Option<ResourceRequirements>,
}

#[derive(Clone, Debug, Default)]
pub struct SchedulerSettings {
    pub profiles: Vec<serde_json::Value>,
    pub extra_args: Vec<Flag>,
    pub resources: Option<ResourceRequirements>,
}

#[derive(Clone, Debug, Default)]
pub struct CloudControllerManagerSettings {
    pub controllers: Vec<String>,
    pub extra_args: Vec<Flag>,
    pub resources: Option<ResourceRequirements>,
}

/// `--max-wals`, for which [`EtcdSettings::quota_bytes`] leaves room.
pub(crate) const WAL_FILES: u64 = 2;

#[derive(Clone, Debug)]
pub struct EtcdSettings {
    pub extra_args: Vec<Flag>,
    pub resources: Option<ResourceRequirements>,
    pub placement: PlacementSettings,
    pub storage: Storage,
    /// `--quota-backend-bytes`
    pub quota_bytes: u64,
}

/// A user's flag of a program, by the name that the program knows it by ([`nestling_crds::managed_flags::normal`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, Default)]
pub struct PlacementSettings {
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub priority_class: Option<String>,
    pub host_spread: Spread,
    pub zone_spread: Spread,
}

/// Where etcd's data lives.
#[derive(Clone, Debug, PartialEq)]
pub enum Storage {
    Volume {
        size: Quantity,
        class: Option<String>,
    },
    /// Gone with the pod.
    Memory {
        bytes: u64,
    },
}

#[derive(Clone, Debug)]
pub struct ExposeSettings {
    pub type_: ExposeType,
    pub hostname: Option<String>,
    pub annotations: BTreeMap<String, String>,
    pub source_ranges: Vec<String>,
    pub load_balancer_class: Option<String>,
}

/// A name in a serving certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum San {
    Dns(String),
    Ip(IpAddr),
    Uri(String),
}
