//! Which images.

use super::cluster::Images;
use crate::config::OperatorConfig;
use nestling_crds::versions::Known;

pub(super) fn images(known: &Known, config: &OperatorConfig) -> Images {
    let registry = config.kubernetes_registry.trim_end_matches('/');
    let kubernetes = |program: &str| format!("{registry}/{program}:{}", known.version);
    Images {
        api_server: kubernetes("kube-apiserver"),
        controller_manager: kubernetes("kube-controller-manager"),
        scheduler: kubernetes("kube-scheduler"),
        etcd: format!("{registry}/etcd:{}", known.etcd_tag),
        coredns: format!("{registry}/coredns/coredns:{}", known.coredns_tag),
        cloud_controller: config.cloud_controller_image.clone(),
    }
}
