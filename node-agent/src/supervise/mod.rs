//! One task per tenant that the operator assigns to this node. `tenant` runs the parts of one tenant while it is assigned,
//! which `parts` restarts when one of them ends; `cleanup` removes its objects from the host once it no longer is.
//!
//! With `app`, this folder alone imports all parts of the agent.

mod cleanup;
mod parts;
mod tenant;

#[cfg(test)]
mod tests;

pub(crate) use tenant::AgentParts;

use crate::control::Change;
use crate::tenant::TenantSpec;
use nestling_crds::names::TenantUid;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// What a tenant's task is to do: serve this, or (`None`) clean up and end.
type Assignment = Option<Arc<TenantSpec>>;

/// Serves the tenants that `changes` names until `shutdown`, then waits for all of them to stop. Stopping leaves the
/// pods of tenants running: the next agent takes over from there.
pub(crate) async fn run(agent: Arc<AgentParts>, mut changes: mpsc::Receiver<Change>, shutdown: CancellationToken) {
    let mut tenants: HashMap<TenantUid, watch::Sender<Assignment>> = HashMap::new();
    let mut tasks: JoinSet<TenantUid> = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = tasks.join_next() => match ended {
                // A tenant may have come back after its task had decided to end.
                Ok(uid) => {
                    let again = tenants.remove(&uid).and_then(|assigned| assigned.borrow().clone());
                    if let Some(spec) = again {
                        start(&agent, &mut tenants, &mut tasks, spec, &shutdown);
                    }
                }
                Err(error) => tracing::error!(%error, "a tenant's task ended unexpectedly"),
            },
            change = changes.recv() => match change {
                Some(Change::Serve(spec)) => match tenants.get(&spec.uid) {
                    Some(assigned) => drop(assigned.send_replace(Some(Arc::new(*spec)))),
                    None => start(&agent, &mut tenants, &mut tasks, Arc::new(*spec), &shutdown),
                },
                Some(Change::Remove(uid)) => {
                    if let Some(assigned) = tenants.get(&uid) {
                        assigned.send_replace(None);
                    }
                }
                // Removes rules that a former agent left for other tenants; those of tenants still being cleaned up stay.
                Some(Change::Synced(assigned)) => agent.proxy.keep_only(assigned.into_iter().chain(tenants.keys().cloned()).collect()),
                None => break,
            },
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a tenant's task ended unexpectedly");
        }
    }
}

fn start(
    agent: &Arc<AgentParts>,
    tenants: &mut HashMap<TenantUid, watch::Sender<Assignment>>,
    tasks: &mut JoinSet<TenantUid>,
    spec: Arc<TenantSpec>,
    shutdown: &CancellationToken,
) {
    let span = tracing::info_span!("tenant", tenant = %format_args!("{}/{}", spec.namespace, spec.name));
    let uid = spec.uid.clone();
    let (sender, assigned) = watch::channel(Some(spec));
    tenants.insert(uid.clone(), sender);
    tasks.spawn(serve(agent.clone(), uid, assigned, shutdown.clone()).instrument(span));
}

/// Serves one tenant as it is assigned; a change of its description restarts its tasks.
async fn serve(
    agent: Arc<AgentParts>,
    uid: TenantUid,
    mut assigned: watch::Receiver<Assignment>,
    shutdown: CancellationToken,
) -> TenantUid {
    let mut last = None;
    loop {
        let now = assigned.borrow_and_update().clone();
        let Some(spec) = now else { break };
        last = Some(spec.clone());
        let stop = shutdown.child_token();
        let changed = async {
            if assigned.changed().await.is_err() {
                shutdown.cancelled().await;
            }
            stop.cancel();
        };
        let work = async {
            if spec.hibernated {
                clean_up(&agent, &spec, &shutdown).await;
                stop.cancelled().await;
            } else {
                tenant::run(&agent, &spec, stop.clone()).await;
            }
        };
        tokio::join!(Box::pin(work), changed_or_shutdown(changed, &shutdown));
        if shutdown.is_cancelled() {
            return uid;
        }
    }
    if let Some(spec) = last {
        clean_up(&agent, &spec, &shutdown).await;
    }
    uid
}

/// Removes the tenant's objects from this node. To the end, also when the cluster wakes meanwhile: a pod that is being stopped
/// could not start again.
async fn clean_up(agent: &AgentParts, spec: &TenantSpec, shutdown: &CancellationToken) {
    if shutdown.run_until_cancelled(cleanup::run(&agent.host, &agent.node, spec)).await.is_none() {
        tracing::warn!("stopping before the tenant's pods are removed from this node");
        return;
    }
    agent.proxy.remove(&spec.uid);
}

async fn changed_or_shutdown(changed: impl Future<Output = ()>, shutdown: &CancellationToken) {
    let _: Option<()> = shutdown.run_until_cancelled(changed).await;
}
