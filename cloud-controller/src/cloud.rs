//! What the operator says of the cloud: the host nodes that serve this tenant.

use nestling_control_api::consts::provider_id as provider_id_of;
use nestling_control_api::v1alpha1::{self as proto, WatchCloudNodesRequest};
use nestling_runtime::backoff::Backoff;
use nestling_runtime::control::{Control, ControlArgs, ControlError};
use nestling_runtime::readiness::Pending;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(10);
const OPEN: Duration = Duration::from_secs(15);

/// A host node, as a cloud would describe an instance. Texts that are empty are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudNode {
    pub provider_id: String,
    pub zone: String,
    pub region: String,
    pub instance_type: String,
    /// Type and address.
    pub addresses: Vec<(String, String)>,
}

/// All of them, by the name of the tenant's Node.
pub type Cloud = BTreeMap<String, CloudNode>;

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("cannot read the operator's CA {}", path.display())]
    Ca {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot speak to the operator")]
    Control(#[from] ControlError),
    #[error("the operator refused the stream of host nodes")]
    Open(#[source] Box<tonic::Status>),
    #[error("the operator did not open the stream of host nodes within {OPEN:?}")]
    Timeout,
    #[error("the stream of host nodes broke")]
    Broken(#[source] Box<tonic::Status>),
}

/// Puts each full set into `cloud`, for ever. While the operator is away the last set stays: an absence of news is not an
/// absence of nodes. `unknown` is dropped with the first set.
pub async fn follow(args: ControlArgs, ca: PathBuf, cloud: watch::Sender<Option<Arc<Cloud>>>, unknown: Pending) {
    let mut unknown = Some(unknown);
    let mut steps = Backoff::new(RETRY, RETRY_AT_MOST);
    loop {
        let mut heard = false;
        let ended = stream(&args, &ca, |nodes| {
            heard = true;
            cloud.send_if_modified(|old| {
                let changed = old.as_deref() != Some(&nodes);
                *old = Some(Arc::new(nodes));
                changed
            });
            drop(unknown.take());
        })
        .await;
        if heard {
            steps.succeeded();
        }
        match ended {
            // The operator ends streams now and then, so that callers show their token of the day.
            Ok(()) if heard => tracing::debug!("the operator ended the stream of host nodes; opening the next one"),
            Ok(()) => tokio::time::sleep(steps.failed()).await,
            Err(error) => {
                let pause = steps.failed();
                tracing::warn!(error = &error as &dyn std::error::Error, ?pause, "no word from the operator; going on with what is known");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn stream(args: &ControlArgs, ca: &PathBuf, mut hear: impl FnMut(Cloud)) -> Result<(), StreamError> {
    let pem = tokio::fs::read(ca).await.map_err(|source| StreamError::Ca { path: ca.clone(), source })?;
    let control = Control::new(args, &pem)?;
    let request = control.request(WatchCloudNodesRequest {}).await?;
    let mut client = control.client();
    let opened = tokio::time::timeout(OPEN, client.watch_cloud_nodes(request)).await.map_err(|_| StreamError::Timeout)?;
    let mut messages = opened.map_err(|status| StreamError::Open(Box::new(status)))?.into_inner();
    // A peer that vanishes is found by the connection's own pings, so waiting for a message needs no limit.
    while let Some(nodes) = messages.message().await.map_err(|status| StreamError::Broken(Box::new(status)))? {
        hear(nodes.nodes.into_iter().map(parse).collect());
    }
    Ok(())
}

fn parse(node: proto::CloudNode) -> (String, CloudNode) {
    let proto::CloudNode { name, provider_id, zone, region, instance_type, addresses } = node;
    let provider_id = if provider_id.is_empty() { provider_id_of(&name) } else { provider_id };
    let addresses = addresses.into_iter().map(|address| (address.r#type, address.address)).collect();
    (name, CloudNode { provider_id, zone, region, instance_type, addresses })
}
