//! `kubectl-nestling`: what `kubectl get virtualclusters` cannot say or do. kubectl runs it as `kubectl nestling …`.
//!
//! Each verb is a file or folder: a thin part that reads from the host cluster, and pure parts that turn what was read into
//! text or into a kubeconfig. Output goes to stdout, errors and remarks to stderr, exit codes as kubectl's.

mod age;
mod args;
mod describe;
mod error;
mod host;
mod kubeconfig;
mod list;
mod table;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match args::run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}
