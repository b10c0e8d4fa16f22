//! How Deployments of the control plane change over.

use k8s_openapi::api::apps::v1::{DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Label by which a Deployment tells its revisions apart.
pub const REVISION_LABEL: &str = "pod-template-hash";

/// The operator writes every revision itself; going back is a change of the `VirtualCluster`.
pub const HISTORY: i32 = 1;

/// A new pod first, then one old pod goes.
pub fn one_more() -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment { max_surge: Some(IntOrString::Int(1)), max_unavailable: Some(IntOrString::Int(0)) }),
    }
}
