//! Adds the address of a new pod to the proxy as soon as the container runtime reports its sandbox.
//!
//! The host pod's status names the address about a second after the containers were started, and until then the pod's
//! packets to its tenant's Services would follow the host's rules: to nowhere, or to a host Service of the same address.
//! The container runtime reports the sandbox before the first container is created. The status stays authoritative; a
//! runtime that sends no events (CRI-O without `enable_pod_events`) only brings back that second.

use super::Proxy;
use crate::cri::v1::{ContainerEventResponse, ContainerEventType, PodSandboxState, PodSandboxStatus};
use crate::cri::{Cri, CriError};
use crate::tenant::Tenants;
use futures::TryStreamExt;
use nestling_crds::labels;
use nestling_crds::names::{TenantUid, WorkloadNamespace};
use nestling_runtime::backoff::Backoff;
use nestling_runtime::error::chain;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::Code;

const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(30);

/// Follows the runtime's events until `shutdown`, through its restarts.
pub(crate) async fn run(cri: Arc<dyn Cri>, tenants: Tenants, proxy: Proxy, shutdown: CancellationToken) {
    shutdown.run_until_cancelled(follow(&*cri, &tenants, &proxy)).await;
}

async fn follow(cri: &dyn Cri, tenants: &Tenants, proxy: &Proxy) {
    let mut backoff = Backoff::new(RETRY, RETRY_AT_MOST);
    let mut is_failing = false;
    loop {
        let mut has_begun = false;
        let result = forward(cri, tenants, proxy, &mut has_begun).await;
        if has_begun {
            backoff.succeeded();
            is_failing = false;
        }
        // One warning per outage.
        if let Err(error) = result
            && !std::mem::replace(&mut is_failing, true)
        {
            let unsupported = matches!(error.code(), Code::Unimplemented | Code::FailedPrecondition);
            tracing::warn!(
                error = chain(&error),
                unsupported,
                "container runtime sends no sandbox events; new pods get their rules with their status, retrying"
            );
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// Forwards events until the stream ends. `has_begun` is set by the first of them.
async fn forward(cri: &dyn Cri, tenants: &Tenants, proxy: &Proxy, has_begun: &mut bool) -> Result<(), CriError> {
    let mut events = cri.container_events();
    let workload_namespace = |tenant: &TenantUid| tenants.get(tenant).map(|tenant| tenant.spec.workload_namespace.clone());
    while let Some(event) = events.try_next().await? {
        *has_begun = true;
        match SandboxEvent::of(event, workload_namespace) {
            Some(SandboxEvent::Up { sandbox, tenant, addresses }) => {
                tracing::debug!(%tenant, %sandbox, ?addresses, "sandbox is up");
                proxy.announce(&sandbox, &tenant, addresses);
            }
            Some(SandboxEvent::Down { sandbox }) => proxy.retract(&sandbox),
            None => {}
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum SandboxEvent {
    Up { sandbox: String, tenant: TenantUid, addresses: BTreeSet<IpAddr> },
    Down { sandbox: String },
}

impl SandboxEvent {
    /// None for events of containers, and of sandboxes that are no tenant's. The label alone proves nothing: control
    /// planes have it, and so may any pod. Only the agent creates pods in a workload namespace.
    fn of(event: ContainerEventResponse, workload_namespace: impl Fn(&TenantUid) -> Option<WorkloadNamespace>) -> Option<Self> {
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
                (is_its && is_up).then_some(Self::Up { sandbox: sandbox.id, tenant, addresses })
            }
            ContainerEventType::ContainerStoppedEvent | ContainerEventType::ContainerDeletedEvent => {
                Some(Self::Down { sandbox: sandbox.id })
            }
        }
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
    use crate::cri::fake::FakeCri;
    use crate::cri::v1::{PodIp, PodSandboxMetadata, PodSandboxNetworkStatus};
    use crate::fixtures::{tenant_spec, tenant_with};
    use crate::proxy::FakeNetfilter;
    use crate::tenant::TenantSpec;
    use nestling_runtime::testing::ApiServer;
    use rstest::rstest;
    use tokio::time::sleep;

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

    fn read(event: ContainerEventResponse) -> Option<SandboxEvent> {
        SandboxEvent::of(event, |tenant| (tenant.as_str() == "uid").then(|| WorkloadNamespace::from_made("work")))
    }

    fn with(change: impl FnOnce(&mut ContainerEventResponse, &mut PodSandboxStatus)) -> ContainerEventResponse {
        let mut event = event(ContainerEventType::ContainerCreatedEvent);
        let mut sandbox = event.pod_sandbox_status.take().unwrap();
        change(&mut event, &mut sandbox);
        event.pod_sandbox_status = Some(sandbox);
        event
    }

    #[test]
    fn a_sandbox_that_comes_up_is_announced_with_all_its_addresses() {
        let addresses = ["10.0.0.1", "fd00::1"].map(|address| address.parse().unwrap()).into();
        let up = SandboxEvent::Up { sandbox: "sandbox".into(), tenant: TenantUid::new("uid"), addresses };
        assert_eq!(read(event(ContainerEventType::ContainerCreatedEvent)), Some(up));
        assert_eq!(read(event(ContainerEventType::ContainerStoppedEvent)), Some(SandboxEvent::Down { sandbox: "sandbox".into() }));
    }

    #[rstest]
    #[case::a_container(with(|event, _| event.container_id = "other".into()))]
    #[case::without_tenant(with(|_, sandbox| sandbox.labels.clear()))]
    #[case::an_unknown_tenants(with(|_, sandbox| drop(sandbox.labels.insert(labels::TENANT.into(), "other".into()))))]
    #[case::a_control_plane(with(|_, sandbox| sandbox.metadata.as_mut().unwrap().namespace = "team-a".into()))]
    #[case::on_the_hosts_network(with(|_, sandbox| sandbox.network = None))]
    #[case::ended_already(with(|_, sandbox| sandbox.set_state(PodSandboxState::SandboxNotready)))]
    #[case::without_a_status(ContainerEventResponse { container_id: "sandbox".into(), ..ContainerEventResponse::default() })]
    fn others_are_ignored(#[case] event: ContainerEventResponse) {
        assert_eq!(read(event), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_has_rules_from_its_sandbox_on_whether_or_not_the_runtime_restarts() {
        let (cri, netfilter) = (Arc::new(FakeCri::default()), Arc::new(FakeNetfilter::default()));
        let (tenants, proxy, shutdown) = (Tenants::default(), Proxy::fake(&netfilter), CancellationToken::new());
        let workload_namespace = WorkloadNamespace::from_made("work");
        let spec = TenantSpec { uid: TenantUid::new("uid"), workload_namespace, ..tenant_spec() };
        proxy.expect(&spec.uid, &spec.service_cidrs);
        // By their statuses, the tenant has no pods yet.
        proxy.set_sources(&spec.uid, &BTreeSet::new());
        tenants.insert(tenant_with(spec, &ApiServer::new().client()).0);
        let running = tokio::spawn(run(cri.clone(), tenants, proxy, shutdown.clone()));
        let seconds = |seconds| sleep(Duration::from_secs(seconds));
        seconds(1).await;
        assert!(netfilter.addresses().is_empty());
        cri.emit(&event(ContainerEventType::ContainerCreatedEvent));
        seconds(1).await;
        assert_eq!(netfilter.addresses(), ["10.0.0.1"]);

        cri.with(|state| {
            state.event_streams.clear();
            state.down = true;
        });
        seconds(5).await;
        assert_eq!(netfilter.addresses(), ["10.0.0.1"]);
        cri.with(|state| state.down = false);
        seconds(10).await;
        cri.emit(&event(ContainerEventType::ContainerStoppedEvent));
        seconds(1).await;
        assert!(netfilter.addresses().is_empty());
        shutdown.cancel();
        running.await.unwrap();
    }
}
