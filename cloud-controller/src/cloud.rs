//! The cloud as the operator reports it: the host nodes that serve this tenant.

use nestling_control_api::consts;
use nestling_control_api::v1alpha1::{self as proto, WatchCloudNodesRequest};
use nestling_runtime::control::{Control, ControlArgs, ControlError, call, keep_open};
use nestling_runtime::readiness::Pending;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// A host node, as a cloud would describe an instance. Empty texts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CloudNode {
    pub provider_id: String,
    pub zone: String,
    pub region: String,
    pub instance_type: String,
    /// Type and address.
    pub addresses: Vec<(String, String)>,
}

/// All of them, by the name of the tenant's Node.
pub(crate) type Cloud = BTreeMap<String, CloudNode>;

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("cannot read the operator's CA {}", path.display())]
    Ca {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot watch the host nodes")]
    Control(#[from] ControlError),
}

/// Puts each full set into `cloud`, for ever. While the operator is away the last set stays. `unknown` is dropped with the
/// first set.
pub(crate) async fn follow(args: ControlArgs, ca: PathBuf, cloud: watch::Sender<Option<Arc<Cloud>>>, unknown: Pending) {
    let mut unknown = Some(unknown);
    keep_open("host nodes", async |synced: &mut bool| {
        let pem = tokio::fs::read(&ca).await.map_err(|source| StreamError::Ca { path: ca.clone(), source })?;
        let control = Control::new(&args, &pem)?;
        let request = control.request(WatchCloudNodesRequest {}).await?;
        let mut messages = call(control.client().watch_cloud_nodes(request)).await?;
        // A peer that vanishes is found by the connection's own pings, so waiting for a message needs no deadline.
        while let Some(nodes) = messages.message().await.map_err(ControlError::broken)? {
            let nodes: Cloud = nodes.nodes.into_iter().map(parse).collect();
            cloud.send_if_modified(|old| {
                let changed = old.as_deref() != Some(&nodes);
                *old = Some(Arc::new(nodes));
                changed
            });
            *synced = true;
            drop(unknown.take());
        }
        Ok::<(), StreamError>(())
    })
    .await;
}

fn parse(node: proto::CloudNode) -> (String, CloudNode) {
    let proto::CloudNode { name, provider_id, zone, region, instance_type, addresses } = node;
    let provider_id = if provider_id.is_empty() { consts::provider_id(&name) } else { provider_id };
    let addresses = addresses.into_iter().map(|address| (address.r#type, address.address)).collect();
    (name, CloudNode { provider_id, zone, region, instance_type, addresses })
}
