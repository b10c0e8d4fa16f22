//! What the cluster needs inside itself: its Node objects with their ranges, DNS, and a default StorageClass.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::command::{CommandError, Run};
use super::topology::{DNS_SERVICE, Node, REGION};
use super::versions::{Versions, VersionsError};

const COREDNS: &str = include_str!("../../manifests/coredns.yaml");
const STORAGE: &str = include_str!("../../manifests/local-path-provisioner.yaml");
const FIELD_MANAGER: &str = "nestling-hostcluster";

/// Deployments that a cluster needs before it counts as up, by namespace and name.
pub const DEPLOYMENTS: [(&str, &str); 2] = [("kube-system", "coredns"), ("local-path-storage", "local-path-provisioner")];

#[derive(Debug, thiserror::Error)]
pub enum AddonError {
    #[error("an image is missing")]
    Image(#[from] VersionsError),
    #[error("cannot apply the cluster's own objects")]
    Apply(#[source] CommandError),
}

/// Server-side applies everything; repeated for as long as a young apiserver refuses.
pub async fn apply(kubectl: &Path, kubeconfig: &Path, versions: &Versions, nodes: &[Node]) -> Result<(), AddonError> {
    let manifest = render(versions, nodes)?;
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

fn render(versions: &Versions, nodes: &[Node]) -> Result<String, VersionsError> {
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

/// The kubelet fills in the rest; the pod range is fixed by the topology and cannot be set by it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled_in() {
        let text = render(&Versions::load().unwrap(), &Node::all(3).unwrap()).unwrap();
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
