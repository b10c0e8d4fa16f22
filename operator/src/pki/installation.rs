//! Authorities of the installation, held by the operator alone: no tenant's administrator can make anything sign with them.

use crate::model::San;
use crate::pki::authority::{Authority, Identity, PkiError, Values, identity, pair};
use crate::pki::leaf::{LeafSpec, Usage};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nestling_crds::labels;
use std::collections::BTreeMap;

/// Name of the Secret with the keys and of the ConfigMap with the public parts.
pub const NAME: &str = "nestling-installation-ca";

const CONTROL: &str = "control-ca";
const NODE_SERVING: &str = "node-serving-ca";
const KUBELET_CLIENT: &str = "kubelet-client-ca";

/// The three authorities.
#[derive(Clone, Debug)]
pub struct InstallationCas {
    /// Signs the serving certificate of the control API.
    pub(super) control: Authority,
    /// Signs the serving certificates of the agents' kubelet API; every tenant's kube-apiserver trusts it.
    pub(super) node_serving: Authority,
    /// Signs the client certificates with which tenants' kube-apiservers come to agents; agents trust nothing else.
    pub(super) kubelet_client: Authority,
}

/// New authorities.
pub fn generate(now: Timestamp, ca_lifetime: SignedDuration) -> Result<InstallationCas, PkiError> {
    let authority = |stem: &str| Authority::generate(&format!("nestling-{stem}"), now, ca_lifetime);
    Ok(InstallationCas { control: authority(CONTROL)?, node_serving: authority(NODE_SERVING)?, kubelet_client: authority(KUBELET_CLIENT)? })
}

impl InstallationCas {
    /// Reads what [`InstallationCas::to_secret`] wrote.
    pub fn from_secret(secret: &Secret) -> Result<Self, PkiError> {
        let authority = |stem: &str| {
            pair(Some(secret), stem).and_then(Authority::from_pem).ok_or_else(|| PkiError::UnusableAuthority {
                secret: secret.metadata.name.clone().unwrap_or_default(),
                authority: stem.to_owned(),
            })
        };
        Ok(Self { control: authority(CONTROL)?, node_serving: authority(NODE_SERVING)?, kubelet_client: authority(KUBELET_CLIENT)? })
    }

    fn by_stem(&self) -> [(&'static str, &Authority); 3] {
        [(CONTROL, &self.control), (NODE_SERVING, &self.node_serving), (KUBELET_CLIENT, &self.kubelet_client)]
    }

    pub fn to_secret(&self, namespace: &str) -> Secret {
        let mut values = Values::default();
        for (stem, authority) in self.by_stem() {
            values.put_pair(stem, authority.pair.clone());
        }
        Secret { metadata: metadata(namespace), type_: Some("Opaque".to_owned()), data: Some(values.into_data()), ..Secret::default() }
    }

    /// The public parts, for agents: `control-ca.crt`, `node-serving-ca.crt`, `kubelet-client-ca.crt`.
    pub fn to_config_map(&self, namespace: &str) -> ConfigMap {
        let data = self.by_stem().map(|(stem, authority)| (format!("{stem}.crt"), authority.certificate().to_owned()));
        ConfigMap { metadata: metadata(namespace), data: Some(data.into_iter().collect()), ..ConfigMap::default() }
    }

    /// Serving certificate of the control API.
    pub fn control_server(&self, dns_names: &[String], now: Timestamp, lifetime: SignedDuration) -> Result<Identity, PkiError> {
        let spec = LeafSpec::server("nestling-control-api", Usage::Server, dns_names.iter().cloned().map(San::Dns));
        identity(&self.control, &spec, now, lifetime)
    }

    /// PEM of the authority that the control API is verified with.
    pub fn control_ca(&self) -> &str {
        self.control.certificate()
    }

    /// PEM of the authority that the agents' kubelet API is verified with.
    pub fn node_serving_ca(&self) -> &str {
        self.node_serving.certificate()
    }

    /// PEM of the authority of kubelet clients.
    pub fn kubelet_client_ca(&self) -> &str {
        self.kubelet_client.certificate()
    }
}

fn metadata(namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([(labels::MANAGED_BY.to_owned(), labels::OPERATOR.to_owned())])),
        ..ObjectMeta::default()
    }
}
