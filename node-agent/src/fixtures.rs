//! What the tests of several folders need: a tenant, and a certificate authority.

use crate::tenant::{PodStores, StoreWriters, Tenant, TenantSpec};
use kube::Client;
use nestling_crds::names::{NodeName, TenantUid, WorkloadNamespace};
use nestling_runtime::tls::Certificate;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const NODE: &str = "worker-7";

/// Tests that depend on a field set it themselves: `TenantSpec { cluster_domain: …, ..tenant_spec() }`.
pub(crate) fn tenant_spec() -> TenantSpec {
    TenantSpec {
        uid: TenantUid::new("tenant-uid"),
        namespace: "team-a".into(),
        name: "dev".into(),
        workload_namespace: WorkloadNamespace::from_made("team-a-dev-x"),
        endpoint: "https://127.0.0.1:6443".into(),
        ca_bundle: Vec::new(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        dns_address: "10.96.0.10".parse().unwrap(),
        kubernetes_address: "10.96.0.1".parse().unwrap(),
        cluster_domain: "cluster.local".into(),
        version: "v1.37.2".into(),
        capacity: BTreeMap::new(),
        node_labels: BTreeMap::new(),
        draining: false,
        hibernated: false,
        resumed_at: None,
    }
}

/// A tenant whose three clients are `client`, with empty stores.
pub(crate) fn tenant_with(spec: TenantSpec, client: &Client) -> (Arc<Tenant>, StoreWriters) {
    let (stores, writers) = PodStores::new();
    let (kubelet, proxy, host) = (client.clone(), client.clone(), client.clone());
    (Arc::new(Tenant { spec, node: NodeName::new(NODE), kubelet, proxy, host, stores }), writers)
}

/// A tenant whose APIs must not be called, with empty stores. Needs a Tokio runtime.
pub(crate) fn tenant() -> (Arc<Tenant>, StoreWriters) {
    let uncalled = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other(format!("unexpected call of {}", request.uri())))
    });
    tenant_with(tenant_spec(), &Client::new(uncalled, "default"))
}

/// A certificate authority.
pub(crate) struct Ca(pub(crate) CertifiedIssuer<'static, KeyPair>);

/// A key and its certificate.
pub(crate) struct Pair {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    pub(crate) fn sign(&self, mut params: CertificateParams, common_name: &str) -> Pair {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }
}

impl Pair {
    pub(crate) fn install(&self) -> Certificate {
        Certificate::from_pem(self.certificate.pem().as_bytes(), self.key.serialize_pem().as_bytes()).unwrap()
    }
}
