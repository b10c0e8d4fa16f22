//! Names of the objects of a cluster, all in the namespace of the `VirtualCluster` unless they say otherwise, and the keys
//! inside its Secrets.

use crate::model::ValidatedCluster;
use nestling_crds::v1alpha1::Topology;

/// Longest name of a `VirtualCluster`: pods of StatefulSet `<vc>-control-plane` carry the label
/// `controller-revision-hash: <StatefulSet>-<10 characters>`, and a label value has 63.
pub(crate) const MAX_CLUSTER_NAME: usize = 63 - 11 - "-control-plane".len();

pub(crate) fn apiserver(cluster: &str) -> String {
    format!("{cluster}-apiserver")
}

pub(crate) fn control_plane(cluster: &str) -> String {
    format!("{cluster}-control-plane")
}

/// The StatefulSet of etcd, with topology `External`.
pub(crate) fn etcd(cluster: &str) -> String {
    format!("{cluster}-etcd")
}

pub(crate) fn controllers(cluster: &str) -> String {
    format!("{cluster}-controllers")
}

pub(crate) fn ca(cluster: &str) -> String {
    format!("{cluster}-ca")
}

pub(crate) fn service_account_keys(cluster: &str) -> String {
    format!("{cluster}-sa")
}

pub(crate) fn apiserver_certs(cluster: &str) -> String {
    format!("{cluster}-apiserver-certs")
}

pub(crate) fn apiserver_config(cluster: &str) -> String {
    format!("{cluster}-apiserver-config")
}

pub(crate) fn etcd_certs(cluster: &str) -> String {
    format!("{cluster}-etcd-certs")
}

pub(crate) fn controllers_certs(cluster: &str) -> String {
    format!("{cluster}-controllers-certs")
}

pub(crate) fn controllers_config(cluster: &str) -> String {
    format!("{cluster}-controllers-config")
}

pub(crate) fn admin_kubeconfig(cluster: &str) -> String {
    format!("{cluster}-admin-kubeconfig")
}

pub(crate) fn cloud_controller(cluster: &str) -> String {
    format!("{cluster}-cloud-controller")
}

/// `RoleBinding` of the operator itself.
pub(crate) fn operator(cluster: &str) -> String {
    format!("{cluster}-operator")
}

/// Role and `RoleBinding` of the control API.
pub(crate) fn control_api(cluster: &str) -> String {
    format!("{cluster}-control-api")
}

/// The control API's service account.
pub(crate) const CONTROL_API: &str = "nestling-control-api";
/// `ClusterRole` that the chart installs for the operator; bound in namespaces of `VirtualClusters` only.
pub(crate) const OPERATOR_CLUSTER_ROLE: &str = "nestling-operator-cluster";
/// The same; bound in workload namespaces only.
pub(crate) const OPERATOR_WORKLOAD_ROLE: &str = "nestling-operator-workload";
/// In the workload namespace: `RoleBinding` of the operator.
pub(crate) const OPERATOR: &str = "nestling-operator";
/// In the workload namespace: `RoleBinding` of the node agents.
pub(crate) const AGENT: &str = "nestling-agent";
/// `ClusterRole` that the chart installs for [`AGENT`]; bound in workload namespaces only.
pub(crate) const AGENT_ROLE: &str = "nestling-agent-workload";
/// In the workload namespace: NetworkPolicy and `ResourceQuota`.
pub(crate) const WORKLOAD: &str = "nestling";

/// The StatefulSet whose pods hold etcd's members.
pub(crate) fn members_set(cluster: &str, topology: Topology) -> String {
    match topology {
        Topology::External => etcd(cluster),
        Topology::Stacked | Topology::SingleNode => control_plane(cluster),
    }
}

/// etcd members that are there or wanted, each named after its pod.
pub(crate) fn members(cluster: &ValidatedCluster) -> Vec<String> {
    let set = members_set(&cluster.name, cluster.topology);
    (0..cluster.members.max(cluster.membership.slots)).map(|ordinal| member(&set, ordinal)).collect()
}

/// A member, its pod and its Service.
pub(crate) fn member(set: &str, ordinal: i32) -> String {
    format!("{set}-{ordinal}")
}

/// The volume claim of a member: as a StatefulSet names the claims of its template `data`.
pub(crate) fn claim(set: &str, ordinal: i32) -> String {
    format!("{DATA_VOLUME}-{set}-{ordinal}")
}

