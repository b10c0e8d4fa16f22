//! Fields that are part of the API before their behaviour is. Each check goes when its field works.

use super::problems::Problems;
use nestling_crds::v1alpha1::{Backup, EtcdEndpoint, ExposeType, NodePorts, Raw};

pub(super) fn replicas(replicas: i32, problems: &mut Problems) {
    match replicas {
        1 => {}
        0 => problems.add("spec.controlPlane.replicas", "0 (stopping the control plane) is not supported yet; use 1"),
        _ => problems.add("spec.controlPlane.replicas", "more than one replica is not supported yet; use 1"),
    }
}

pub(super) fn members(replicas: i32, problems: &mut Problems) {
    if replicas != 1 {
        problems.add("spec.etcd.replicas", "more than one member is not supported yet; use 1");
    }
}

pub(super) fn hibernate(hibernate: bool, problems: &mut Problems) {
    if hibernate {
        problems.add("spec.hibernate", "is not supported yet; use spec.paused to stop reconciling");
    }
}

pub(super) fn etcd_endpoints(endpoints: &[EtcdEndpoint], problems: &mut Problems) {
    if !endpoints.is_empty() {
        problems.add("spec.etcd.endpoints", "is not supported yet; leave it empty and Nestling runs etcd");
    }
}

pub(super) fn backup(backup: &Backup, problems: &mut Problems) {
    let Backup { schedule, retention: _, destination } = backup;
    if !schedule.is_empty() || destination.is_some() {
        problems.add("spec.etcd.backup", "is not supported yet; snapshot the etcd volumes with your host's tools");
    }
}

pub(super) fn node_ports(node_ports: NodePorts, problems: &mut Problems) {
    if node_ports == NodePorts::External {
        problems.add("spec.network.nodePorts", "External is not supported yet; use Internal");
    }
}

pub(super) fn expose_type(type_: ExposeType, problems: &mut Problems) {
    if type_ == ExposeType::Gateway {
        problems.add("spec.expose.type", "Gateway is not supported yet; use LoadBalancer, NodePort or ClusterIP");
    }
}

pub(super) fn static_pods(manifests: &[Raw], problems: &mut Problems) {
    if !manifests.is_empty() {
        problems.add("spec.nodes.staticPods", "is not supported yet; use a DaemonSet in the tenant");
    }
}

pub(super) fn authorization(config: Option<&Raw>, problems: &mut Problems) {
    if config.is_some() {
        problems.add("spec.controlPlane.apiServer.authorization", "is not supported yet; Node and RBAC are always on");
    }
}
