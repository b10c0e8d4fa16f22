//! Access to the host cluster, with kubectl's own flags.

use anyhow::{Context, Result, bail};
use clap::Args;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use nestling_crds::v1alpha1::VirtualCluster;
use std::{path::PathBuf, time::Duration};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Flags that every verb takes.
#[derive(Args)]
pub(crate) struct HostArgs {
    /// Path to the kubeconfig of the host cluster
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use
    #[arg(long, global = true)]
    context: Option<String>,
    /// Namespace of the VirtualCluster; default: that of the context
    #[arg(short, long, global = true)]
    namespace: Option<String>,
}

/// The host cluster, and the namespace of the command.
pub(crate) struct Host {
    pub client: Client,
    pub namespace: String,
}

impl Host {
    pub(crate) async fn connect(args: &HostArgs) -> Result<Self> {
        // The process-wide provider may be set once; a second attempt (in tests) changes nothing.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let mut config = config(args).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("cannot make a client for the host cluster")?;
        Ok(Self { client, namespace })
    }

    /// The `VirtualCluster` of that name, or an error that names what is missing.
    pub(crate) async fn virtual_cluster(&self, name: &str) -> Result<VirtualCluster> {
        let api: Api<VirtualCluster> = Api::namespaced(self.client.clone(), &self.namespace);
        match api.get(name).await {
            Ok(cluster) => Ok(cluster),
            Err(error) => Err(self.explain(error, name)),
        }
    }

    fn explain(&self, error: kube::Error, name: &str) -> anyhow::Error {
        if is_api_missing(&error) {
            anyhow::anyhow!(NOT_INSTALLED)
        } else if matches!(&error, kube::Error::Api(status) if status.is_not_found()) {
            anyhow::anyhow!("VirtualCluster {name:?} not found in namespace {:?}", self.namespace)
        } else {
            anyhow::Error::new(error).context(format!("cannot read VirtualCluster {}/{name}", self.namespace))
        }
    }
}

/// The error when the host does not serve the API.
pub(crate) const NOT_INSTALLED: &str = "this cluster has no VirtualClusters (nestling.dev/v1alpha1): Nestling is not installed in it, \
                                 or the kubeconfig points at another cluster, e.g. a tenant";

/// An apiserver answers 404 with details for a missing object, and without a name in them for a missing API.
pub(crate) fn is_api_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() && status.details.as_ref().is_none_or(|details| details.name.is_empty()))
}

async fn config(args: &HostArgs) -> Result<Config> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &args.kubeconfig {
        let file = Kubeconfig::read_from(path).with_context(|| format!("cannot read kubeconfig {}", path.display()))?;
        return Config::from_custom_kubeconfig(file, &options).await.with_context(|| format!("cannot use kubeconfig {}", path.display()));
    }
    match Kubeconfig::read() {
        Ok(file) => Config::from_custom_kubeconfig(file, &options).await.context("cannot use the kubeconfig"),
        Err(error) if args.context.is_some() => Err(error).context("cannot read the kubeconfig"),
        Err(error) => match Config::incluster() {
            Ok(config) => Ok(config),
            Err(_) => bail!(anyhow::Error::new(error).context("cannot read the kubeconfig (set KUBECONFIG or --kubeconfig)")),
        },
    }
}
