//! The agent's side of the operator's control API: which tenants this node serves, and the certificates to serve them with.
//!
//! [`Operator`] reads the installation's certificate authorities from the host API, which has them in a ConfigMap that the
//! operator keeps, and connects with them; [`watch`](mod@watch) follows the stream of tenants and sends [`Change`]s;
//! [`certificates`] gets certificates signed and renewed. While the operator is unavailable, the last known tenants stay.

pub(crate) mod certificates;
pub(crate) mod watch;

#[cfg(test)]
mod tests;

pub(crate) use watch::Change;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use nestling_control_api::consts::{CONTROL_CA, INSTALLATION_CA, KUBELET_CLIENT_CA};
use nestling_runtime::control::{Control, ControlArgs, ControlError};
use nestling_runtime::kube::call;
use std::sync::Arc;
use tokio::sync::watch as value;

/// PEM bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InstallationCas {
    /// What the operator's certificate chains to.
    pub control: Vec<u8>,
    /// What the certificates of tenants' apiservers, as clients of the kubelet API, chain to.
    pub kubelet_clients: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OperatorError {
    #[error("cannot read the ConfigMap {namespace}/{INSTALLATION_CA}")]
    ReadCas {
        namespace: String,
        #[source]
        source: kube::Error,
    },
    #[error("the ConfigMap {namespace}/{INSTALLATION_CA} has no {key}")]
    MissingCa { namespace: String, key: &'static str },
    #[error("cannot call the operator")]
    Control(#[from] ControlError),
}

/// Clones share one connection.
#[derive(Clone)]
pub(crate) struct Operator(Arc<Inner>);

struct Inner {
    host: Client,
    namespace: String,
    args: ControlArgs,
    /// The connection, and the authorities it was made with.
    current: value::Sender<Option<(Control, InstallationCas)>>,
}

impl Operator {
    /// `namespace` is the one that Nestling is installed in.
    pub(crate) fn new(host: Client, namespace: &str, args: ControlArgs) -> Self {
        let current = value::channel(None).0;
        Self(Arc::new(Inner { host, namespace: namespace.into(), args, current }))
    }

    /// The connection; it is made if there is none yet.
    pub(crate) async fn control(&self) -> Result<Control, OperatorError> {
        let current = self.0.current.borrow().as_ref().map(|(control, _)| control.clone());
        match current {
            Some(control) => Ok(control),
            None => self.reconnect().await,
        }
    }

    /// Reads the authorities again and connects with them: they may be why the last connection broke.
    pub(crate) async fn reconnect(&self) -> Result<Control, OperatorError> {
        let cas = read_cas(&self.0.host, &self.0.namespace).await?;
        let control = Control::new(&self.0.args, &cas.control)?;
        self.0.current.send_replace(Some((control.clone(), cas)));
        Ok(control)
    }

    /// The authorities as they were last read; waits for a change from `seen`.
    pub(crate) async fn changed_cas(&self, seen: Option<&InstallationCas>) -> InstallationCas {
        let mut current = self.0.current.subscribe();
        loop {
            if let Some((_, cas)) = current.borrow_and_update().as_ref().filter(|(_, cas)| Some(cas) != seen) {
                return cas.clone();
            }
            if current.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn read_cas(host: &Client, namespace: &str) -> Result<InstallationCas, OperatorError> {
    let maps: Api<ConfigMap> = Api::namespaced(host.clone(), namespace);
    let failed = |source| OperatorError::ReadCas { namespace: namespace.into(), source };
    let mut data = call(maps.get(INSTALLATION_CA)).await.map_err(failed)?.data.unwrap_or_default();
    let mut take = |key: &'static str| {
        data.remove(key).map(String::into_bytes).ok_or_else(|| OperatorError::MissingCa { namespace: namespace.into(), key })
    };
    Ok(InstallationCas { control: take(CONTROL_CA)?, kubelet_clients: take(KUBELET_CLIENT_CA)? })
}
