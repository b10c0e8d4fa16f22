//! Step five: the status. [`mod@compute`] is pure: it makes the whole status out of what was applied and observed. A status that
//! does not differ is not written; changes of conditions become Events.

mod compute;
mod exposure;
mod progress;
mod version;

pub(crate) use compute::compute;
pub(crate) use progress::{Observed, ObservedEtcd, Outcome, Progress};

use crate::conditions::{ConditionState, condition};
use crate::model::ValidatedCluster;
use crate::reconcile::error::Error;
use crate::reconcile::subject::Subject;
use crate::state::Context;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Resource as _};
use nestling_crds::labels;
use nestling_crds::v1alpha1::{Phase, VirtualCluster, VirtualClusterStatus, conditions};
use serde_json::json;

/// Writes the status after `outcome`; returns whether the cluster is at rest.
pub(crate) async fn write(subject: &Subject, outcome: &Outcome<'_>, ctx: &Context) -> Result<bool, Error> {
    let previous = current(subject, ctx);
    let next = compute(&previous, subject.vc.metadata.generation, outcome, Timestamp::now());
    let at_rest = matches!(next.phase, Some(Phase::Ready | Phase::Hibernated));
    if next == previous {
        return Ok(at_rest);
    }
    let regarding = subject.object_reference();
    for StatusEvent { is_warning, reason, note } in events(&previous.conditions, &next.conditions) {
        tracing::info!(cluster = %subject.id.reference, reason, note, "status changed");
        ctx.events.send(if is_warning { EventType::Warning } else { EventType::Normal }, &regarding, &reason, &note);
    }
    patch(subject, next, ctx).await?;
    Ok(at_rest)
}

/// Records the tenant's service range, workload namespace and versions before anything is built on them, so that a reconcile
/// after a crash, or by an operator that knows other versions, uses the same ones.
pub(crate) async fn claim(subject: &Subject, cluster: &ValidatedCluster, ctx: &Context) -> Result<(), Error> {
    let previous = current(subject, ctx);
    let ranges = vec![cluster.service_cidr.to_string()];
    if previous.service_cidrs == ranges && previous.release.as_ref() == Some(&cluster.release) {
        return Ok(());
    }
    let state = ConditionState::yes("Starting", "");
    let mut shown = previous.conditions.clone();
    // Without a condition, a status reads as one of an object that is done.
    shown.retain(|old| old.type_ != conditions::RECONCILING);
    shown.push(condition(&[], conditions::RECONCILING, &state, subject.vc.metadata.generation, Timestamp::now()));
    let next = VirtualClusterStatus {
        conditions: shown,
        service_cidrs: ranges,
        workload_namespace: Some(cluster.workload_namespace.to_string()),
        release: Some(cluster.release.clone()),
        // Until pods show otherwise.
        version: previous.version.clone().or_else(|| Some(cluster.release.kubernetes.clone())),
        phase: previous.phase.or(Some(Phase::Provisioning)),
        ..previous
    };
    patch(subject, next, ctx).await
}

fn current(subject: &Subject, ctx: &Context) -> VirtualClusterStatus {
    ctx.state.with(&subject.id.uid, |state| state.status.clone()).unwrap_or_else(|| subject.status())
}

async fn patch(subject: &Subject, status: VirtualClusterStatus, ctx: &Context) -> Result<(), Error> {
    let api: Api<VirtualCluster> = Api::namespaced(ctx.host.clone(), &subject.id.namespace);
    let body = json!({
        "apiVersion": VirtualCluster::api_version(&()),
        "kind": VirtualCluster::kind(&()),
        // With the UID, a later cluster of the same name is not touched.
        "metadata": {"name": subject.id.name, "uid": subject.id.uid.as_str()},
        "status": status,
    });
    let params = PatchParams::apply(labels::OPERATOR_STATUS).force();
    api.patch_status(&subject.id.name, &params, &Patch::Apply(body)).await.map_err(Error::Status)?;
    ctx.state.with(&subject.id.uid, |state| state.status = Some(status));
    Ok(())
}

/// An Event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StatusEvent {
    is_warning: bool,
    reason: String,
    note: String,
}

/// An Event for each condition whose status or reason changed, except conditions that repeat others.
fn events(before: &[Condition], after: &[Condition]) -> Vec<StatusEvent> {
    let changed = |condition: &&Condition| {
        let old = before.iter().find(|old| old.type_ == condition.type_);
        old.is_none_or(|old| (&old.status, &old.reason) != (&condition.status, &condition.reason))
    };
    after.iter().filter(changed).filter_map(event).collect()
}

fn event(condition: &Condition) -> Option<StatusEvent> {
    let Condition { type_, status, reason, message, .. } = condition;
    match (type_.as_str(), status.as_str()) {
        // Ready=False and these repeat the condition behind them.
        (conditions::PROGRESSING | conditions::RECONCILING | conditions::STALLED, _) | (_, "Unknown") | (conditions::READY, "False") => {
            None
        }
        (conditions::VALID | conditions::DEGRADED, _) if !is_failure(condition) => None,
        (conditions::READY, _) => Some(StatusEvent { is_warning: false, reason: "Ready".into(), note: "the cluster is ready".into() }),
        (_, "True") if !is_failure(condition) => Some(StatusEvent { is_warning: false, reason: type_.clone(), note: message.clone() }),
        _ => Some(StatusEvent { is_warning: is_failure(condition), reason: reason.clone(), note: format!("{type_}: {message}") }),
    }
}

