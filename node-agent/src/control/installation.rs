//! The installation's public certificate authorities, in a ConfigMap that the operator keeps.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use std::time::Duration;

const NAME: &str = "nestling-installation-ca";
const CONTROL: &str = "control-ca.crt";
const KUBELET_CLIENTS: &str = "kubelet-client-ca.crt";
const CALL: Duration = Duration::from_secs(10);

/// PEM bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallationCas {
    /// What the operator's certificate chains to.
    pub control: Vec<u8>,
    /// What the certificates of tenants' apiservers, as clients of the kubelet API, chain to.
    pub kubelet_clients: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    #[error("cannot read the ConfigMap {namespace}/{NAME}")]
    Read {
        namespace: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot read the ConfigMap {namespace}/{NAME}: no answer within {CALL:?}")]
    Timeout { namespace: String },
    #[error("the ConfigMap {namespace}/{NAME} has no {key}")]
    Missing { namespace: String, key: &'static str },
}

pub(super) async fn read(host: &Client, namespace: &str) -> Result<InstallationCas, InstallationError> {
    let maps: Api<ConfigMap> = Api::namespaced(host.clone(), namespace);
    let map = match tokio::time::timeout(CALL, maps.get(NAME)).await {
        Ok(Ok(map)) => map,
        Ok(Err(source)) => return Err(InstallationError::Read { namespace: namespace.into(), source }),
        Err(_) => return Err(InstallationError::Timeout { namespace: namespace.into() }),
    };
    let mut data = map.data.unwrap_or_default();
    let mut take = |key: &'static str| {
        data.remove(key).map(String::into_bytes).ok_or_else(|| InstallationError::Missing { namespace: namespace.into(), key })
    };
    Ok(InstallationCas { control: take(CONTROL)?, kubelet_clients: take(KUBELET_CLIENTS)? })
}
