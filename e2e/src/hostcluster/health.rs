//! Asking the cluster itself how it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::{Api, Client, Config};

use super::addons::DEPLOYMENTS;
use super::topology::Node;

#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    #[error("cannot read the kubeconfig")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    #[error("cannot make a client")]
    Client(#[source] Box<kube::Error>),
    #[error("after {} s still waiting for: {waiting}", .after.as_secs())]
    Deadline { after: Duration, waiting: String },
}

/// A client for the kubeconfig file; every request ends within 20 seconds.
pub async fn client(kubeconfig: &Path) -> Result<Client, HealthError> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig).map_err(HealthError::Kubeconfig)?;
    let mut config =
        Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await.map_err(HealthError::Kubeconfig)?;
    config.connect_timeout = Some(Duration::from_secs(3));
    config.read_timeout = Some(Duration::from_secs(20));
    Client::try_from(config).map_err(|error| HealthError::Client(Box::new(error)))
}

/// Node names with whether each is Ready.
pub async fn nodes(client: &Client) -> Result<BTreeMap<String, bool>, kube::Error> {
    let list = Api::<NodeObject>::all(client.clone()).list(&kube::api::ListParams::default()).await?;
    Ok(list.items.into_iter().map(|node| (node.metadata.name.clone().unwrap_or_default(), is_ready(&node))).collect())
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

/// What a healthy cluster of these nodes still lacks, in words; empty when nothing.
pub async fn lacking(client: &Client, expected: &[Node]) -> Vec<String> {
    let ready = match nodes(client).await {
        Ok(ready) => ready,
        Err(error) => return vec![format!("the apiserver ({})", short(&error))],
    };
    let mut lacking: Vec<String> = expected
        .iter()
        .map(|node| node.name())
        .filter(|name| !ready.get(name).copied().unwrap_or(false))
        .map(|name| format!("node {name}"))
        .collect();
    for (namespace, name) in DEPLOYMENTS {
        let found = Api::<Deployment>::namespaced(client.clone(), namespace).get_opt(name).await.ok().flatten();
        // One replica that serves is enough: a spread rule may wait for a node that a test has taken away.
        if found.and_then(|deployment| deployment.status).and_then(|status| status.ready_replicas).unwrap_or(0) == 0 {
            lacking.push(format!("deployment {namespace}/{name}"));
        }
    }
    if !matches!(Api::<ServiceAccount>::namespaced(client.clone(), "default").get_opt("default").await, Ok(Some(_))) {
        lacking.push("serviceaccount default/default".to_owned());
    }
    lacking
}

fn short(error: &kube::Error) -> String {
    error.to_string().chars().take(80).collect()
}

/// Waits until nothing is lacking.
pub async fn wait(client: &Client, expected: &[Node], within: Duration) -> Result<(), HealthError> {
    let started = Instant::now();
    loop {
        let missing = lacking(client, expected).await;
        if missing.is_empty() {
            return Ok(());
        }
        if started.elapsed() > within {
            return Err(HealthError::Deadline { after: within, waiting: missing.join(", ") });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the apiserver says that it is ready.
pub async fn wait_for_apiserver(client: &Client, within: Duration) -> Result<(), HealthError> {
    let started = Instant::now();
    loop {
        let request = http::Request::get("/readyz").body(Vec::new());
        if let Ok(request) = request
            && let Ok(text) = client.request_text(request).await
            && text == "ok"
        {
            return Ok(());
        }
        if started.elapsed() > within {
            return Err(HealthError::Deadline { after: within, waiting: "the apiserver".to_owned() });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
