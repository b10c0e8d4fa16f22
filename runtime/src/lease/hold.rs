//! The loop that looks at the lease, takes it, renews it and gives it up.

use super::decide::{Decision, Observed, decide};
use super::{Claim, LeaseError, LeaseParams, record};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A renewal that takes longer is given up and tried again.
const CALL: Duration = Duration::from_secs(3);

pub(super) struct Holder {
    api: Api<Lease>,
    params: LeaseParams,
    claims: watch::Sender<Option<Claim>>,
    /// The lease as it was last seen in the API.
    known: Option<Lease>,
    /// What is known may be old: read it before the next write.
    look: bool,
    observed: Option<Observed>,
    /// When the last successful write of ours was sent, while we hold the lease.
    renewed: Option<Instant>,
}

impl Holder {
    pub(super) fn new(api: Api<Lease>, params: LeaseParams, claims: watch::Sender<Option<Claim>>) -> Self {
        Self { api, params, claims, known: None, look: true, observed: None, renewed: None }
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
                    // A write may or may not have arrived: look before the next one.
                    self.look = true;
                    if failure.as_ref().is_none_or(|error| !is_race(error)) {
                        let error = failure.as_ref().map_or_else(|| format!("no answer within {limit:?}"), ToString::to_string);
                        tracing::warn!(lease = self.params.name, error, "cannot reach the lease");
                    }
                    // A holder leaves itself time for one more try.
                    sleep(self.left().map_or(self.params.retry_every, |left| (left / 2).min(self.params.retry_every))).await;
                }
            }
        }
    }

    /// How long a holder may still go on without a renewal.
    fn left(&self) -> Option<Duration> {
        self.renewed.map(|renewed| (renewed + self.params.renew_deadline).saturating_duration_since(Instant::now()))
    }

    /// One look and at most one write; how long to pause after it.
    async fn turn(&mut self) -> Result<Duration, kube::Error> {
        if self.look || self.renewed.is_none() {
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
        let lease = self.write(record::held(self.known.as_ref(), &self.params, Timestamp::now())).await?;
        if self.renewed.replace(sent).is_none() {
            tracing::info!(lease = self.params.name, identity = self.params.identity, "holding the lease");
        }
        self.observe(Some(lease));
        self.publish();
        Ok(self.params.renew_every)
    }

    fn observe(&mut self, lease: Option<Lease>) {
        let unchanged = matches!((&self.known, &lease), (Some(a), Some(b)) if record::is_same(a, b));
        self.observed = match (&lease, self.observed.take()) {
            (Some(_), Some(observed)) if unchanged => Some(observed),
            (Some(lease), _) => Some(record::observed(lease, Instant::now(), self.params.duration)),
            (None, _) => None,
        };
        self.known = lease;
        self.look = false;
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
            // A renewal may have been cut off half-way, so what we know may be old.
            let lease = self.api.get_opt(&self.params.name).await?;
            match lease {
                Some(lease) if record::holder(&lease) == Some(self.params.identity.as_str()) => {
                    self.write(record::released(&lease, &self.params, Timestamp::now())).await.map(drop)
                }
                _ => Ok(()),
            }
        };
        match timeout(CALL, release).await {
            Ok(Err(source)) => Err(LeaseError::Release { name: self.params.name.clone(), source }),
            // Unanswered: it runs out by itself.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// Another replica was faster: nothing that anybody need know.
fn is_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists())
}
