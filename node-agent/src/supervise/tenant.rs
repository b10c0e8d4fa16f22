//! The tasks of one tenant: its identities, its Node, its pods and its Services, from its assignment to this
//! node until it is removed or its description changes.

use crate::connection::{Connection, ConnectionError};
use crate::control::Operator;
use crate::control::certificates::{self, Issued, Purpose};
use crate::node::{self, HostNode};
use crate::pods;
use crate::proxy::{self, Proxy};
use crate::services::Services;
use crate::tenant::{PodStores, Tenant, TenantSpec, Tenants};
use kube::Client;
use nestling_crds::names::NodeName;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::tls::{Certificate, CertificateError};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

const RESTART: Duration = Duration::from_millis(500);
const RESTART_AT_MOST: Duration = Duration::from_secs(30);
/// A group that has run so long has not failed to start.
const SETTLED: Duration = Duration::from_secs(60);
/// How long the parts may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// What all tenants of the node share.
pub(crate) struct AgentParts {
    pub node: NodeName,
    pub host: Client,
    pub host_node: HostNode,
    pub operator: Operator,
    pub tenants: Tenants,
    pub proxy: Proxy,
}

/// The tenant's API through each of the node's two identities.
struct Connections {
    kubelet: Connection,
    proxy: Connection,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("a certificate from the operator is not usable")]
    Certificate(#[from] CertificateError),
    #[error("cannot connect to the tenant")]
    Connection(#[from] ConnectionError),
}

/// Serves the tenant until `stop`; parts that fail are started again with backoff.
pub(super) async fn run(agent: &Arc<AgentParts>, spec: &TenantSpec, stop: CancellationToken) {
    let kubelet = Purpose::Kubelet(spec.uid.clone());
    let proxy = Purpose::Proxy(spec.uid.clone());
    let first = async { tokio::join!(certificates::first(&agent.operator, &kubelet), certificates::first(&agent.operator, &proxy)) };
    let Some((kubelet_first, proxy_first)) = Box::pin(stop.run_until_cancelled(first)).await else { return };
    let connections = match connect(spec, &kubelet_first, &proxy_first) {
        Ok(connections) => connections,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot connect to the tenant as it is described; waiting for another description"
            );
            stop.cancelled().await;
            return;
        }
    };
    let renewals = async {
        tokio::join!(
            certificates::keep(&agent.operator, &kubelet, kubelet_first, |issued| replace(&connections.kubelet, issued)),
            certificates::keep(&agent.operator, &proxy, proxy_first, |issued| replace(&connections.proxy, issued)),
        )
    };
    tokio::select! {
        _ = renewals => {}
        () = serve(agent, spec, &connections, &stop) => {}
    }
}

fn connect(spec: &TenantSpec, kubelet: &Issued, proxy: &Issued) -> Result<Connections, StartError> {
    let connection =
        |issued: &Issued| -> Result<Connection, StartError> { Ok(Connection::new(&spec.endpoint, &spec.ca_bundle, certificate(issued)?)?) };
    Ok(Connections { kubelet: connection(kubelet)?, proxy: connection(proxy)? })
}

fn certificate(issued: &Issued) -> Result<Certificate, CertificateError> {
    let certificate = Certificate::default();
    issued.install(&certificate)?;
    Ok(certificate)
}

fn replace(connection: &Connection, issued: &Issued) {
    match certificate(issued) {
        Ok(certificate) => connection.replace(certificate),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot install a renewed certificate; keeping the last one");
        }
    }
}

/// Runs the parts, and restarts all when one of them ends: they share stores, which can be filled only once.
async fn serve(agent: &Arc<AgentParts>, spec: &TenantSpec, connections: &Connections, stop: &CancellationToken) {
    let mut steps = Backoff::new(RESTART, RESTART_AT_MOST);
    while !stop.is_cancelled() {
        let started = Instant::now();
        serve_once(agent, spec, connections, stop.child_token()).await;
        if started.elapsed() >= SETTLED {
            steps.succeeded();
        }
        let _: Option<()> = stop.run_until_cancelled(sleep(steps.failed())).await;
    }
    agent.tenants.remove(&spec.uid);
}

async fn serve_once(agent: &Arc<AgentParts>, spec: &TenantSpec, connections: &Connections, stop: CancellationToken) {
    let (stores, writers) = PodStores::new();
    let tenant = Arc::new(Tenant {
        spec: spec.clone(),
        node: agent.node.clone(),
        kubelet: connections.kubelet.client(),
        proxy: connections.proxy.client(),
        host: agent.host.clone(),
        stores,
    });
    agent.tenants.insert(tenant.clone());
    let mut parts: JoinSet<&'static str> = JoinSet::new();
    let (proxy, uid) = (agent.proxy.clone(), spec.uid.clone());
    let on_addresses = move |addresses: &BTreeSet<IpAddr>| proxy.set_sources(&uid, addresses);
    let (services, changes) = Services::new();
    let (list, client, shutdown) = (services.clone(), tenant.kubelet.clone(), stop.clone());
    parts.spawn(part("services", async move { list.follow(client, shutdown).await }).in_current_span());
    parts.spawn(part("proxy", proxy::services::run(tenant.clone(), changes, agent.proxy.clone(), stop.clone())).in_current_span());
    parts.spawn(part("pods", pods::run(tenant.clone(), writers, services, on_addresses, stop.clone())).in_current_span());
    parts.spawn(part("node", node::run(tenant.clone(), agent.host_node.clone(), stop.clone())).in_current_span());
    match parts.join_next().await {
        Some(Ok(name)) if !stop.is_cancelled() => tracing::warn!(part = name, "a part of the tenant ended; starting all of them again"),
        Some(Err(error)) => tracing::error!(%error, "a part of the tenant ended unexpectedly"),
        Some(Ok(_)) | None => {}
    }
    stop.cancel();
    let rest = async { while parts.join_next().await.is_some() {} };
    if timeout(STOP, rest).await.is_err() {
        tracing::warn!(limit = ?STOP, "a part of the tenant did not stop");
        parts.shutdown().await;
    }
}

/// One part of the group under its name; its failure is logged here, once.
async fn part<R: Outcome>(name: &'static str, run: impl Future<Output = R>) -> &'static str {
    run.await.report(name);
    name
}

/// What a part returns when it ends.
trait Outcome {
    fn report(self, name: &'static str);
}

impl Outcome for () {
    fn report(self, _name: &'static str) {}
}

impl<E: std::error::Error + 'static> Outcome for Result<(), E> {
    fn report(self, name: &'static str) {
        if let Err(error) = self {
            tracing::error!(part = name, error = &error as &dyn std::error::Error, "a part of the tenant failed");
        }
    }
}