/// The container of a member.
pub const ETCD: &str = "etcd";
/// Where a member serves its clients.
pub(crate) const ETCD_CLIENT_PORT: i32 = 2379;
/// Where members talk to each other.
pub(crate) const ETCD_PEER_PORT: i32 = 2380;
/// Where a member shows its health and metrics over plain HTTP; nothing of the data.
pub(crate) const ETCD_METRICS_PORT: i32 = 2381;

/// The volume with etcd's data.
pub(crate) const DATA_VOLUME: &str = "data";

/// Host name of a member: of a Service of its own. By name, never by address: addresses change with every restart of a pod.
pub(crate) fn member_host(namespace: &str, member: &str) -> String {
    format!("{member}.{namespace}.svc")
}

/// Where other members reach a member.
pub(crate) fn peer_url(namespace: &str, member: &str) -> String {
    format!("https://{}:{ETCD_PEER_PORT}", member_host(namespace, member))
}

/// `--initial-cluster` with these members.
pub(crate) fn initial_cluster(namespace: &str, members: &[String]) -> String {
    let members: Vec<String> = members.iter().map(|member| format!("{member}={}", peer_url(namespace, member))).collect();
    members.join(",")
}

/// Annotation of the StatefulSet: the node to which a `SingleNode` cluster is pinned. Its volume may exist only there, so
/// the choice is made once.
pub(crate) const PINNED_NODE: &str = "nestling.dev/pinned-node";

/// Annotation of the StatefulSet of etcd's members, `true`: most of them have served at once, so none may begin anew.
pub(crate) const FORMED: &str = "nestling.dev/formed";
/// Annotation of the StatefulSet of etcd's members: how many have a pod, unless the cluster hibernates.
pub(crate) const SLOTS: &str = "nestling.dev/slots";
/// Annotation of the StatefulSet of etcd's members and of its pods: hash of the template. One that differs is to be replaced.
pub(crate) const TEMPLATE: &str = "nestling.dev/template";
/// Annotation of a pod with a member of etcd: the value of `--initial-cluster`, without which etcd does not begin in an empty
/// directory.
pub(crate) const INITIAL_CLUSTER: &str = "nestling.dev/initial-cluster";
/// Annotation of what holds the data of a member (its volume claim; its pod, if the data is in memory): the member's ID,
/// [`CANDIDATE`] or [`FOUNDER`].
pub(crate) const MEMBER: &str = "nestling.dev/etcd-member";
/// A member that etcd is to form with.
pub(crate) const CANDIDATE: &str = "candidate";
/// A member that etcd formed with.
pub(crate) const FOUNDER: &str = "founder";

/// Annotation of the controllers' Deployment: image of its cloud-controller-manager.
pub(crate) const CLOUD_CONTROLLER_IMAGE: &str = "nestling.dev/cloud-controller-image";

/// Directory in a container with the certificates and keys of its component, and of the authorities it trusts.
pub(crate) const CERTIFICATES: &str = "/etc/nestling/pki";

/// The name that kube-apiserver's `--requestheader-allowed-names` lists.
pub(crate) const FRONT_PROXY_CLIENT: &str = "front-proxy-client";

/// Keys inside the Secrets, for those that mount them.
pub(crate) mod keys {
    pub(crate) const CA: &str = "ca.crt";
    pub(crate) const CA_KEY: &str = "ca.key";
    pub(crate) const SERVING: &str = "tls";
    pub(crate) const KUBELET_CLIENT: &str = "kubelet-client";
    pub(crate) const NODE_SERVING_CA: &str = "node-serving-ca.crt";
    pub(crate) const FRONT_PROXY_CA: &str = "front-proxy-ca.crt";
    pub(crate) const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
    pub(crate) const ETCD_CA: &str = "etcd-ca.crt";
    pub(crate) const ETCD_CLIENT: &str = "etcd-client";
    pub(crate) const ETCD_PEER_CA: &str = "peer-ca.crt";
    pub(crate) const CONTROLLER_MANAGER: &str = "controller-manager";
    pub(crate) const SCHEDULER: &str = "scheduler";
    pub(crate) const CLOUD_CONTROLLER_MANAGER: &str = "cloud-controller-manager";
    pub(crate) const CONTROL_CA: &str = "control-ca.crt";
    pub(crate) const SERVICE_ACCOUNT_KEY: &str = "sa.key";
    pub(crate) const SERVICE_ACCOUNT_PUBLIC: &str = "sa.pub";
    pub(crate) const KUBECONFIG: &str = "kubeconfig";
}
