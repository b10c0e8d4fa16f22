//! A client of the tenant from a kubeconfig file.

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot read the kubeconfig {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: KubeconfigError,
    },
    #[error("the kubeconfig {} makes no client", path.display())]
    Client {
        path: PathBuf,
        #[source]
        source: kube::Error,
    },
}

/// `retry` lets the client repeat what an overloaded server turned away.
pub async fn client(path: &Path, retry: bool) -> Result<Client, ClientError> {
    let read = |source| ClientError::Read { path: path.into(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(read)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(read)?;
    config.connect_timeout = Some(CONNECT);
    config.default_retry = retry;
    Client::try_from(config).map_err(|source| ClientError::Client { path: path.into(), source })
}
