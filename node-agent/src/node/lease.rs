//! The lease that says the node is alive (`kube-node-lease/<node>`): 40 s, renewed every 10 s, as a kubelet's.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};
use nestling_crds::labels::AGENT;
use nestling_crds::names::NodeName;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::kube::call;
use std::time::Duration;
use tokio::sync::watch;

const NAMESPACE: &str = "kube-node-lease";
const DURATION_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(5);

/// Renews for ever, from when the Node's UID is known.
pub(super) async fn run(client: Client, node: NodeName, mut uid: watch::Receiver<Option<String>>) {
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut known: Option<Lease> = None;
    let mut steps = Backoff::new(RETRY, RETRY_AT_MOST);
    if uid.wait_for(Option::is_some).await.is_err() {
        return;
    }
    loop {
        let owner = uid.borrow().clone().unwrap_or_default();
        let pause = match renew(&leases, &node, &owner, known.take()).await {
            Ok(lease) => {
                known = Some(lease);
                steps.succeeded();
                RENEW_EVERY
            }
            Err(error) => {
                let pause = steps.failed();
                tracing::warn!(error = &error as &dyn std::error::Error, ?pause, "cannot renew the node's lease");
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(leases: &Api<Lease>, node: &NodeName, owner: &str, known: Option<Lease>) -> kube::Result<Lease> {
    let known = match known {
        Some(known) => Some(known),
        None => call(leases.get_opt(node.as_str())).await?,
    };
    let params = PostParams { field_manager: Some(AGENT.into()), ..PostParams::default() };
    let lease = next(known.as_ref(), node, owner, Timestamp::now());
    match known {
        Some(_) => call(leases.replace(node.as_str(), &params, &lease)).await,
        None => call(leases.create(&params, &lease)).await,
    }
}

fn next(known: Option<&Lease>, node: &NodeName, owner: &str, now: Timestamp) -> Lease {
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.to_string(),
        uid: owner.into(),
        ..OwnerReference::default()
    };
    let metadata = known.map_or_else(
        || ObjectMeta { name: Some(node.to_string()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() },
        |lease| ObjectMeta { managed_fields: None, ..lease.metadata.clone() },
    );
    Lease {
        metadata: ObjectMeta { owner_references: Some(vec![owner]), ..metadata },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_string()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..known.and_then(|lease| lease.spec.clone()).unwrap_or_default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_belongs_to_the_node_and_keeps_its_version() {
        let node = NodeName::new("worker-7");
        let mut first = next(None, &node, "uid-1", Timestamp::UNIX_EPOCH);
        assert_eq!(first.metadata.owner_references.as_ref().unwrap()[0].uid, "uid-1");
        first.metadata.resource_version = Some("5".into());
        let second = next(Some(&first), &node, "uid-2", Timestamp::UNIX_EPOCH + RENEW_EVERY);
        assert_eq!(second.metadata.resource_version.as_deref(), Some("5"));
        assert_eq!(second.metadata.owner_references.as_ref().unwrap()[0].uid, "uid-2");
        assert_ne!(first.spec, second.spec);
    }
}
