//! `hostcluster`: a real multi-node Kubernetes cluster on this machine, without Docker, registry or internet images.
use clap::Parser;
use nestling_e2e::hostcluster::cli::{Cli, run};

fn main() -> std::process::ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hostcluster: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
