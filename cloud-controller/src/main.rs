//! cloud-controller-manager.

use clap::Parser as _;
use nestling_cloud_controller::app::{Cli, DRAIN};
use nestling_runtime::process;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (telemetry, admin) = (cli.telemetry().clone(), cli.admin());
    process::run(&telemetry, admin, DRAIN, |process| cli.run(process))
}
