//! `make bench`: writes `docs/benchmarks.md`.

use clap::Parser;
use nestling_e2e::bench::{Rounds, run};
use std::path::PathBuf;

/// Benchmarks against a host cluster with Nestling installed.
#[derive(Parser)]
struct Args {
    /// Starts of a tenant, and of the bare programs.
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Single pods on each side.
    #[arg(long, default_value_t = 20)]
    pods: usize,
    /// Pods of a burst.
    #[arg(long, default_value_t = 60)]
    burst: usize,
    /// Bursts on each side.
    #[arg(long, default_value_t = 3)]
    bursts: usize,
    /// Where the tables go.
    #[arg(long, default_value = "docs/benchmarks.md")]
    output: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    run(Rounds { starts: args.starts, pods: args.pods, burst: args.burst, bursts: args.bursts }, &args.output)
}
