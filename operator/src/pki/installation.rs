//! Authorities of the installation, held by the operator alone.

use super::{ClientIdentity, PkiError};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

/// Name of the Secret with the keys and of the ConfigMap with the public parts.
pub const NAME: &str = "nestling-installation-ca";

/// The three authorities: control API, serving certificates of nodes, kubelet clients.
#[derive(Debug)]
pub struct InstallationCas {}

/// New authorities.
pub fn generate(_now: Timestamp, _ca_lifetime: SignedDuration) -> Result<InstallationCas, PkiError> {
    todo!()
}

impl InstallationCas {
    pub fn from_secret(_secret: &Secret) -> Result<Self, PkiError> {
        todo!()
    }

    pub fn to_secret(&self, _namespace: &str) -> Secret {
        todo!()
    }

    /// The public parts, for agents.
    pub fn to_config_map(&self, _namespace: &str) -> ConfigMap {
        todo!()
    }

    /// Serving certificate of the control API.
    pub fn control_server(&self, _dns_names: &[String], _now: Timestamp, _lifetime: SignedDuration) -> Result<ClientIdentity, PkiError> {
        todo!()
    }
}
