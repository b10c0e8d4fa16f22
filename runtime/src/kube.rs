//! Calls of a Kubernetes API as every program makes them: with a deadline, deletes with a precondition, watches that
//! survive any outage.

use crate::backoff::Backoff;
use crate::error::chain;
use futures::{Stream, StreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::Status;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Limit of every call.
pub const DEADLINE: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no answer within {DEADLINE:?}")]
    Deadline,
    #[error("the object has no UID, so it cannot be distinguished from another of its name")]
    NoUid,
}

/// Gives up a call after [`DEADLINE`], with a [`kube::Error::Service`]. Whether the API has done what was asked is then
/// unknown.
pub async fn call<T>(future: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service(CallError::Deadline.into())),
    }
}

/// Whether the API refused a write because the object it names by UID is gone (404), or was changed or replaced by another of
/// its name (409). A patch with the UID of another object is refused as a change of an immutable field (422).
pub fn is_gone_or_changed(status: &Status) -> bool {
    let causes = || status.details.iter().flat_map(|details| &details.causes);
    status.is_not_found() || status.is_conflict() || (status.is_invalid() && causes().any(|cause| cause.field == "metadata.uid"))
}

/// Deletes the object of this name and UID, with its dependents in the background; whether the API took the request. An
/// object that is gone, or replaced by another one of its name, is `false`.
pub async fn delete_exact<K>(api: &Api<K>, object: &ObjectMeta, grace_seconds: Option<u32>) -> kube::Result<bool>
where
    K: Clone + DeserializeOwned + Debug,
{
    if object.uid.as_deref().is_none_or(str::is_empty) {
        return Err(kube::Error::Service(CallError::NoUid.into()));
    }
    let params = DeleteParams {
        grace_period_seconds: grace_seconds,
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid: object.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match call(api.delete(object.name.as_deref().unwrap_or_default(), &params)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if is_gone_or_changed(&status) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Server-side apply as `manager`, which takes over fields that others manage; the object as it is then.
pub async fn apply<K>(api: &Api<K>, manager: &str, object: &K) -> kube::Result<K>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    call(api.patch(&object.name_any(), &PatchParams::apply(manager).force(), &Patch::Apply(object))).await
}

/// Feeds the events of a watch to `act` until `shutdown`, as [`events`] has them.
pub async fn follow<K>(api: Api<K>, config: Config, what: &'static str, shutdown: CancellationToken, mut act: impl FnMut(Event<K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(events(api, config, what));
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        act(event);
    }
}

/// The events of a watch, for ever, as [`attempts`] has them; each outage is logged as one warning that names `what` is
/// watched.
pub fn events<K>(api: Api<K>, config: Config, what: &'static str) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut failing = false;
    attempts(api, config).filter_map(move |attempt| {
        let event = match attempt {
            Ok(event) => {
                failing &= matches!(event, Event::Init);
                Some(event)
            }
            Err((error, pause)) => {
                if failing {
                    tracing::debug!(what, error = chain(&error), ?pause, "watch failed again");
                } else {
                    tracing::warn!(what, error = chain(&error), ?pause, "watch failed; retrying");
                }
                failing = true;
                None
            }
        };
        std::future::ready(event)
    })
}

/// The object of this name after each change, for ever, as [`events`] watches it; `None` while there is none.
pub fn object<K>(api: Api<K>, name: &str, what: &'static str) -> impl Stream<Item = Option<K>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let mut listed = None;
    events(api, config, what).filter_map(move |event| {
        std::future::ready(match event {
            Event::Apply(object) => Some(Some(object)),
            Event::Delete(_) => Some(None),
            Event::Init => {
                listed = None;
                None
            }
            Event::InitApply(object) => {
                listed = Some(object);
                None
            }
            Event::InitDone => Some(listed.take()),
        })
    })
}

/// The events of a watch, for ever, and its failures, each with the pause ([`Backoff::watch`]) that follows it before the
/// next attempt.
pub fn attempts<K>(api: Api<K>, config: Config) -> impl Stream<Item = Result<Event<K>, (watcher::Error, Duration)>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let state = (watcher(api, config).boxed(), Backoff::watch(), None);
    futures::stream::unfold(state, |(mut events, mut backoff, pause)| async move {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        Some(match events.next().await? {
            Ok(event) => {
                // `Init` opens each attempt to list, before the API has answered anything: kube's own back-off starts over
                // with it, and so retries without a pause while the API is away.
                if !matches!(event, Event::Init) {
                    backoff.succeeded();
                }
                (Ok(event), (events, backoff, None))
            }
            Err(error) => {
                let pause = backoff.failed();
                (Err((error, pause)), (events, backoff, Some(pause)))
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ApiServer, Fault};
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};
    use tokio::time::Instant;

    /// ConfigMap `default/a` with the UID `u`.
    fn with_map() -> (ApiServer, Api<ConfigMap>) {
        let server = ApiServer::new();
        server.put(&ConfigMap { metadata: meta(Some("u")), ..ConfigMap::default() });
        let api = Api::namespaced(server.client(), "default");
        (server, api)
    }

    fn meta(uid: Option<&str>) -> ObjectMeta {
        ObjectMeta { name: Some("a".into()), namespace: Some("default".into()), uid: uid.map(Into::into), ..ObjectMeta::default() }
    }

    fn refusal(code: u16, field: Option<&str>) -> Value {
        let reason = match code {
            404 => "NotFound",
            409 => "Conflict",
            422 => "Invalid",
            _ => "Other",
        };
        let causes: Vec<_> = field.iter().map(|field| json!({"field": field})).collect();
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "details": {"causes": causes}})
    }

    #[test]
    fn a_write_to_an_object_that_is_gone_or_changed_is_told_from_a_bad_one() {
        let refused = |code, field| is_gone_or_changed(&serde_json::from_value(refusal(code, field)).unwrap());
        assert!(refused(404, None) && refused(409, None) && refused(422, Some("metadata.uid")));
        assert!(!refused(422, None) && !refused(422, Some("spec.nodeName")) && !refused(403, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_gets_no_answer_is_given_up() {
        let start = Instant::now();
        let error = call(std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        assert_eq!(start.elapsed(), DEADLINE);
        assert_eq!(chain(&error), "ServiceError: no answer within 15s");
    }

    #[tokio::test]
    async fn only_the_very_object_is_deleted() {
        let (server, api) = with_map();
        assert!(!delete_exact(&api, &meta(Some("other")), None).await.unwrap(), "replaced by another");
        assert!(server.get::<ConfigMap>("default", "a").is_some());
        assert!(delete_exact(&api, &meta(Some("u")), Some(7)).await.unwrap());
        let expected = json!({"gracePeriodSeconds": 7, "preconditions": {"uid": "u"}, "propagationPolicy": "Background"});
        assert_eq!(server.requests()[1].body, expected);
        assert!(server.get::<ConfigMap>("default", "a").is_none());
        assert!(!delete_exact(&api, &meta(Some("u")), None).await.unwrap(), "gone");
        server.inject("delete", "configmaps", 1, Fault::Status(403));
        assert!(matches!(delete_exact(&api, &meta(Some("u")), None).await, Err(kube::Error::Api(_))));
    }

    #[tokio::test]
    async fn an_object_without_a_uid_is_not_deleted() {
        let (server, api) = with_map();
        assert!(delete_exact(&api, &meta(None), None).await.is_err());
        assert!(server.requests().is_empty());
    }

    #[tokio::test]
    async fn apply_takes_over_fields_for_its_manager() {
        let (server, api) = with_map();
        server.edit::<ConfigMap>("default", "a", |map| map["data"] = json!({"x": "theirs"}));
        let data = Some([("x".to_owned(), "mine".to_owned())].into());
        let applied = apply(&api, "me", &ConfigMap { metadata: meta(None), data, ..ConfigMap::default() }).await.unwrap();
        assert_eq!((applied.uid().as_deref(), applied.data.unwrap()["x"].as_str()), (Some("u"), "mine"));
        assert_eq!((server.requests()[0].verb, server.requests()[0].query["fieldManager"].as_str()), ("apply", "me"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_spaces_its_retries_while_the_api_is_away() {
        let (server, api) = with_map();
        server.inject("*", "*", usize::MAX, Fault::Status(503));
        let shutdown = CancellationToken::new();
        let watch = tokio::spawn(follow(api, Config::default(), "test", shutdown.clone(), |event| assert!(matches!(event, Event::Init))));
        tokio::time::sleep(Duration::from_secs(120)).await;
        shutdown.cancel();
        watch.await.unwrap();
        let times: Vec<Instant> = server.requests().iter().map(|request| request.at).collect();
        let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        // Half a minute with a request each 160 ms, then fewer and fewer.
        assert!((185..210).contains(&times.len()), "{}: {pauses:?}", times.len());
        assert_eq!(pauses.last(), Some(&Duration::from_secs(20)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_is_followed_through_changes_its_end_and_lost_history() {
        let (server, api) = with_map();
        let mut changes = std::pin::pin!(object(api, "a", "test"));
        let mut next = async || tokio::time::timeout(Duration::from_secs(60), changes.next()).await.unwrap().unwrap().map(|map| map.data);
        let set = |x: &str| server.edit::<ConfigMap>("default", "a", |map| map["data"] = json!({"x": x}));
        let data = |x: &str| Some(Some([("x".to_owned(), x.to_owned())].into()));
        assert_eq!(next().await, Some(None), "listed");
        server.put(&ConfigMap { metadata: ObjectMeta { name: Some("b".into()), ..meta(None) }, ..ConfigMap::default() });
        set("1");
        assert_eq!(next().await, data("1"), "not the other object");
        set("2");
        server.compact();
        assert_eq!(next().await, data("2"), "listed again");
        server.remove::<ConfigMap>("default", "a");
        assert_eq!(next().await, None);
        server.put(&ConfigMap { metadata: meta(None), ..ConfigMap::default() });
        assert_eq!(next().await, Some(None));
        server.remove::<ConfigMap>("default", "a");
        server.compact();
        assert_eq!(next().await, None, "no longer listed");
    }
}
