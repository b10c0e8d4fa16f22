//! `kubectl nestling kubeconfig`: makes a kubeconfig that kubectl can use from the Secret that the operator keeps.

use crate::host::{Host, HostArgs};
use crate::kubeconfig_file as file;
use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use nestling_crds::v1alpha1::{KubeconfigRef, VirtualCluster, conditions};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct KubeconfigArgs {
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

pub(crate) async fn run(host_args: &HostArgs, args: &KubeconfigArgs) -> Result<()> {
    let host = Host::connect(host_args).await?;
    let cluster = host.virtual_cluster(&args.name).await?;
    let Some(reference) = cluster.status.as_ref().and_then(|status| status.kubeconfig_ref.clone()) else { bail!(not_yet(&cluster, args)) };
    let text = secret_value(&host, &reference).await?;
    let endpoint = cluster.status.as_ref().and_then(|status| status.endpoint.as_deref());
    let context = context_name(&host.namespace, &args.name);
    let tenant = renamed(&text, &context, args.server.as_deref().or(endpoint)).context("the Secret holds no usable kubeconfig")?;
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
    let merged = file::merge(file::read(&path)?, tenant).with_context(|| format!("cannot merge into {}", path.display()))?;
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

/// Name of context, cluster and user.
fn context_name(namespace: &str, name: &str) -> String {
    format!("nestling-{namespace}-{name}")
}

/// The kubeconfig of the Secret with everything named `name`, and with `server` where one is given. Its own context decides
/// which cluster and user are meant.
fn renamed(text: &str, name: &str, server: Option<&str>) -> Result<Value> {
    let file: Value = serde_saphyr::from_str(text).context("not YAML")?;
    let current = file["current-context"].as_str().context("no current-context")?;
    let context = find(&file, "contexts", current, "context")?;
    let mut cluster = find(&file, "clusters", context["cluster"].as_str().unwrap_or_default(), "cluster")?.clone();
    let user = find(&file, "users", context["user"].as_str().unwrap_or_default(), "user")?;
    if let Some(server) = server {
        cluster["server"] = json!(server);
    }
    if !cluster["server"].is_string() {
        bail!("no server");
    }
    let mut context = context.clone();
    context["cluster"] = json!(name);
    context["user"] = json!(name);
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }))
}

fn find<'a>(file: &'a Value, list: &str, name: &str, key: &str) -> Result<&'a Value> {
    let entries = file[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let entry = entries.iter().find(|entry| entry["name"] == name).with_context(|| format!("no {key} {name:?}"))?;
    Ok(&entry[key])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "
apiVersion: v1
kind: Config
current-context: admin@dev
contexts: [{name: admin@dev, context: {cluster: dev, user: admin, namespace: default}}]
clusters: [{name: dev, cluster: {server: 'https://dev-apiserver.team-a.svc:443', certificate-authority-data: Q0E=}}]
users: [{name: admin, user: {client-certificate-data: Qw==, client-key-data: Sw==}}]
";

    #[test]
    fn entries_get_the_name_of_the_context_and_the_given_server() {
        let made = renamed(SECRET, "nestling-team-a-dev", Some("https://198.51.100.1:443")).unwrap();
        insta::assert_snapshot!(file::render(&made).unwrap(), @r#"
        apiVersion: v1
        clusters:
        - cluster:
            certificate-authority-data: Q0E=
            server: https://198.51.100.1:443
          name: nestling-team-a-dev
        contexts:
        - context:
            cluster: nestling-team-a-dev
            namespace: default
            user: nestling-team-a-dev
          name: nestling-team-a-dev
        current-context: nestling-team-a-dev
        kind: Config
        users:
        - name: nestling-team-a-dev
          user:
            client-certificate-data: Qw==
            client-key-data: Sw==
        "#);
    }

    #[test]
    fn without_an_endpoint_the_secrets_server_stays() {
        let made = renamed(SECRET, "x", None).unwrap();
        assert_eq!(made["clusters"][0]["cluster"]["server"], "https://dev-apiserver.team-a.svc:443");
    }

    #[test]
    fn a_broken_secret_says_what_is_missing() {
        assert_eq!(renamed("current-context: a", "x", None).unwrap_err().to_string(), "no context \"a\"");
        assert_eq!(renamed("{}", "x", None).unwrap_err().to_string(), "no current-context");
    }
}
