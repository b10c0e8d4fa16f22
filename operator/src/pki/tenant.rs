//! The authorities and certificates of a tenant: who signs them, and in which Secret they are stored under which key.

use crate::model::{Endpoint, San, ValidatedCluster, names};
use crate::model::{FRONT_PROXY_CLIENT, keys};
use crate::pki::authority::{Authority, PkiError, pair};
use crate::pki::leaf::{LeafSpec, Usage};
use k8s_openapi::api::core::v1::Secret;
use nestling_control_api::consts;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The Secrets of a cluster's PKI: what `plan` wants to see of what exists.
pub(crate) fn secret_names(cluster: &str) -> [String; 6] {
    [
        names::ca(cluster),
        names::service_account_keys(cluster),
        names::apiserver_certs(cluster),
        names::etcd_certs(cluster),
        names::controllers_certs(cluster),
        names::admin_kubeconfig(cluster),
    ]
}

/// An authority of the tenant: its keys `<stem>.crt` and `<stem>.key` in `<vc>-ca`, and its subject.
#[derive(Clone, Copy, Debug)]
pub(super) struct AuthorityKind {
    pub stem: &'static str,
    pub common_name: &'static str,
}

pub(super) const CLUSTER: AuthorityKind = AuthorityKind { stem: "ca", common_name: "kubernetes" };
pub(super) const FRONT_PROXY: AuthorityKind = AuthorityKind { stem: "front-proxy-ca", common_name: "front-proxy-ca" };
pub(super) const ETCD: AuthorityKind = AuthorityKind { stem: "etcd-ca", common_name: "etcd-ca" };
/// Apart from [`ETCD`], so that no client of etcd can pass for a member.
pub(super) const ETCD_PEER: AuthorityKind = AuthorityKind { stem: "etcd-peer-ca", common_name: "etcd-peer-ca" };

/// The cluster CA out of the `<vc>-ca` Secret.
pub(super) fn cluster_authority(ca: &Secret) -> Result<Authority, PkiError> {
    authority(ca, CLUSTER)
}

/// An authority out of the `<vc>-ca` Secret.
pub(super) fn authority(ca: &Secret, kind: AuthorityKind) -> Result<Authority, PkiError> {
    pair(Some(ca), kind.stem).and_then(Authority::from_pem).ok_or_else(|| PkiError::UnusableAuthority {
        secret: ca.metadata.name.clone().unwrap_or_default(),
        authority: kind.stem.to_owned(),
    })
}

/// Serving certificate of kube-apiserver: as kubeadm's, and every name under which the host reaches it.
pub(super) fn apiserver(cluster: &ValidatedCluster, endpoint: &Endpoint) -> LeafSpec {
    let service = names::apiserver(&cluster.name);
    let dns = [
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{}", cluster.cluster_domain),
        "localhost".to_owned(),
        service.clone(),
        format!("{service}.{}", cluster.namespace),
        format!("{service}.{}.svc", cluster.namespace),
    ];
    let addresses = [cluster.kubernetes_address, endpoint.service_ip, IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let sans = dns.into_iter().map(San::Dns).chain(addresses.into_iter().map(San::Ip));
    let further = endpoint.sans.iter().chain(&cluster.api_server.cert_sans).cloned();
    LeafSpec::server("kube-apiserver", Usage::Server, sans.chain(further))
}

/// Client of the node agents' kubelet API. They trust the installation's authority alone; the URI names the tenant.
pub(super) fn kubelet_client(cluster: &ValidatedCluster) -> LeafSpec {
    let mut spec = LeafSpec::client("kube-apiserver-kubelet-client", None);
    spec.sans.insert(San::Uri(format!("{}{}", consts::TENANT_URI, cluster.uid)));
    spec
}

pub(super) fn front_proxy_client() -> LeafSpec {
    LeafSpec::client(FRONT_PROXY_CLIENT, None)
}

/// A client of etcd. Any client is all-powerful there; the name is for etcd's log.
pub(super) fn etcd_client() -> LeafSpec {
    LeafSpec::client("kube-apiserver-etcd-client", None)
}

pub(super) fn etcd_server(cluster: &ValidatedCluster, member: &str) -> LeafSpec {
    let sans = [
        San::Dns("localhost".to_owned()),
        San::Dns(names::member_host(&cluster.namespace, member)),
        San::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        San::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    LeafSpec::server(member, Usage::ServerAndClient, sans)
}

pub(super) fn etcd_peer(cluster: &ValidatedCluster, member: &str) -> LeafSpec {
    LeafSpec::server(member, Usage::ServerAndClient, [San::Dns(names::member_host(&cluster.namespace, member))])
}

/// Identities of the controllers, by their stem in `<vc>-controllers-certs`.
pub(super) fn controllers() -> [(&'static str, LeafSpec); 3] {
    [
        (keys::CONTROLLER_MANAGER, LeafSpec::client("system:kube-controller-manager", None)),
        (keys::SCHEDULER, LeafSpec::client("system:kube-scheduler", None)),
        (keys::CLOUD_CONTROLLER_MANAGER, LeafSpec::client("system:cloud-controller-manager", None)),
    ]
}

/// The tenant's admin: its rights come from a `ClusterRoleBinding` of this group, as with kubeadm, so they can be taken back.
pub(super) fn admin() -> LeafSpec {
    LeafSpec::client("kubernetes-admin", Some("kubeadm:cluster-admins"))
}
