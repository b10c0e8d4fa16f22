//! Leader election over a `coordination.k8s.io` Lease: every replica watches and serves, the holder writes.
//!
//! `record` has the pure rule and builds the Lease objects, `hold` is the loop that calls the API. Programs use [`Lease`]
//! (owns the loop) and [`Leadership`] (to be asked before each write).
//!
//! Every write carries the `resourceVersion` it is based on, so of two replicas that write, one fails. Whether the lease of
//! another replica has expired is judged by the local time at which its last change was seen, as client-go does, so clocks
//! need not agree. A holder considers its own claim over at the renew deadline, before any other replica can take the lease:
//! the difference is the time a write that has just been sent may still take.

mod hold;
mod record;

pub use hold::{Claim, LeaseError};
pub use record::LeaseParams;

use hold::Holder;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

    /// Ends when the lease was held and is lost: the process must stop writing, best by exiting.
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

    /// The last known holder, for logs.
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
