//! The node agent.

use clap::Parser as _;
use nestling_node_agent::app::{Args, DRAIN, run};
use nestling_runtime::process;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    process::run(&args.telemetry.clone(), args.admin_address, DRAIN, |process| run(args, process))
}