/// Whether it does not resolve by itself.
fn is_failure(condition: &Condition) -> bool {
    let waits = condition.reason.starts_with("WaitingFor");
    match (condition.type_.as_str(), condition.status.as_str()) {
        (conditions::DEGRADED, status) => status == "True",
        (_, "False") => !waits,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Stores;
    use crate::reconcile::subject;
    use crate::state::testing::context;
    use jiff::Timestamp;
    use kube::core::DeserializeGuard;
    use nestling_runtime::testing::{ApiServer, Fault};

    fn all(states: &[(&str, ConditionState)]) -> Vec<Condition> {
        states.iter().map(|(type_, state)| condition(&[], type_, state, Some(1), Timestamp::UNIX_EPOCH)).collect()
    }

    #[test]
    fn waits_and_failures_become_one_event_each() {
        let waiting = all(&[
            (conditions::VALID, ConditionState::yes("Accepted", "")),
            (conditions::API_SERVER_READY, ConditionState::no("WaitingForPod", "pod a is starting")),
            (conditions::NODES_READY, ConditionState::unknown("WaitingForAPIServer", "")),
            (conditions::READY, ConditionState::no("WaitingForPod", "APIServerReady: pod a is starting")),
            (conditions::PROGRESSING, ConditionState::yes("WaitingForPod", "")),
            (conditions::DEGRADED, ConditionState::no("Starting", "")),
        ]);
        let first = events(&[], &waiting);
        assert_eq!(
            first,
            [StatusEvent { is_warning: false, reason: "WaitingForPod".into(), note: "APIServerReady: pod a is starting".into() }]
        );
        assert!(events(&waiting, &waiting).is_empty());

        let stuck = all(&[(conditions::API_SERVER_READY, ConditionState::no("ImagePullBackOff", "no such image"))]);
        let second = events(&waiting, &stuck);
        assert_eq!(
            second,
            [StatusEvent { is_warning: true, reason: "ImagePullBackOff".into(), note: "APIServerReady: no such image".into() }]
        );

        let up = all(&[
            (conditions::API_SERVER_READY, ConditionState::yes("Available", "1 of 1")),
            (conditions::READY, ConditionState::yes("Ready", "")),
        ]);
        let reasons: Vec<_> = events(&stuck, &up).into_iter().map(|event| (event.is_warning, event.reason)).collect();
        assert_eq!(reasons, [(false, "APIServerReady".to_owned()), (false, "Ready".to_owned())]);
    }

    #[test]
    fn an_invalid_spec_and_a_lost_part_are_warnings() {
        let wrong = all(&[
            (conditions::VALID, ConditionState::no("Invalid", "spec.x: no")),
            (conditions::DEGRADED, ConditionState::yes("ApplyFailed", "why")),
        ]);
        let reasons: Vec<_> = events(&[], &wrong).into_iter().map(|event| (event.is_warning, event.reason)).collect();
        assert_eq!(reasons, [(true, "Invalid".to_owned()), (true, "ApplyFailed".to_owned())]);
    }

    fn cluster(api: &ApiServer) -> VirtualCluster {
        let object = json!({"metadata": {"namespace": "team", "name": "dev"}, "spec": {}});
        api.put(&serde_json::from_value::<VirtualCluster>(object).unwrap())
    }

    fn nothing() -> Observed {
        Observed {
            members: None,
            apiserver: None,
            controllers: None,
            pods: Vec::new(),
            inside: crate::tenant::observe::Observation::default(),
            etcd: ObservedEtcd::default(),
            dns_unmanaged: false,
        }
    }

    fn subject(cluster: &VirtualCluster, ctx: &Context) -> Subject {
        subject::read(&DeserializeGuard(Ok(cluster.clone())), ctx).unwrap().1.unwrap()
    }

    #[tokio::test]
    async fn a_status_is_written_once_although_the_watch_is_behind() {
        let api = ApiServer::new();
        let ctx = context(&api.client(), Stores::new().0);
        let watched = cluster(&api);
        assert!(!write(&subject(&watched, &ctx), &Outcome::Paused(&nothing()), &ctx).await.unwrap());
        assert_eq!(api.take_writes(), ["apply virtualclusters/status team/dev"]);
        let live: VirtualCluster = api.get("team", "dev").unwrap();
        assert_eq!(live.status.unwrap().phase, Some(Phase::Paused));
        // Still without the status that was written.
        write(&subject(&watched, &ctx), &Outcome::Paused(&nothing()), &ctx).await.unwrap();
        assert!(api.take_writes().is_empty());
        write(&subject(&watched, &ctx), &Outcome::Deleting("namespace x is being deleted"), &ctx).await.unwrap();
        assert_eq!(api.take_writes().len(), 1);
    }

    #[tokio::test]
    async fn a_status_that_could_not_be_written_is_written_again() {
        let api = ApiServer::new();
        let ctx = context(&api.client(), Stores::new().0);
        let watched = cluster(&api);
        api.inject("apply", "virtualclusters/status", 1, Fault::Status(500));
        assert!(matches!(write(&subject(&watched, &ctx), &Outcome::Paused(&nothing()), &ctx).await, Err(Error::Status(_))));
        write(&subject(&watched, &ctx), &Outcome::Paused(&nothing()), &ctx).await.unwrap();
        let live: VirtualCluster = api.get("team", "dev").unwrap();
        assert_eq!(live.status.unwrap().phase, Some(Phase::Paused));
    }

    #[tokio::test]
    async fn a_later_cluster_of_the_same_name_does_not_get_the_status() {
        let api = ApiServer::new();
        let ctx = context(&api.client(), Stores::new().0);
        let former = cluster(&api);
        api.remove::<VirtualCluster>("team", "dev");
        let later = cluster(&api);
        assert_ne!(former.metadata.uid, later.metadata.uid);
        assert!(matches!(write(&subject(&former, &ctx), &Outcome::Paused(&nothing()), &ctx).await, Err(Error::Status(_))));
        assert_eq!(api.get::<VirtualCluster>("team", "dev").unwrap().status, None);
    }
}
