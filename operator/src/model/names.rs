//! Names of the objects of a cluster, all in the namespace of the `VirtualCluster` unless they say otherwise, and the keys
//! inside its Secrets.

use crate::model::ValidatedCluster;
use nestling_crds::v1alpha1::Topology;

/// Longest name of a `VirtualCluster`: pods of StatefulSet `<vc>-control-plane` carry the label
/// `controller-revision-hash: <StatefulSet>-<10 characters>`, and a label value has 63.
pub const MAX_CLUSTER_NAME: usize = 63 - 11 - "-control-plane".len();

pub fn apiserver(cluster: &str) -> String {
    format!("{cluster}-apiserver")
}

pub fn control_plane(cluster: &str) -> String {
    format!("{cluster}-control-plane")
}

/// The StatefulSet (topology `External`) and, with every topology, the headless Service of the members.
pub fn etcd(cluster: &str) -> String {
    format!("{cluster}-etcd")
}

/// Service in front of etcd, with topology `External`.
pub fn etcd_client(cluster: &str) -> String {
    format!("{cluster}-etcd-client")
}

pub fn controllers(cluster: &str) -> String {
    format!("{cluster}-controllers")
}

pub fn ca(cluster: &str) -> String {
    format!("{cluster}-ca")
}

pub fn service_account_keys(cluster: &str) -> String {
    format!("{cluster}-sa")
}

pub fn apiserver_certs(cluster: &str) -> String {
    format!("{cluster}-apiserver-certs")
}

pub fn apiserver_config(cluster: &str) -> String {
    format!("{cluster}-apiserver-config")
}

pub fn etcd_certs(cluster: &str) -> String {
    format!("{cluster}-etcd-certs")
}

pub fn controllers_certs(cluster: &str) -> String {
    format!("{cluster}-controllers-certs")
}

pub fn controllers_config(cluster: &str) -> String {
    format!("{cluster}-controllers-config")
}

pub fn admin_kubeconfig(cluster: &str) -> String {
    format!("{cluster}-admin-kubeconfig")
}

pub fn cloud_controller(cluster: &str) -> String {
    format!("{cluster}-cloud-controller")
}

/// In the workload namespace: `RoleBinding` of the node agents.
pub const AGENT: &str = "nestling-agent";
/// `ClusterRole` that the chart installs for [`AGENT`]; bound in workload namespaces only.
pub const AGENT_ROLE: &str = "nestling-agent-workload";
/// In the workload namespace: NetworkPolicy and `ResourceQuota`.
pub const WORKLOAD: &str = "nestling";

/// The StatefulSet whose pods hold etcd's members.
pub fn members_set(cluster: &ValidatedCluster) -> String {
    match cluster.topology {
        Topology::External => etcd(&cluster.name),
        Topology::Stacked | Topology::SingleNode => control_plane(&cluster.name),
    }
}

/// etcd members, each named after its pod.
pub fn members(cluster: &ValidatedCluster) -> Vec<String> {
    let set = members_set(cluster);
    (0..cluster.members).map(|ordinal| format!("{set}-{ordinal}")).collect()
}

/// Host name of etcd as a whole, with topology `External`.
pub fn etcd_client_host(cluster: &ValidatedCluster) -> String {
    format!("{}.{}.svc", etcd_client(&cluster.name), cluster.namespace)
}

/// Host name of a member. By name, never by address: addresses change with every restart of a pod.
pub fn member_host(cluster: &ValidatedCluster, member: &str) -> String {
    format!("{member}.{}.{}.svc", etcd(&cluster.name), cluster.namespace)
}

/// Annotation of the StatefulSet: the node to which a `SingleNode` cluster is pinned. Its volume may exist only there, so
/// the choice is made once.
pub const PINNED_NODE: &str = "nestling.dev/pinned-node";

/// Directory in a container with the certificates and keys of its component, and of the authorities it trusts.
pub const CERTIFICATES: &str = "/etc/nestling/pki";

/// The name that kube-apiserver's `--requestheader-allowed-names` lists.
pub const FRONT_PROXY_CLIENT: &str = "front-proxy-client";

/// Keys inside the Secrets, for those that mount them.
pub mod keys {
    pub const CA: &str = "ca.crt";
    pub const CA_KEY: &str = "ca.key";
    pub const SERVING: &str = "tls";
    pub const KUBELET_CLIENT: &str = "kubelet-client";
    pub const NODE_SERVING_CA: &str = "node-serving-ca.crt";
    pub const FRONT_PROXY_CA: &str = "front-proxy-ca.crt";
    pub const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
    pub const ETCD_CA: &str = "etcd-ca.crt";
    pub const ETCD_CLIENT: &str = "etcd-client";
    pub const ETCD_PEER_CA: &str = "peer-ca.crt";
    pub const CONTROLLER_MANAGER: &str = "controller-manager";
    pub const SCHEDULER: &str = "scheduler";
    pub const CLOUD_CONTROLLER_MANAGER: &str = "cloud-controller-manager";
    pub const CONTROL_CA: &str = "control-ca.crt";
    pub const SERVICE_ACCOUNT_KEY: &str = "sa.key";
    pub const SERVICE_ACCOUNT_PUBLIC: &str = "sa.pub";
    pub const KUBECONFIG: &str = "kubeconfig";
}
