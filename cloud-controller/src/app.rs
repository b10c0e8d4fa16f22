//! Wiring: the command line, and what runs.

use crate::apiserver::{WaitArgs, client, wait};
use crate::cloud;
use crate::node::NodeController;
use crate::selection::{Choice, Controller, is_on};
use anyhow::Context as _;
use nestling_crds::labels::CLOUD_CONTROLLER;
use nestling_runtime::control::ControlArgs;
use nestling_runtime::lease::{Lease, LeaseParams};
use nestling_runtime::process::Process;
use nestling_runtime::telemetry::TelemetryArgs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// How long the program may take to stop: giving up the lease is all there is to do.
pub const DRAIN: Duration = Duration::from_secs(8);

const LEASE: &str = "cloud-controller-manager";
const LEASE_NAMESPACE: &str = "kube-system";

/// The cloud-controller-manager of a tenant: the host cluster is the cloud.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "cloud-controller-manager", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Wait for an apiserver, then exit.
    Wait(WaitArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// How to reach the tenant's apiserver.
    // Required; an option only because a subcommand does without.
    #[arg(long, value_name = "FILE", required = true)]
    pub kubeconfig: Option<PathBuf>,

    /// Controllers to run: `*` for all that are on by default, `name` for on, `-name` for off.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<Choice>,

    #[command(flatten)]
    pub control: ControlArgs,

    /// PEM file with the CA of the operator's control API.
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/nestling/ca.crt")]
    pub operator_ca: PathBuf,

    /// Where health, readiness and metrics are served.
    #[arg(long, default_value = "0.0.0.0:10258")]
    pub admin_address: SocketAddr,
}

impl Cli {
    pub fn telemetry(&self) -> &TelemetryArgs {
        &self.telemetry
    }

    /// Waiting answers no probes, so it must not occupy a port.
    pub fn admin(&self) -> SocketAddr {
        if self.command.is_some() { (Ipv4Addr::LOCALHOST, 0).into() } else { self.run.admin_address }
    }

    pub async fn run(self, process: Process) -> anyhow::Result<()> {
        match self.command {
            Some(Command::Wait(args)) => wait(&args, &process.shutdown).await,
            None => Box::pin(control(self.run, process)).await,
        }
    }
}

/// Runs the controllers until shutdown, or until the lease is lost.
async fn control(args: RunArgs, process: Process) -> anyhow::Result<()> {
    let client = client(&args.kubeconfig.context("no --kubeconfig")?, true).await?;
    let mut lease = Lease::hold(client.clone(), LeaseParams::new(LEASE_NAMESPACE, LEASE, &identity(), CLOUD_CONTROLLER));
    let leadership = lease.leadership();
    let (sender, cloud) = watch::channel(None);
    let follow = cloud::follow(args.control, args.operator_ca, sender, process.readiness.pending("host nodes from the operator"));
    let node = async {
        if is_on(Controller::Node, &args.controllers) {
            let unlisted = process.readiness.pending("the tenant's Nodes");
            NodeController::new(client, cloud, leadership, &process.metrics).run(unlisted).await;
        } else {
            tracing::info!(controller = Controller::Node.name(), "switched off");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = process.shutdown.cancelled() => {}
        error = lease.lost() => return Err(error.into()),
        ((), ()) = async { tokio::join!(follow, node) } => {}
    }
    // Dropped with the branch above, nothing writes any more.
    lease.release().await?;
    Ok(())
}

/// Host name and something random, as upstream's: a restarted pod is another holder.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "cloud-controller-manager".into());
    format!("{host}_{:016x}", RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_read_as_upstream_writes_them() {
        let cli =
            Cli::try_parse_from(["ccm", "--controllers=*,-node", "--kubeconfig=/k", "--operator=https://o.svc:8443", "--operator-ca=/ca"])
                .unwrap();
        assert!(!is_on(Controller::Node, &cli.run.controllers));
        let cli = Cli::try_parse_from(["ccm", "--kubeconfig", "/k", "--controllers", "-node"]).unwrap();
        assert_eq!(cli.run.controllers, [Choice::Off(Controller::Node)]);
    }

    #[test]
    fn an_unknown_controller_is_refused() {
        let error = Cli::try_parse_from(["ccm", "--kubeconfig=/k", "--controllers=*,route"]).unwrap_err().to_string();
        assert!(error.contains("there is no controller \"route\"; this program has node"), "{error}");
    }

    #[test]
    fn waiting_needs_no_other_flag_and_takes_no_port() {
        let cli = Cli::try_parse_from(["ccm", "wait", "--kubeconfig=/k", "--for=readyz"]).unwrap();
        assert_eq!(cli.admin().port(), 0);
        assert!(Cli::try_parse_from(["ccm"]).is_err());
    }
}
