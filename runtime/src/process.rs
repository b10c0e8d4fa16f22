//! The outermost frame of a program, the same for all of them around their `run` functions.

use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::shutdown::{signals, supervise};
use crate::telemetry::TelemetryArgs;
use crate::{admin, tls};
use anyhow::Context as _;
use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a program is given by its frame.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Cancelled by the first signal; cancelling it makes the program drain and return.
    pub shutdown: CancellationToken,
    pub readiness: Readiness,
    pub metrics: Metrics,
}

/// Runs `program` on a runtime of its own: installs logs and the crypto provider, serves the admin endpoints on `admin`,
/// and gives the program `drain` to return after the first signal. An error is written to standard error with
/// all its causes, once.
pub fn run<F>(telemetry: &TelemetryArgs, admin: SocketAddr, drain: Duration, program: impl FnOnce(Process) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    match frame(telemetry, admin, drain, program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn frame<F>(telemetry: &TelemetryArgs, admin: SocketAddr, drain: Duration, program: impl FnOnce(Process) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    telemetry.install()?;
    tls::install_provider();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let result = runtime.block_on(async {
        let process = Process::default();
        let signals = signals().context("cannot listen for signals")?;
        let endpoints = admin::bind(admin, process.readiness.clone(), process.metrics.clone()).await?;
        let endpoints = tokio::spawn(endpoints);
        let draining = tokio::spawn(unready_while_draining(process.clone()));
        let result = supervise(signals, process.shutdown.clone(), drain, program(process)).await;
        endpoints.abort();
        draining.abort();
        result?
    });
    // Blocking calls that are still under way (DNS, files) must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// A draining process is to get no new work: `/readyz` fails until the end.
async fn unready_while_draining(process: Process) {
    process.shutdown.cancelled().await;
    let _draining = process.readiness.pending("draining");
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_draining_process_is_not_ready() {
        let process = Process::default();
        let task = tokio::spawn(unready_while_draining(process.clone()));
        assert!(process.readiness.is_ready());
        process.shutdown.cancel();
        while process.readiness.is_ready() {
            tokio::task::yield_now().await;
        }
        task.abort();
    }
}
