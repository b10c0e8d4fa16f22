//! Which versions a cluster runs: what its spec resolved to once, and how it gets from one to another.
//!
//! The status records the release; a longer table, or one that lacks it, changes nothing. A change is by the spec alone. First
//! every kube-apiserver (with the etcd beside it), then the controllers, as upstream's skew policy wants it. Nodes report the
//! version of the oldest kube-apiserver, or that of the host's kubelet if it is older.

use crate::config::OperatorConfig;
use crate::model::{Images, VersionChange};
use crate::reconcile::dereference::{Dereferenced, Running};
use crate::reconcile::validate::problems::Problems;
use nestling_crds::v1alpha1::{self as spec, Release, VirtualCluster};
use nestling_crds::versions::{self, KUBELET_SKEW, Known, Version};

const FIELD: &str = "spec.version";

/// The versions of a cluster's parts.
pub(super) struct Versions {
    pub version: Version,
    pub controllers: Version,
    pub release: Release,
    pub change: Option<VersionChange>,
    /// Of the release, but for controllers that wait for kube-apiserver.
    cloud_controller: String,
}

impl Versions {
    /// `None` only with a problem.
    pub(super) fn find(vc: &VirtualCluster, reads: &Dereferenced, config: &OperatorConfig, problems: &mut Problems) -> Option<Self> {
        let (asked, status) = (vc.spec.version.as_deref(), vc.status.as_ref());
        let mut refuse = |error: versions::VersionError| problems.add(FIELD, error.to_string());
        let recorded = status.and_then(|status| status.release.as_ref());
        let recorded = recorded.and_then(|release| Some((release.kubernetes.parse::<Version>().ok()?, release.clone())));
        let Some((running, current)) = recorded else {
            let known = versions::resolve(config.versions, asked).map_err(refuse).ok()?;
            return Some(Self::of(release(&known, config), known.version, &reads.running));
        };
        let wanted = match versions::change(config.versions, running, asked) {
            Ok(None) => return Some(Self::of(current, running, &reads.running)),
            Ok(Some(known)) => known,
            Err(error) => {
                refuse(error);
                return None;
            }
        };
        let oldest = status.and_then(|status| status.nodes.oldest_kubelet.as_ref()?.parse().ok());
        let obstacle = if vc.spec.hibernate {
            Some("waiting for the cluster to wake".to_owned())
        } else {
            obstacle(running, wanted.version, oldest, reads)
        };
        match obstacle {
            None => Some(Self::of(release(&wanted, config), wanted.version, &reads.running)),
            Some(obstacle) => {
                let message = format!("{running} is to become {}: {obstacle}", wanted.version);
                Some(Self { change: Some(VersionChange::Waiting(message)), ..Self::of(current, running, &reads.running) })
            }
        }
    }

    /// On the way to `release`, or there.
    fn of(release: Release, version: Version, running: &Running) -> Self {
        let behind = running.controllers.clone().filter(|(controllers, _)| *controllers != version && !running.api_servers_are(version));
        let applied = running.controllers.as_ref().map(|(controllers, _)| *controllers).filter(|controllers| *controllers != version);
        let change = applied
            .or_else(|| running.controllers_to_replace(version))
            .map(|controllers| VersionChange::UnderWay(format!("from {controllers} to {version}: {}", stage(behind.is_some()))));
        let (controllers, cloud_controller) = behind.unwrap_or_else(|| (version, release.cloud_controller_manager.clone()));
        Self { version, controllers, release, change, cloud_controller }
    }

    pub(super) fn images(&self, asked: &spec::Images, config: &OperatorConfig) -> Images {
        // Pods name the Secrets to pull with.
        let spec::Images { registry, pull_secrets: _, overrides } = asked;
        let registry = if registry.is_empty() { config.kubernetes_registry.trim_end_matches('/') } else { registry };
        let image = |component: &str, default: String| overrides.get(component).cloned().unwrap_or(default);
        let kubernetes = |program: &str, version: Version| image(program, format!("{registry}/{program}:{version}"));
        Images {
            api_server: kubernetes("kube-apiserver", self.version),
            controller_manager: kubernetes("kube-controller-manager", self.controllers),
            scheduler: kubernetes("kube-scheduler", self.controllers),
            etcd: image("etcd", format!("{registry}/etcd:{}", self.release.etcd)),
            coredns: image("coredns", format!("{registry}/coredns/coredns:{}", self.release.core_dns)),
            cloud_controller: image("cloud-controller-manager", self.cloud_controller.clone()),
        }
    }
}

fn release(known: &Known, config: &OperatorConfig) -> Release {
    Release {
        kubernetes: known.version.to_string(),
        etcd: known.etcd_tag.to_owned(),
        core_dns: known.coredns_tag.to_owned(),
        cloud_controller_manager: config.cloud_controller_image.clone(),
    }
}

fn stage(api_servers: bool) -> &'static str {
    if api_servers { "waiting for kube-apiserver" } else { "replacing the controllers" }
}

/// What a change waits for. Back to an older patch there is nothing to wait for: it may be the way out.
fn obstacle(from: Version, to: Version, oldest_kubelet: Option<Version>, reads: &Dereferenced) -> Option<String> {
    if to.minor > from.minor && !reads.running.is_all(from) {
        return Some(format!("waiting for all of the control plane to run {from}"));
    }
    if let Some(kubelet) = oldest_kubelet.filter(|kubelet| kubelet.minor + KUBELET_SKEW < to.minor) {
        return Some(format!(
            "a node has kubelet {kubelet}, and may be at most {KUBELET_SKEW} minor versions older; upgrade the host's nodes"
        ));
    }
    (!reads.may_change_version).then(|| "waiting for other clusters to finish theirs".to_owned())
}
