//! Certificates for agents: the subject follows from the caller's node; of the request only the public key counts.

use super::snapshot::TenantSnapshot;
use crate::model::HostNode;
use crate::model::names;
use crate::pki::installation::InstallationCas;
use crate::pki::sign::{self, SignError, Signed};
use crate::state::State;
use jiff::{SignedDuration, Timestamp};
use nestling_control_api::v1alpha1::{CertificateKind, SignRequest};
use nestling_crds::names::{NodeName, TenantUid};
use std::net::IpAddr;
use tonic::{Code, Status};

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("unknown certificate kind {0}")]
    Kind(i32),
    #[error("the host has no node {0} (yet)")]
    Node(NodeName),
    #[error("node {0} has no address (yet)")]
    Address(NodeName),
    #[error("node {node} does not serve tenant {tenant}")]
    Tenant { node: NodeName, tenant: TenantUid },
    #[error("the tenant's CA cannot be read")]
    Authority(#[source] kube::Error),
    #[error("the tenant has no CA (yet)")]
    NoAuthority,
    #[error(transparent)]
    Sign(SignError),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Kind(_) | Refusal::Sign(SignError::Request(_)) => Code::InvalidArgument,
            Refusal::Tenant { .. } => Code::PermissionDenied,
            Refusal::Node(_) | Refusal::Address(_) | Refusal::NoAuthority => Code::FailedPrecondition,
            Refusal::Authority(_) => Code::Unavailable,
            Refusal::Sign(SignError::Authority(_)) => Code::Internal,
        };
        Self::new(code, refusal.to_string())
    }
}

/// What signing needs besides the request.
pub(super) struct Signer<'a> {
    pub(super) snapshot: &'a TenantSnapshot,
    pub(super) state: &'a State,
    pub(super) installation: &'a InstallationCas,
    pub(super) lifetime: SignedDuration,
}

impl Signer<'_> {
    /// Signs for the agent of `node`.
    pub(super) async fn sign(&self, node: &NodeName, request: &SignRequest, now: Timestamp) -> Result<Signed, Refusal> {
        let host = self.snapshot.nodes.get(node).ok_or_else(|| Refusal::Node(node.clone()))?;
        let (csr, lifetime) = (request.csr_der.as_slice(), self.lifetime);
        let signed = match request.kind() {
            CertificateKind::Unspecified => return Err(Refusal::Kind(request.kind)),
            CertificateKind::KubeletServing => {
                let addresses = addresses(host);
                if addresses.is_empty() {
                    return Err(Refusal::Address(node.clone()));
                }
                sign::kubelet_serving(self.installation, node, &addresses, csr, now, lifetime)
            }
            kind @ (CertificateKind::Kubelet | CertificateKind::Proxy) => {
                let tenant = TenantUid::new(&request.tenant_uid);
                let assignment = self.snapshot.tenants.get(&tenant).filter(|assignment| assignment.is_on(host));
                let assignment = assignment.ok_or_else(|| Refusal::Tenant { node: node.clone(), tenant: tenant.clone() })?;
                let (namespace, name) = (&assignment.tenant.namespace, &assignment.tenant.name);
                let ca = self.state.secret(&tenant, namespace, &names::ca(name)).await.map_err(Refusal::Authority)?;
                let ca = ca.ok_or(Refusal::NoAuthority)?;
                match kind {
                    CertificateKind::Kubelet => sign::kubelet(&ca, node, csr, now, lifetime),
                    _ => sign::proxy(&ca, node, csr, now, lifetime),
                }
            }
        };
        signed.map_err(Refusal::Sign)
    }
}

/// The addresses by which tenants' apiservers reach the node's kubelet API.
fn addresses(node: &HostNode) -> Vec<IpAddr> {
    let reachable = node.addresses.iter().filter(|address| address.type_ == "InternalIP" || address.type_ == "ExternalIP");
    reachable.filter_map(|address| address.address.parse().ok()).collect()
}
