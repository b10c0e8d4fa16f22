//! Names of the objects of a cluster, all in the namespace of the `VirtualCluster` unless they say otherwise.

use crate::reconcile::validate::ValidatedCluster;
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
