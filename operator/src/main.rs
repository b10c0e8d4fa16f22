//! The binary of the operator and of the control API.

use clap::Parser as _;
use nestling_operator::app;
use nestling_operator::config::{Cli, Program};
use nestling_runtime::process;
use std::process::ExitCode;
use std::time::Duration;

/// Time for reconciles and calls under way to finish.
const DRAIN: Duration = Duration::from_secs(25);

fn main() -> ExitCode {
    match Cli::parse().program {
        Program::Operator(config) => {
            let (telemetry, admin) = (config.telemetry.clone(), config.admin_address);
            process::run(&telemetry, admin, DRAIN, |process| app::run(*config, process))
        }
        Program::ControlApi(config) => {
            let (telemetry, admin) = (config.telemetry.clone(), config.admin_address);
            process::run(&telemetry, admin, DRAIN, |process| app::serve(config, process))
        }
    }
}
