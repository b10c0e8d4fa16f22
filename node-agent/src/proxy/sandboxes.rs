//! Tells the proxy the address of a new pod as soon as its sandbox is up.
//!
//! The host pod's status names the address about a second after the containers were started, and until then the pod's
//! packets to its tenant's Services would go where the host's rules send them: into nothing, or to a host Service of the same
//! address. The container runtime tells it before the first container is made. The status stays what counts in the end;
//! a runtime that does not tell (CRI-O without `enable_pod_events`) only brings back that second.

use super::Proxy;
use crate::cri::v1::runtime_service_client::RuntimeServiceClient;
use crate::cri::v1::{ContainerEventResponse, ContainerEventType, GetEventsRequest, PodSandboxState, PodSandboxStatus};
use crate::tenant::Tenants;
use futures::{Stream, StreamExt};
use nestling_crds::labels;
use nestling_crds::names::{TenantUid, WorkloadNamespace};
use nestling_runtime::backoff::Steps;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum SandboxesError {
    #[error("the container runtime's socket {socket} cannot be an address")]
    Endpoint {
        socket: String,
        #[source]
        source: tonic::transport::Error,
    },
}

/// Follows the runtime behind `socket` until `shutdown`, through restarts of it.
pub async fn run(socket: &Path, tenants: Tenants, proxy: Proxy, shutdown: CancellationToken) -> Result<(), SandboxesError> {
    let uri = format!("unix://{}", socket.display());
    let endpoint =
        Endpoint::from_shared(uri).map_err(|source| SandboxesError::Endpoint { socket: socket.display().to_string(), source })?;
    let client = RuntimeServiceClient::new(endpoint.connect_timeout(Duration::from_secs(3)).connect_lazy());
    shutdown.run_until_cancelled(follow(client, &tenants, &proxy)).await;
    Ok(())
}

async fn follow(mut client: RuntimeServiceClient<Channel>, tenants: &Tenants, proxy: &Proxy) {
    let mut steps = Steps::new(RETRY, RETRY_AT_MOST);
    let mut has_complained = false;
    loop {
        // Without a deadline: the stream is as long as the runtime runs, and says nothing while nothing happens.
        let ended = match client.get_container_events(GetEventsRequest {}).await {
            Ok(events) => {
                steps.succeeded();
                has_complained = false;
                tell(events.into_inner(), tenants, proxy).await
            }
            Err(status) => Some(status),
        };
        if let Some(status) = ended.filter(|_| !std::mem::replace(&mut has_complained, true)) {
            let is_unable = matches!(status.code(), Code::Unimplemented | Code::FailedPrecondition);
            tracing::warn!(%status, is_unable, "the container runtime does not tell of new sandboxes; their addresses are learned later");
        }
        tokio::time::sleep(steps.failed()).await;
    }
}

/// Until the stream ends; with the reason, if there was one.
async fn tell(
    mut events: impl Stream<Item = Result<ContainerEventResponse, Status>> + Unpin,
    tenants: &Tenants,
    proxy: &Proxy,
) -> Option<Status> {
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(status) => return Some(status),
        };
        let workload_namespace = |tenant: &TenantUid| tenants.get(tenant).map(|tenant| tenant.spec.workload_namespace.clone());
        match news(event, workload_namespace) {
            Some(News::Up { sandbox, tenant, addresses }) => {
                tracing::debug!(%tenant, %sandbox, ?addresses, "a sandbox is up");
                proxy.announce(&sandbox, &tenant, addresses);
            }
            Some(News::Down { sandbox }) => proxy.retract(&sandbox),
            None => {}
        }
    }
    None
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Up { sandbox: String, tenant: TenantUid, addresses: BTreeSet<IpAddr> },
    Down { sandbox: String },
}

