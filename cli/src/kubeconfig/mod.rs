//! `kubectl nestling kubeconfig`: from the Secret that the operator keeps to something that kubectl can use.
//!
//! `own.rs` makes the tenant's kubeconfig from Secret and status (pure), `merge.rs` puts it into another one (pure),
//! `file.rs` finds, reads and replaces files.

mod file;
mod merge;
mod own;

use crate::host::{Host, HostArgs};
use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use nestling_crds::v1alpha1::{KubeconfigRef, VirtualCluster, conditions};
use serde_json::Value;
use std::path::PathBuf;

#[derive(Args)]
pub struct KubeconfigArgs {
    /// Name of the VirtualCluster
    name: String,
    /// Add it to your kubeconfig (--kubeconfig, KUBECONFIG or ~/.kube/config) as context nestling-NAMESPACE-NAME
    #[arg(long, conflicts_with = "output")]
    merge: bool,
    /// URL of the tenant's API to use instead of the one in the VirtualCluster's status
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(host_args: &HostArgs, args: &KubeconfigArgs) -> Result<()> {
    let host = Host::connect(host_args).await?;
    let cluster = host.virtual_cluster(&args.name).await?;
    let Some(reference) = cluster.status.as_ref().and_then(|status| status.kubeconfig_ref.clone()) else { bail!(not_yet(&cluster, args)) };
    let text = secret_value(&host, &reference).await?;
    let endpoint = cluster.status.as_ref().and_then(|status| status.endpoint.as_deref());
    let context = own::context_name(&host.namespace, &args.name);
    let tenant = own::kubeconfig(&text, &context, args.server.as_deref().or(endpoint)).context("the Secret holds no usable kubeconfig")?;
    if args.merge {
        merge_into_own(host_args, &tenant, &context)
    } else if let Some(path) = &args.output {
        file::replace(path, &file::render(&tenant)?)
    } else {
        print!("{}", file::render(&tenant)?);
        Ok(())
    }
}

fn merge_into_own(host: &HostArgs, tenant: &Value, context: &str) -> Result<()> {
    let path = file::target(host.kubeconfig.as_deref(), context)?;
    let merged = merge::merge(file::read(&path)?, tenant).with_context(|| format!("cannot merge into {}", path.display()))?;
    file::replace(&path, &file::render(&merged)?)?;
    eprintln!("Context {context:?} written to {}. Use it with: kubectl --context {context} get nodes", path.display());
    Ok(())
}

async fn secret_value(host: &Host, reference: &KubeconfigRef) -> Result<String> {
    let api: Api<Secret> = Api::namespaced(host.client.clone(), &host.namespace);
    let what = || format!("key {:?} of Secret {}/{}", reference.key, host.namespace, reference.name);
    let secret = api.get(&reference.name).await.with_context(|| format!("cannot read {}", what()))?;
    let value = secret.data.unwrap_or_default().remove(&reference.key).with_context(|| format!("no {}", what()))?;
    String::from_utf8(value.0).with_context(|| format!("{} is not text", what()))
}

fn not_yet(cluster: &VirtualCluster, args: &KubeconfigArgs) -> String {
    let ready = cluster.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == conditions::READY);
    let why = ready.map_or_else(|| "the operator has not reported on it".to_owned(), |ready| ready.message.clone());
    format!("VirtualCluster {:?} has no kubeconfig yet: {why}", args.name)
}
