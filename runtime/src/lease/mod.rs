//! Leader election over a `coordination.k8s.io` Lease: every replica watches and serves, the holder writes.
//!
//! [`decide`] is the pure rule, `record` builds the Lease objects, `hold` is the loop that talks to the API. What a
//! program sees is [`Lease`] (owns the loop) and [`Leadership`] (asked before each write).
//!
//! Every write carries the `resourceVersion` it is based on, so two replicas never both believe a write of theirs. When
//! somebody else's lease ends is judged by the local time at which its last change was seen, as client-go does, so clocks
//! need not agree. A holder considers its own claim over at the renew deadline, before anybody else can take the lease:
//! the difference is the time a write that has just been sent may still take.

mod decide;
mod hold;
mod record;

use hold::Holder;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
pub struct LeaseParams {
    pub namespace: String,
    pub name: String,
    /// Who holds it: unique to the process, such as the pod's name.
    pub identity: String,
    pub field_manager: String,
    /// How long others wait for a silent holder.
    pub duration: Duration,
    /// How long a holder goes on without a successful renewal; shorter than `duration`.
    pub renew_deadline: Duration,
    /// How often a holder renews.
    pub renew_every: Duration,
    /// How often a replica that waits looks, and a failed write is tried again.
    pub retry_every: Duration,
}

impl LeaseParams {
    /// 15 s duration and 10 s deadline, as the controllers of Kubernetes have them; renewed every 5 s.
    pub fn new(namespace: &str, name: &str, identity: &str, field_manager: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            field_manager: field_manager.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            renew_every: Duration::from_secs(5),
            retry_every: Duration::from_secs(2),
        }
    }
}

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

/// Takes part in the election until dropped; dropping without [`Lease::release`] leaves the lease to expire.
#[derive(Debug)]
pub struct Lease {
    leadership: Leadership,
    stop: CancellationToken,
    task: JoinHandle<Result<(), LeaseError>>,
}

impl Lease {
    /// Starts to take part, on the current runtime.
    pub fn hold(client: Client, params: LeaseParams) -> Self {
        let (sender, claims) = watch::channel(None);
        let stop = CancellationToken::new();
        let leadership = Leadership { identity: params.identity.clone(), claims };
        let api: Api<LeaseObject> = Api::namespaced(client, &params.namespace);
        let task = tokio::spawn(Holder::new(api, params, sender).run(stop.clone()));
        Self { leadership, stop, task }
    }

    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Ends when the lease was held and is lost: the process must stop writing, and does so surest by ending.
    pub async fn lost(&mut self) -> LeaseError {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => std::future::pending().await,
            Err(error) => LeaseError::Task(error),
        }
    }

    /// Gives the lease up, so that the next replica need not wait. To be called when nothing writes any more.
    pub async fn release(mut self) -> Result<(), LeaseError> {
        self.stop.cancel();
        (&mut self.task).await.map_err(LeaseError::Task)?
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether this process holds the lease now.
#[derive(Clone, Debug)]
pub struct Leadership {
    identity: String,
    claims: watch::Receiver<Option<Claim>>,
}

impl Leadership {
    /// To be asked before each write.
    pub fn is_held(&self) -> bool {
        self.claims.borrow().as_ref().is_some_and(|claim| claim.is_current_for(&self.identity, Instant::now()))
    }

    /// Who holds it as far as is known, for people.
    pub fn holder(&self) -> Option<String> {
        self.claims.borrow().as_ref().map(|claim| claim.holder.clone())
    }

    /// Waits until this process holds the lease; never ends if the election has ended.
    pub async fn acquired(&mut self) {
        loop {
            if self.is_held() {
                return;
            }
            if self.claims.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
