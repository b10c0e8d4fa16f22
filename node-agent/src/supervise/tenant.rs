//! The tasks of one tenant: its identities, its Node, its pods and its Services, from its assignment to this
//! node until it is removed or its description changes.

use crate::connection::{Connection, ConnectionError};
use crate::control::Operator;
use crate::control::certificates::{self, Issued, Purpose};
use crate::node::{self, HostNode};
use crate::pods;
use crate::proxy::{self, Proxy};
use crate::services::Services;
use crate::supervise::parts::{Parts, keep_running};
use crate::tenant::{PodStores, Tenant, TenantSpec, Tenants};
use kube::Client;
use nestling_crds::names::NodeName;
use nestling_runtime::tls::{Certificate, CertificateError};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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

/// Serves the tenant until `stop`; when a part ends, all are started again with back-off.
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

/// Runs the parts until `stop`.
async fn serve(agent: &Arc<AgentParts>, spec: &TenantSpec, connections: &Connections, stop: &CancellationToken) {
    keep_running(stop, |stop| start(agent, spec, connections, stop).ended()).await;
    agent.tenants.remove(&spec.uid);
}

/// Starts the parts, with new stores, which can be filled only once.
fn start(agent: &Arc<AgentParts>, spec: &TenantSpec, connections: &Connections, stop: CancellationToken) -> Parts {
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
    let mut parts = Parts::new(stop.clone());
    let (proxy, uid) = (agent.proxy.clone(), spec.uid.clone());
    let on_addresses = move |addresses: &BTreeSet<IpAddr>| proxy.set_sources(&uid, addresses);
    let (services, changes) = Services::new();
    let (list, client, shutdown) = (services.clone(), tenant.kubelet.clone(), stop.clone());
    parts.start("services", async move { list.follow(client, shutdown).await });
    parts.start("proxy", proxy::services::run(tenant.clone(), changes, agent.proxy.clone(), stop.clone()));
    parts.start("pods", pods::run(tenant.clone(), writers, services, on_addresses, stop.clone()));
    parts.start("node", node::run(tenant, agent.host_node.clone(), stop));
    parts
}
