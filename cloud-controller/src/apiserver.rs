//! The tenant's apiserver: a client from a kubeconfig file, and the command that waits for it to be ready.
//!
//! The command is a hook that holds other controllers back: those that start before the API has its roles exit, and are
//! restarted only after a back-off.

use clap::ValueEnum;
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const CONNECT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const PROBE: Duration = Duration::from_secs(2);
/// How often the last answer is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("cannot read the kubeconfig {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: KubeconfigError,
    },
    #[error("the kubeconfig {} cannot be used", path.display())]
    Client {
        path: PathBuf,
        #[source]
        source: kube::Error,
    },
}

/// With `retry` the client repeats requests that an overloaded server has refused.
pub(crate) async fn client(path: &Path, retry: bool) -> Result<Client, ClientError> {
    let read = |source| ClientError::Read { path: path.into(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(read)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(read)?;
    config.connect_timeout = Some(CONNECT);
    config.default_retry = retry;
    Client::try_from(config).map_err(|source| ClientError::Client { path: path.into(), source })
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WaitArgs {
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
pub(crate) enum Condition {
    /// `/readyz` answers ok: the API serves, and its default roles are there.
    Readyz,
}

/// Waits until the apiserver is ready; returns early, without an error, on `shutdown`.
pub(crate) async fn wait(args: &WaitArgs, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let Condition::Readyz = args.condition;
    let client = client(&args.kubeconfig, false).await?;
    let limit = Duration::from_secs(args.timeout);
    let start = Instant::now();
    let mut logged = start;
    let ready = async {
        loop {
            let answer = match timeout(PROBE, is_ready(&client)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {PROBE:?}"),
            };
            if logged.elapsed() >= LOG_EVERY {
                logged = Instant::now();
                tracing::info!(answer, after = ?start.elapsed(), "the apiserver is not ready");
            }
            sleep(LOOK_EVERY).await;
        }
    };
    match shutdown.run_until_cancelled(timeout(limit, ready)).await {
        Some(Ok(())) => tracing::info!(after = ?start.elapsed(), "the apiserver is ready"),
        Some(Err(_)) => anyhow::bail!("the apiserver was not ready within {limit:?}"),
        None => tracing::info!("stopped before the apiserver was ready"),
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
