//! What a healthy cluster has, beside running units: Node objects with their pod ranges, DNS, and a default StorageClass.
//! [`apply_addons`] creates them, [`wait`] waits for them, [`report`] prints what there is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::command::{CommandError, Run};
use crate::programs::{Versions, VersionsError};
use crate::topology::{CONTROL, DNS_SERVICE, Node, REGION};
use crate::unit;
use crate::workdir::{Phase, State, WorkDir};

const COREDNS: &str = include_str!("../manifests/coredns.yaml");
const STORAGE: &str = include_str!("../manifests/local-path-provisioner.yaml");
const FIELD_MANAGER: &str = "nestling-hostcluster";

/// Deployments that a healthy cluster has, by namespace and name.
const DEPLOYMENTS: [(&str, &str); 2] = [("kube-system", "coredns"), ("local-path-storage", "local-path-provisioner")];

#[derive(Debug, thiserror::Error)]
pub(crate) enum AddonError {
    #[error("cannot find an image")]
    Image(#[from] VersionsError),
    #[error("cannot apply the cluster's own objects")]
    Apply(#[source] CommandError),
}

/// Server-side applies everything, up to 30 times half a second apart: an apiserver that has just started refuses some of it.
pub(crate) async fn apply_addons(kubectl: &Path, kubeconfig: &Path, versions: &Versions, nodes: &[Node]) -> Result<(), AddonError> {
    let manifest = render_addons(versions, nodes)?;
    let mut tries = 0;
    loop {
        let mut argv = vec![kubectl.as_os_str().to_owned(), "--kubeconfig".into(), kubeconfig.as_os_str().to_owned()];
        argv.extend(["apply", "--server-side", "--force-conflicts", "--field-manager", FIELD_MANAGER, "-f", "-"].map(Into::into));
        match Run::new(argv).stdin(manifest.as_str()).deadline(Duration::from_secs(60)).output().await {
            Ok(_) => return Ok(()),
            Err(error) if tries >= 30 => return Err(AddonError::Apply(error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
        tries += 1;
    }
}

fn render_addons(versions: &Versions, nodes: &[Node]) -> Result<String, VersionsError> {
    let mut documents: Vec<String> = nodes.iter().map(|node| node_object(*node)).collect();
    documents.extend([COREDNS, STORAGE].map(str::to_owned));
    let values = [
        ("${COREDNS_IMAGE}", versions.image("coredns")?.to_owned()),
        ("${LOCAL_PATH_PROVISIONER_IMAGE}", versions.image("local-path-provisioner")?.to_owned()),
        ("${BUSYBOX_IMAGE}", versions.image("busybox")?.to_owned()),
        ("${DNS_SERVICE}", DNS_SERVICE.to_string()),
    ];
    Ok(values.iter().fold(documents.join("\n---\n"), |text, (name, value)| text.replace(name, value)))
}

/// With the pod range of the topology, which a kubelet cannot set; the kubelet adds the rest.
fn node_object(node: Node) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name(),
            "labels": {"topology.kubernetes.io/region": REGION, "topology.kubernetes.io/zone": node.zone(), "kubernetes.io/hostname": node.name()},
        },
        "spec": {"podCIDR": node.pod_cidr(), "podCIDRs": [node.pod_cidr()]},
    })
    .to_string()
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HealthError {
    #[error("cannot read the kubeconfig")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    #[error("cannot make a client")]
    Client(#[source] Box<kube::Error>),
    #[error("after {} s still waiting for: {waiting}", .after.as_secs())]
    Deadline { after: Duration, waiting: String },
}

/// A client for the kubeconfig file; every request ends within 20 seconds.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client, HealthError> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig).map_err(HealthError::Kubeconfig)?;
    let mut config =
        Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await.map_err(HealthError::Kubeconfig)?;
    config.connect_timeout = Some(Duration::from_secs(3));
    config.read_timeout = Some(Duration::from_secs(20));
    Client::try_from(config).map_err(|error| HealthError::Client(Box::new(error)))
}

/// Node names with whether each is Ready.
async fn node_readiness(client: &Client) -> Result<BTreeMap<String, bool>, kube::Error> {
    let list = Api::<NodeObject>::all(client.clone()).list(&kube::api::ListParams::default()).await?;
    Ok(list.items.into_iter().map(|node| (node.metadata.name.clone().unwrap_or_default(), is_ready(&node))).collect())
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

/// What a healthy cluster of these nodes lacks, as text; empty when healthy.
pub(crate) async fn lacking(client: &Client, expected: &[Node]) -> Vec<String> {
    let ready = match node_readiness(client).await {
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
        // One ready replica is enough: another may wait for a node that a test has stopped.
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

/// Waits until the cluster is healthy.
pub(crate) async fn wait(client: &Client, expected: &[Node], within: Duration) -> Result<(), HealthError> {
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

/// Waits until `/readyz` of the apiserver answers ok.
pub(crate) async fn wait_for_apiserver(client: &Client, within: Duration) -> Result<(), HealthError> {
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

/// A line per unit, and whether all is well.
pub(crate) async fn report(work: &WorkDir) -> (String, bool) {
    let Some(state) = State::read(work) else { return (format!("no host cluster in {}\n", work.root().display()), false) };
    let nodes = state.nodes().unwrap_or_default();
    let mut text = format!(
        "host cluster in {}{}\n",
        work.root().display(),
        if state.phase == Phase::Up { "" } else { " (incomplete: `up` did not finish)" }
    );
    let mut well = state.phase == Phase::Up;
    let (ready, lacking) = match client(&work.kubeconfig()).await {
        Ok(client) => (node_readiness(&client).await.unwrap_or_default(), lacking(&client, &nodes).await),
        Err(error) => (BTreeMap::new(), vec![error.to_string()]),
    };
    for name in std::iter::once(CONTROL.to_owned()).chain(nodes.iter().map(|node| node.name())) {
        let running = unit::holder(work, &name).is_some();
        well &= running;
        let services = if running { unit::services(work, &name) } else { BTreeMap::new() };
        let services: Vec<String> = services.into_iter().map(|(service, now)| format!("{service}({})", now.starts)).collect();
        let readiness = match ready.get(&name) {
            Some(true) => "Ready",
            Some(false) => "NotReady",
            None => "",
        };
        let _ = writeln!(text, "{name:<10} {:<8} {readiness:<9} {}", if running { "running" } else { "down" }, services.join(" "));
    }
    if !lacking.is_empty() {
        well = false;
        let _ = writeln!(text, "waiting for: {}", lacking.join(", "));
    }
    (text, well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled_in() {
        let text = render_addons(&Versions::load().unwrap(), &Node::all(3).unwrap()).unwrap();
        assert!(!text.contains("${"), "{text}");
        assert!(text.contains("10.244.3.0/24"));
    }

    #[test]
    fn the_deployments_waited_for_are_there() {
        for (namespace, name) in DEPLOYMENTS {
            let head = format!("kind: Deployment\nmetadata: {{name: {name}, namespace: {namespace}");
            assert!([COREDNS, STORAGE].iter().any(|text| text.contains(&head)), "{head}");
        }
    }
}
