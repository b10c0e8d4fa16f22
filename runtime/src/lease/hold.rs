//! The loop that reads the lease, takes it, renews it and gives it up.

use super::record::{Decision, LeaseParams, Observed, decide, held, holder, is_same, observed, released};
use crate::error::chain;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Who holds the lease, and until when that may be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub holder: String,
    pub expiry: Instant,
}

impl Claim {
    pub fn is_current_for(&self, identity: &str, now: Instant) -> bool {
        self.holder == identity && now < self.expiry
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("the lease {name} could not be renewed for {after:?}")]
    Expired {
        name: String,
        after: Duration,
        #[source]
        source: Option<kube::Error>,
    },
    #[error("the lease {name} was taken by {holder:?}")]
    Taken { name: String, holder: String },
    #[error("cannot release the lease {name}")]
    Release {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("the lease task ended unexpectedly")]
    Task(#[source] tokio::task::JoinError),
}

/// A renewal that takes longer is given up and tried again.
const CALL: Duration = Duration::from_secs(3);

pub(super) struct Holder {
    api: Api<Lease>,
    params: LeaseParams,
    claims: watch::Sender<Option<Claim>>,
    /// The lease as it was last seen in the API.
    known: Option<Lease>,
    /// What is known may be stale: read it before the next write.
    stale: bool,
    observed: Option<Observed>,
    /// When the last successful write of ours was sent, while we hold the lease.
    renewed: Option<Instant>,
}

impl Holder {
    pub(super) fn new(api: Api<Lease>, params: LeaseParams, claims: watch::Sender<Option<Claim>>) -> Self {
        Self { api, params, claims, known: None, stale: true, observed: None, renewed: None }
    }

    /// Takes part until `stop`, then gives the lease up. Ends with an error when the lease was held and is lost.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), LeaseError> {
        let lost = stop.run_until_cancelled(self.take_part()).await;
        self.claims.send_replace(None);
        match lost {
            Some(error) => Err(error),
            None => self.give_up().await,
        }
    }

    async fn take_part(&mut self) -> LeaseError {
        let mut failure = None;
        loop {
            let left = self.left();
            if left.is_some_and(|left| left.is_zero()) {
                let (name, after) = (self.params.name.clone(), self.params.renew_deadline);
                return LeaseError::Expired { name, after, source: failure };
            }
            let limit = left.map_or(CALL, |left| left.min(CALL));
            match timeout(limit, self.turn()).await {
                Ok(Ok(pause)) => {
                    if let Some(holder) = self.taken_by() {
                        return LeaseError::Taken { name: self.params.name.clone(), holder };
                    }
                    sleep(pause).await;
                }
                failed => {
                    failure = failed.ok().and_then(Result::err);
                    // A write may or may not have arrived: read before the next one.
                    self.stale = true;
                    if failure.as_ref().is_none_or(|error| !is_race(error)) {
                        let error = failure.as_ref().map_or_else(|| format!("no answer within {limit:?}"), |error| chain(error));
                        tracing::warn!(lease = self.params.name, error, "cannot renew or read the lease; retrying");
                    }
                    // A holder keeps time for one more attempt.
                    sleep(self.left().map_or(self.params.retry_every, |left| (left / 2).min(self.params.retry_every))).await;
                }
            }
        }
    }

    /// How long a holder may still go on without a renewal.
    fn left(&self) -> Option<Duration> {
        self.renewed.map(|renewed| (renewed + self.params.renew_deadline).saturating_duration_since(Instant::now()))
    }

    /// At most one read and one write; how long to pause after them.
    async fn turn(&mut self) -> Result<Duration, kube::Error> {
        if self.stale || self.renewed.is_none() {
            let lease = self.api.get_opt(&self.params.name).await?;
            self.observe(lease);
            if self.taken_by().is_some() {
                return Ok(Duration::ZERO);
            }
        }
        let sent = Instant::now();
        if let Decision::Wait(left) = decide(self.observed.as_ref(), &self.params.identity, sent) {
            self.publish();
            return Ok(left.min(self.params.retry_every));
        }
        let lease = self.write(held(self.known.as_ref(), &self.params, Timestamp::now())).await?;
        if self.renewed.replace(sent).is_none() {
            tracing::info!(lease = self.params.name, identity = self.params.identity, "holding the lease");
        }
        self.observe(Some(lease));
        self.publish();
        Ok(self.params.renew_every)
    }

    fn observe(&mut self, lease: Option<Lease>) {
        let unchanged = matches!((&self.known, &lease), (Some(a), Some(b)) if is_same(a, b));
        self.observed = match (&lease, self.observed.take()) {
            (Some(_), Some(observed)) if unchanged => Some(observed),
            (Some(lease), _) => Some(observed(lease, Instant::now(), self.params.duration)),
            (None, _) => None,
        };
        self.known = lease;
        self.stale = false;
    }

    fn taken_by(&self) -> Option<String> {
        self.renewed?;
        let holder = self.observed.as_ref()?.holder.as_ref()?;
        (*holder != self.params.identity).then(|| holder.clone())
    }

    fn publish(&self) {
        let claim = match (self.renewed, &self.observed) {
            (Some(renewed), _) => Some(Claim { holder: self.params.identity.clone(), expiry: renewed + self.params.renew_deadline }),
            (None, Some(Observed { holder: Some(holder), duration, seen })) => {
                Some(Claim { holder: holder.clone(), expiry: *seen + *duration })
            }
            (None, _) => None,
        };
        self.claims.send_if_modified(|old| std::mem::replace(old, claim.clone()) != claim);
    }

    async fn write(&self, lease: Lease) -> Result<Lease, kube::Error> {
        let params = PostParams { field_manager: Some(self.params.field_manager.clone()), ..PostParams::default() };
        if lease.metadata.resource_version.is_some() {
            self.api.replace(&self.params.name, &params, &lease).await
        } else {
            self.api.create(&params, &lease).await
        }
    }

    async fn give_up(&mut self) -> Result<(), LeaseError> {
        let release = async {
            if self.renewed.is_none() {
                return Ok(());
            }
            // A renewal may have been cut off half-way, so what is known may be stale.
            let lease = self.api.get_opt(&self.params.name).await?;
            match lease {
                Some(lease) if holder(&lease) == Some(self.params.identity.as_str()) => {
                    self.write(released(&lease, &self.params, Timestamp::now())).await.map(drop)
                }
                _ => Ok(()),
            }
        };
        match timeout(CALL, release).await {
            Ok(Err(source)) => Err(LeaseError::Release { name: self.params.name.clone(), source }),
            // No answer: the lease expires by itself.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// Another replica was faster, which is not worth a warning.
fn is_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists())
}
