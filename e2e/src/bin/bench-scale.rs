//! `make bench-scale`: writes its part of `docs/benchmarks.md`.

use clap::Parser;
use nestling_e2e::scale::{Plan, run};
use std::path::PathBuf;
use std::time::Duration;

/// The operator with many tenants, simulated. Needs root, for the tenants' port 443 on loopback.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 1000)]
    tenants: usize,
    /// How many of them die.
    #[arg(long, default_value_t = 100)]
    dead: usize,
    /// Seconds that the operator is watched at rest; it checks every cluster once in ten minutes.
    #[arg(long, default_value_t = 600)]
    rest: u64,
    /// Changes that are timed.
    #[arg(long, default_value_t = 40)]
    changes: usize,
    /// The operator's program.
    #[arg(long, default_value = "target/release/nestling-operator")]
    operator: PathBuf,
    /// Folder with etcd, kube-apiserver, kubectl and helm, instead of those of the local host cluster.
    #[arg(long, env = "NESTLING_BIN_DIR")]
    programs: Option<PathBuf>,
    /// Keeps logs and data in this new folder.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Where the table goes.
    #[arg(long, default_value = "docs/benchmarks.md")]
    output: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    nestling_runtime::tls::install_provider();
    let temporary = tempfile::tempdir()?;
    let plan = Plan {
        tenants: args.tenants,
        dead: args.dead,
        rest: Duration::from_secs(args.rest),
        changes: args.changes,
        operator: args.operator,
        programs: args.programs,
        folder: std::path::absolute(args.keep.as_deref().unwrap_or(temporary.path()))?,
    };
    run(&plan, &args.output).await
}
