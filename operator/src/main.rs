//! The operator's binary.

use clap::Parser as _;
use nestling_operator::app;
use nestling_operator::config::OperatorConfig;
use nestling_runtime::process;
use std::process::ExitCode;
use std::time::Duration;

/// Time for reconciles under way to finish.
const DRAIN: Duration = Duration::from_secs(25);

fn main() -> ExitCode {
    let config = OperatorConfig::parse();
    let (telemetry, admin) = (config.telemetry.clone(), config.admin_address);
    process::run(&telemetry, admin, DRAIN, |process| app::run(config, process))
}
