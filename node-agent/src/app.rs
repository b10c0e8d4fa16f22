//! Wiring: the agent's flags, and which part gets what.

use crate::control::certificates::{self, Purpose};
use crate::control::{InstallationCas, Operator, watch};
use crate::cri::{Cri, CriClient, DEFAULT_SOCKETS, find_socket};
use crate::node::HostNode;
use crate::proxy::{Proxy, ProxyConfig, sandboxes};
use crate::server::{ClientCas, Limits, POD_LOGS, Server, ServerConfig};
use crate::supervise::{self, AgentParts};
use crate::tenant::Tenants;
use anyhow::Context as _;
use nestling_control_api::consts::KUBELET_PORT;
use nestling_crds::names::NodeName;
use nestling_runtime::control::ControlArgs;
use nestling_runtime::process::Process;
use nestling_runtime::readiness::Pending;
use nestling_runtime::telemetry::TelemetryArgs;
use nestling_runtime::tls::Certificate;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long the agent may take to stop: what its parts need, and a little.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Changes of tenants that wait for their tasks.
const CHANGES: usize = 64;

/// Every tenant's kubelet and kube-proxy on one host node.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "nestling-node-agent", version)]
pub struct Args {
    #[command(flatten)]
    pub telemetry: TelemetryArgs,

    #[command(flatten)]
    pub control: ControlArgs,

    /// Name of the host node that the agent runs on.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,

    /// Namespace that Nestling is installed in.
    #[arg(long, env = "POD_NAMESPACE", default_value = "nestling-system")]
    pub namespace: String,

    /// Where health, readiness and metrics are served. The port is one of the node's, since the agent uses its network.
    #[arg(long, default_value = "0.0.0.0:10351")]
    pub admin_address: SocketAddr,

    /// Where the kubelet API of all tenants is served.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], KUBELET_PORT)))]
    pub kubelet_address: SocketAddr,

    /// Sockets of the container runtime to look for; the first one that exists is used.
    #[arg(long, value_delimiter = ',', default_values = DEFAULT_SOCKETS.iter().copied())]
    pub cri_socket: Vec<PathBuf>,

    /// Directories that container logs may lie in.
    #[arg(long, value_delimiter = ',', default_value = POD_LOGS)]
    pub log_root: Vec<PathBuf>,
}

/// Runs the agent until shutdown. Tenants' pods, rules and connections stay as they are.
pub async fn run(args: Args, process: Process) -> anyhow::Result<()> {
    let node = NodeName::new(args.node_name.clone());
    let shutdown = process.shutdown.clone();
    let host = kube::Client::try_default().await.context("cannot reach the host cluster")?;
    let operator = Operator::new(host.clone(), &args.namespace, args.control.clone());
    let (host_node, watch_host_node) = HostNode::watch(host.clone(), &node, shutdown.clone());
    let packet_filter = Some(process.readiness.pending("packet filter"));
    let proxy = Proxy::start(ProxyConfig::kernel(process.metrics.clone(), packet_filter), shutdown.clone());
    let tenants = Tenants::default();
    let socket = find_socket(&args.cri_socket)?;
    tracing::info!(socket = %socket.display(), "found the container runtime");
    let cri: Arc<dyn Cri> = Arc::new(CriClient::new(&socket)?);
    let parts = Arc::new(AgentParts { node, host, host_node, operator: operator.clone(), tenants, proxy: proxy.clone() });

    let serving = Arc::new(Certificate::default());
    let client_cas = ClientCas::default();
    let kubelet = bind(&args, &cri, &parts, &serving, &client_cas).await?;
    process.metrics.register("kubelet", |registry| kubelet.register_metrics(registry));
    let certified = process.readiness.pending("serving certificate");
    let synced = process.readiness.pending("tenants from the operator");
    let (sender, changes) = mpsc::channel(CHANGES);

    tokio::join!(
        watch_host_node,
        watch::follow(operator.clone(), sender, synced, shutdown.clone()),
        until(&shutdown, keep_serving_certificate(&operator, &serving, certified)),
        until(&shutdown, keep_client_cas(&operator, &client_cas)),
        kubelet.serve(shutdown.clone()),
        sandboxes::run(cri, parts.tenants.clone(), proxy.clone(), shutdown.clone()),
        supervise::run(parts.clone(), changes, shutdown.clone()),
    );
    proxy.stopped().await;
    Ok(())
}

async fn bind(
    args: &Args,
    cri: &Arc<dyn Cri>,
    parts: &AgentParts,
    serving: &Arc<Certificate>,
    client_cas: &ClientCas,
) -> anyhow::Result<Server> {
    let config = ServerConfig {
        addr: args.kubelet_address,
        serving: serving.clone(),
        client_cas: client_cas.clone(),
        tenants: parts.tenants.clone(),
        cri: Arc::clone(cri),
        log_roots: args.log_root.clone(),
        limits: Limits::default(),
    };
    Ok(Server::bind(config).await?)
}

async fn until(shutdown: &CancellationToken, task: impl Future<Output = ()>) {
    let _: Option<()> = shutdown.run_until_cancelled(task).await;
}

/// `certified` is dropped with the first certificate.
async fn keep_serving_certificate(operator: &Operator, serving: &Certificate, certified: Pending) {
    let install = |issued: &certificates::Issued| {
        if let Err(error) = issued.install(serving) {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot install the serving certificate");
        }
    };
    let first = certificates::first(operator, &Purpose::Serving).await;
    install(&first);
    drop(certified);
    certificates::keep(operator, &Purpose::Serving, first, install).await;
}

async fn keep_client_cas(operator: &Operator, client_cas: &ClientCas) {
    let mut seen: Option<InstallationCas> = None;
    loop {
        let cas = operator.changed_cas(seen.as_ref()).await;
        if let Err(error) = client_cas.replace(&cas.kubelet_clients) {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot install the kubelet-client CA; keeping the last one");
        }
        seen = Some(cas);
    }
}
