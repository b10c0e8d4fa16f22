//! `hostcluster`: a multi-node Kubernetes cluster on this machine, without Docker.

use clap::Parser;
use nestling_hostcluster::cli::{Cli, run};

fn main() -> std::process::ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hostcluster: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
