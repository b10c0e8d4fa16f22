//! The versions that pods run, as the runtime reports their images.

use crate::conditions::containers;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tags of the images of the containers `program`, of all pods; several while they are replaced (`v1.36.3, v1.37.2`). Empty while
/// none has started, or for an image that was pulled by its digest alone.
pub(super) fn running(program: &str, pods: &[Arc<Pod>]) -> String {
    let containers = pods.iter().flat_map(|pod| containers(pod)).filter(|container| container.name == program);
    let tags: BTreeSet<&str> = containers.filter_map(|container| tag(&container.image)).collect();
    tags.into_iter().collect::<Vec<_>>().join(", ")
}

/// The tag of an image reference; a registry may have a port, and a digest may follow.
fn tag(image: &str) -> Option<&str> {
    let image = image.split('@').next()?;
    // Of images without a name, runtimes report the ID.
    image.rsplit('/').next()?.split_once(':').filter(|(name, _)| *name != "sha256").map(|(_, tag)| tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(images: &[(&str, &str)]) -> Arc<Pod> {
        let status = |(name, image): &(&str, &str)| json!({"name": name, "image": image, "imageID": "", "ready": true, "restartCount": 0});
        let statuses: Vec<_> = images.iter().map(status).collect();
        Arc::new(serde_json::from_value(json!({"status": {"containerStatuses": statuses}})).unwrap())
    }

    #[test]
    fn versions_are_those_of_the_pods_there_are() {
        let old = pod(&[("kube-scheduler", "registry.example:5000/k8s/kube-scheduler:v1.36.3"), ("other", "other:v9")]);
        let new = pod(&[("kube-scheduler", "registry.k8s.io/kube-scheduler:v1.37.2@sha256:00")]);
        assert_eq!(running("kube-scheduler", std::slice::from_ref(&new)), "v1.37.2");
        assert_eq!(running("kube-scheduler", &[new, old]), "v1.36.3, v1.37.2");
        assert_eq!(running("kube-scheduler", &[]), "");
        for nameless in ["sha256:0123", "registry.example:5000/kube-scheduler@sha256:00", "registry.example:5000/kube-scheduler"] {
            assert_eq!(running("kube-scheduler", &[pod(&[("kube-scheduler", nameless)])]), "", "{nameless}");
        }
    }
}
