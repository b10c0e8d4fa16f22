//! The flags of both programs, each of which may also come from the environment.

use clap::{Parser, Subcommand};
use ipnet::IpNet;
use jiff::SignedDuration;
use nestling_control_api::consts;
use nestling_crds::versions::{self, Known};
use nestling_runtime::telemetry::TelemetryArgs;
use std::net::SocketAddr;

/// The programs of this binary.
#[derive(Clone, Debug, Parser)]
#[command(name = "nestling-operator", version)]
pub struct Cli {
    #[command(subcommand)]
    pub program: Program,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Program {
    /// Reconcile tenant clusters.
    Operator(Box<OperatorConfig>),
    /// Serve the control API to node agents and cloud-controller-managers.
    ControlApi(ControlConfig),
}

/// Nestling's operator.
#[derive(Clone, Debug, Parser)]
#[command(name = "nestling-operator", version)]
pub struct OperatorConfig {
    /// Namespace of the operator, of the agents and of the installation's certificate authorities.
    #[arg(long, env = "NESTLING_NAMESPACE", default_value = "nestling-system")]
    pub namespace: String,

    /// Name of this replica, unique among replicas.
    #[arg(long, env = "POD_NAME")]
    pub identity: String,

    /// Registry of the upstream control-plane images.
    #[arg(long, env = "NESTLING_KUBERNETES_REGISTRY", default_value = "registry.k8s.io")]
    pub kubernetes_registry: String,

    /// Image of the cloud controller manager.
    #[arg(long, env = "NESTLING_CLOUD_CONTROLLER_IMAGE", default_value = concat!("ghcr.io/nestling-dev/cloud-controller:", env!("CARGO_PKG_VERSION")))]
    pub cloud_controller_image: String,

    /// Pool from which tenants get their service range unless they name one.
    #[arg(long, env = "NESTLING_SERVICE_CIDR_POOL", default_value = "10.128.0.0/10")]
    pub service_cidr_pool: IpNet,

    /// Prefix length of a service range from the pool.
    #[arg(long, env = "NESTLING_SERVICE_CIDR_PREFIX", default_value_t = 20)]
    pub service_cidr_prefix: u8,

    /// Life of leaf certificates; they are renewed after two thirds of it.
    #[arg(long, env = "NESTLING_LEAF_LIFETIME", default_value = "8760h")]
    pub leaf_lifetime: SignedDuration,

    /// Life of certificate authorities.
    #[arg(long, env = "NESTLING_CA_LIFETIME", default_value = "87600h")]
    pub ca_lifetime: SignedDuration,

    /// Tenant clusters reconciled at the same time.
    #[arg(long, env = "NESTLING_CONCURRENCY", default_value_t = 16)]
    pub concurrency: u16,

    /// Tenant clusters that change their Kubernetes version at the same time; others wait.
    #[arg(long, env = "NESTLING_MAX_CONCURRENT_ROLLOUTS", default_value_t = 5)]
    pub max_concurrent_rollouts: usize,

    /// The Kubernetes versions that this build knows.
    #[arg(skip = versions::KNOWN)]
    pub versions: &'static [Known],

    /// How often a cluster at rest is checked for drift inside the tenant.
    #[arg(long, env = "NESTLING_RESYNC", default_value = "10m")]
    pub resync: SignedDuration,

    /// Where `/healthz`, `/readyz` and `/metrics` listen.
    #[arg(long, env = "NESTLING_ADMIN_ADDRESS", default_value = "[::]:8080")]
    pub admin_address: SocketAddr,

    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Nestling's control API.
#[derive(Clone, Debug, Parser)]
#[command(name = "nestling-control-api", version)]
pub struct ControlConfig {
    /// Namespace of the operator, of the agents and of the installation's certificate authorities.
    #[arg(long, env = "NESTLING_NAMESPACE", default_value = "nestling-system")]
    pub namespace: String,

    /// Life of certificates signed for node agents.
    #[arg(long, env = "NESTLING_AGENT_CERTIFICATE_LIFETIME", default_value = "24h")]
    pub agent_certificate_lifetime: SignedDuration,

    /// Where the control API listens.
    #[arg(long, env = "NESTLING_CONTROL_ADDRESS", default_value = "[::]:8443")]
    pub control_address: SocketAddr,

    /// Where `/healthz`, `/readyz` and `/metrics` listen.
    #[arg(long, env = "NESTLING_ADMIN_ADDRESS", default_value = "[::]:8080")]
    pub admin_address: SocketAddr,

    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

impl ControlConfig {
    /// Host name of the control API, in its certificate and in the arguments of its callers.
    pub(crate) fn control_host(&self) -> String {
        consts::control_host(&self.namespace)
    }
}
