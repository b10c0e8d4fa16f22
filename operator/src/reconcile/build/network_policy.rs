//! `NetworkPolicies` of the control plane, in the cluster's namespace. They hold on hosts whose network enforces them.
//!
//! Into it: the API from anywhere (it authenticates; agents come from host nodes, which no pod selector names), etcd from
//! the tenant's own control plane alone, the controllers from nobody. The kubelet's probes come from the pod's own node,
//! which NetworkPolicy does not restrict.
//!
//! Out of it, because a tenant's admin makes its apiserver and controllers call whatever a webhook, an `APIService` or an
//! issuer names: the control plane itself, the tenant's pods, DNS, agents, the control API, and public addresses. Private
//! ranges and the link-local metadata address are out of reach; who needs one (an issuer on the company network) adds a
//! NetworkPolicy beside this one, since policies add up.

use crate::model::metadata::component;
use crate::model::{ValidatedCluster, metadata, names};
use crate::reconcile::build::{apiserver, etcd};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nestling_control_api::consts;
use nestling_crds::labels;
use nestling_crds::v1alpha1::Topology;

/// Label that every namespace carries (`NamespaceDefaultLabelName`).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
const DNS_PORT: i32 = 53;
/// RFC 1918, carrier-grade NAT, loopback and link-local with the clouds' metadata services.
const PRIVATE: [&str; 6] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"];

pub(super) fn network_policies(cluster: &ValidatedCluster) -> Vec<NetworkPolicy> {
    let vc = cluster.name.as_str();
    let api = NetworkPolicyIngressRule { ports: Some(vec![tcp(apiserver::PORT)]), from: None };
    let etcd = NetworkPolicyIngressRule {
        ports: Some(vec![tcp(etcd::CLIENT_PORT), tcp(etcd::PEER_PORT)]),
        from: Some(vec![own_control_plane(cluster)]),
    };
    // The operator asks members for their health, and makes room in full databases.
    let operator = NetworkPolicyIngressRule {
        ports: Some(vec![tcp(etcd::CLIENT_PORT), tcp(etcd::METRICS_PORT)]),
        from: Some(vec![in_namespace(&cluster.system_namespace)]),
    };
    let mut policies = vec![policy(cluster, names::controllers(vc), component::CONTROLLERS, Vec::new())];
    match cluster.topology {
        Topology::External => policies.extend([
            policy(cluster, names::etcd(vc), component::ETCD, vec![etcd, operator]),
            policy(cluster, names::apiserver(vc), component::APISERVER, vec![api]),
        ]),
        Topology::Stacked | Topology::SingleNode => {
            policies.push(policy(cluster, names::control_plane(vc), component::CONTROL_PLANE, vec![api, etcd, operator]));
        }
    }
    policies
}

fn policy(cluster: &ValidatedCluster, name: String, component: &str, ingress: Vec<NetworkPolicyIngressRule>) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata::owned(cluster, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(metadata::label_selector(cluster, component)),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            // An empty list would be left out of what is sent, and mean the same: nothing comes in.
            ingress: (!ingress.is_empty()).then_some(ingress),
            egress: Some(egress(cluster, component)),
        }),
    }
}

fn egress(cluster: &ValidatedCluster, part: &str) -> Vec<NetworkPolicyEgressRule> {
    let to = |peers, ports| NetworkPolicyEgressRule { to: peers, ports };
    let dns = to(None, Some(vec![tcp(DNS_PORT), port("UDP", DNS_PORT)]));
    let own = to(Some(vec![own_control_plane(cluster)]), None);
    match part {
        component::ETCD => vec![dns, own],
        component::CONTROLLERS => {
            let operator = to(Some(vec![in_namespace(&cluster.system_namespace)]), Some(vec![tcp(consts::CONTROL_PORT.into())]));
            vec![dns, own, operator]
        }
        _ => {
            let workload = to(Some(vec![in_namespace(cluster.workload_namespace.as_str())]), None);
            let agents = to(None, Some(vec![tcp(consts::KUBELET_PORT.into())]));
            let public = IPBlock { cidr: "0.0.0.0/0".to_owned(), except: Some(PRIVATE.map(ToOwned::to_owned).to_vec()) };
            let public = to(Some(vec![NetworkPolicyPeer { ip_block: Some(public), ..NetworkPolicyPeer::default() }]), None);
            vec![dns, own, workload, agents, public]
        }
    }
}

/// The tenant's own control-plane pods.
fn own_control_plane(cluster: &ValidatedCluster) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(control_plane_pods(cluster)), ..NetworkPolicyPeer::default() }
}

/// Every pod of the tenant's control plane, whichever the topology.
pub(super) fn control_plane_pods(cluster: &ValidatedCluster) -> LabelSelector {
    let parts = [component::CONTROL_PLANE, component::APISERVER, component::ETCD, component::CONTROLLERS];
    LabelSelector {
        match_labels: Some(metadata::strings([(labels::TENANT, cluster.uid.as_str())])),
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: labels::COMPONENT.to_owned(),
            operator: "In".to_owned(),
            values: Some(parts.map(ToOwned::to_owned).to_vec()),
        }]),
    }
}

/// Every pod of a namespace.
pub(super) fn in_namespace(name: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer { namespace_selector: Some(by_name(name)), ..NetworkPolicyPeer::default() }
}

pub(super) fn by_name(name: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(metadata::strings([(NAMESPACE_NAME, name)])), ..LabelSelector::default() }
}

fn tcp(number: i32) -> NetworkPolicyPort {
    port("TCP", number)
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.to_owned()), port: Some(IntOrString::Int(number)), end_port: None }
}
