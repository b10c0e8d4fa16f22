//! Waiting for an apiserver, as an init container: controllers that start before the API has its roles end at once and are
//! started again only after a pause.

use crate::kubeconfig;
use clap::ValueEnum;
use http::Request;
use kube::Client;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const CALL: Duration = Duration::from_secs(2);
/// How often it is said what is being waited for.
const SAY_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, clap::Args)]
pub struct WaitArgs {
    /// How to reach the apiserver.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,

    /// What to wait for.
    #[arg(long = "for", value_enum, default_value_t = Condition::Readyz)]
    pub condition: Condition,

    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Condition {
    /// `/readyz` answers ok: the API serves, and its default roles are there.
    Readyz,
}

/// Waits until the apiserver is ready; leaves early without an error when asked to.
pub async fn wait(args: &WaitArgs, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let Condition::Readyz = args.condition;
    let client = kubeconfig::client(&args.kubeconfig, false).await?;
    let limit = Duration::from_secs(args.timeout);
    let start = Instant::now();
    let mut said = start;
    let ready = async {
        loop {
            let answer = match timeout(CALL, is_ready(&client)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {CALL:?}"),
            };
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                tracing::info!(answer, after = ?start.elapsed(), "the apiserver is not ready");
            }
            sleep(LOOK_EVERY).await;
        }
    };
    match shutdown.run_until_cancelled(timeout(limit, ready)).await {
        Some(Ok(())) => tracing::info!(after = ?start.elapsed(), "the apiserver is ready"),
        Some(Err(_)) => anyhow::bail!("the apiserver was not ready within {limit:?}"),
        None => tracing::info!("asked to leave before the apiserver was ready"),
    }
    Ok(())
}

/// Not ready is an error of any kind: refused, 500 while hooks run, 403 before the role that allows the question exists.
async fn is_ready(client: &Client) -> Result<(), kube::Error> {
    let request = Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;
    use kube::client::Body;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn ready_is_a_200_of_readyz() {
        let asked = Arc::new(AtomicU32::new(0));
        let answers = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/readyz");
            let code = if answers.fetch_add(1, Ordering::Relaxed) == 0 { 500 } else { 200 };
            let answer = Response::builder().status(code).body(Body::from(b"ok".to_vec()));
            async move { Ok::<_, Infallible>(answer.unwrap()) }
        });
        let client = Client::new(service, "default");
        assert!(is_ready(&client).await.is_err());
        assert!(is_ready(&client).await.is_ok());
    }
}
