//! Follows the operator's stream of tenants, over as many connections as it takes.

use super::known::{Change, Known};
use super::{Operator, OperatorError};
use nestling_control_api::v1alpha1::WatchRequest;
use nestling_runtime::backoff::Steps;
use nestling_runtime::readiness::Pending;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(10);
const OPEN: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("cannot open the stream of tenants")]
    Connect(#[from] OperatorError),
    #[error("the operator refused the stream of tenants")]
    Open(#[source] Box<tonic::Status>),
    #[error("the operator did not open the stream of tenants within {OPEN:?}")]
    Timeout,
    #[error("the stream of tenants broke")]
    Broken(#[source] Box<tonic::Status>),
    #[error("the operator ended the stream of tenants")]
    Ended,
}

/// Sends what changes to `changes` until `shutdown`. `unsynced` is dropped once the full set has been heard.
pub async fn follow(operator: Operator, changes: mpsc::Sender<Change>, unsynced: Pending, shutdown: CancellationToken) {
    let mut unsynced = Some(unsynced);
    let mut known = Known::default();
    let mut steps = Steps::new(RETRY, RETRY_AT_MOST);
    let forever = async {
        loop {
            known.begin();
            let error = stream(&operator, &changes, &mut known, &mut unsynced).await;
            if known.is_synced() {
                steps.succeeded();
                if matches!(error, StreamError::Ended) {
                    // The operator ends streams now and then, so that callers show their token of the day.
                    tracing::debug!("the operator ended the stream of tenants; opening the next one");
                    continue;
                }
            }
            let pause = steps.failed();
            tracing::warn!(error = &error as &dyn std::error::Error, ?pause, "no word from the operator; going on with what is known");
            tokio::time::sleep(pause).await;
        }
    };
    let _: Option<()> = shutdown.run_until_cancelled(forever).await;
}

async fn stream(operator: &Operator, changes: &mpsc::Sender<Change>, known: &mut Known, unsynced: &mut Option<Pending>) -> StreamError {
    match try_stream(operator, changes, known, unsynced).await {
        Ok(()) => StreamError::Ended,
        Err(error) => error,
    }
}

async fn try_stream(
    operator: &Operator,
    changes: &mpsc::Sender<Change>,
    known: &mut Known,
    unsynced: &mut Option<Pending>,
) -> Result<(), StreamError> {
    let control = operator.reconnect().await?;
    let request = control.request(WatchRequest {}).await.map_err(OperatorError::from)?;
    let mut client = control.client();
    let opened = tokio::time::timeout(OPEN, client.watch(request)).await.map_err(|_| StreamError::Timeout)?;
    let mut events = opened.map_err(|status| StreamError::Open(Box::new(status)))?.into_inner();
    // A peer that vanishes is found by the connection's own pings, so waiting for an event needs no limit.
    while let Some(event) = events.message().await.map_err(|status| StreamError::Broken(Box::new(status)))? {
        let Some(event) = event.event else { continue };
        match known.apply(event) {
            Ok(all) => {
                for change in all {
                    if changes.send(change).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "cannot understand a tenant of the operator"),
        }
        if known.is_synced() && unsynced.take().is_some() {
            tracing::info!("the operator has told all tenants of this node");
        }
    }
    Ok(())
}
