//! `make demo` and `make demo-down`, on a host cluster that has the images: installs the chart, creates an example tenant with a workload,
//! and prints the next commands.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use nestling_e2e::demo;
use std::process::ExitCode;

/// Installs Nestling into a host cluster and creates an example tenant.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install or upgrade the chart.
    Install,
    /// Create the example tenant and its workload, and print how to use them.
    Tenant,
    /// Remove the example tenant and the installation from the cluster that KUBECONFIG names.
    Uninstall,
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Install => demo::install().context("install the chart"),
        Command::Tenant => demo::tenant().context("create the example tenant"),
        Command::Uninstall => demo::uninstall().context("remove the installation"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