/// None for events of containers, and of sandboxes that are no tenant's. The label alone proves nothing: control planes carry
/// it, and anybody's pod may. Only the agent makes pods in a workload namespace.
fn news(event: ContainerEventResponse, workload_namespace: impl Fn(&TenantUid) -> Option<WorkloadNamespace>) -> Option<News> {
    let kind = event.container_event_type();
    let sandbox = event.pod_sandbox_status?;
    if sandbox.id != event.container_id {
        return None;
    }
    match kind {
        ContainerEventType::ContainerCreatedEvent | ContainerEventType::ContainerStartedEvent => {
            let tenant = TenantUid::new(sandbox.labels.get(labels::TENANT)?.clone());
            let namespace = workload_namespace(&tenant)?;
            let addresses = addresses(&sandbox);
            let is_its = sandbox.metadata.as_ref().is_some_and(|metadata| metadata.namespace == namespace.as_str());
            let is_up = sandbox.state() == PodSandboxState::SandboxReady && !addresses.is_empty();
            (is_its && is_up).then_some(News::Up { sandbox: sandbox.id, tenant, addresses })
        }
        ContainerEventType::ContainerStoppedEvent | ContainerEventType::ContainerDeletedEvent => Some(News::Down { sandbox: sandbox.id }),
    }
}

/// None for a sandbox on the host's network: it has no address of its own.
fn addresses(sandbox: &PodSandboxStatus) -> BTreeSet<IpAddr> {
    let network = sandbox.network.as_ref();
    let more = network.into_iter().flat_map(|network| &network.additional_ips).map(|more| &more.ip);
    network.map(|network| &network.ip).into_iter().chain(more).filter_map(|ip| ip.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{PodIp, PodSandboxMetadata, PodSandboxNetworkStatus};
    use rstest::rstest;

    fn event(kind: ContainerEventType) -> ContainerEventResponse {
        let sandbox = PodSandboxStatus {
            id: "sandbox".into(),
            metadata: Some(PodSandboxMetadata { namespace: "work".into(), ..PodSandboxMetadata::default() }),
            network: Some(PodSandboxNetworkStatus { ip: "10.0.0.1".into(), additional_ips: vec![PodIp { ip: "fd00::1".into() }] }),
            labels: [(labels::TENANT.to_owned(), "uid".to_owned())].into(),
            ..PodSandboxStatus::default()
        };
        ContainerEventResponse {
            container_id: "sandbox".into(),
            container_event_type: kind.into(),
            pod_sandbox_status: Some(sandbox),
            ..ContainerEventResponse::default()
        }
    }

    fn told(event: ContainerEventResponse) -> Option<News> {
        news(event, |tenant| (tenant.as_str() == "uid").then(|| WorkloadNamespace::from_made("work")))
    }

    fn with(change: impl FnOnce(&mut ContainerEventResponse, &mut PodSandboxStatus)) -> ContainerEventResponse {
        let mut event = event(ContainerEventType::ContainerCreatedEvent);
        let mut sandbox = event.pod_sandbox_status.take().unwrap();
        change(&mut event, &mut sandbox);
        event.pod_sandbox_status = Some(sandbox);
        event
    }

    #[test]
    fn a_sandbox_that_comes_up_is_told_with_all_its_addresses() {
        let addresses = ["10.0.0.1", "fd00::1"].map(|address| address.parse().unwrap()).into();
        let up = News::Up { sandbox: "sandbox".into(), tenant: TenantUid::new("uid"), addresses };
        assert_eq!(told(event(ContainerEventType::ContainerCreatedEvent)), Some(up));
        assert_eq!(told(event(ContainerEventType::ContainerStoppedEvent)), Some(News::Down { sandbox: "sandbox".into() }));
    }

    #[rstest]
    #[case::a_container(with(|event, _| event.container_id = "other".into()))]
    #[case::no_tenants(with(|_, sandbox| sandbox.labels.clear()))]
    #[case::an_unknown_tenants(with(|_, sandbox| drop(sandbox.labels.insert(labels::TENANT.into(), "other".into()))))]
    #[case::a_control_plane(with(|_, sandbox| sandbox.metadata.as_mut().unwrap().namespace = "team-a".into()))]
    #[case::on_the_hosts_network(with(|_, sandbox| sandbox.network = None))]
    #[case::ended_already(with(|_, sandbox| sandbox.set_state(PodSandboxState::SandboxNotready)))]
    #[case::without_a_status(ContainerEventResponse { container_id: "sandbox".into(), ..ContainerEventResponse::default() })]
    fn others_are_nobodys_business(#[case] event: ContainerEventResponse) {
        assert_eq!(told(event), None);
    }
}
