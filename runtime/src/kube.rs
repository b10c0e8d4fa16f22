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
    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};
    use tokio::time::Instant;

    type Requests = Arc<Mutex<Vec<(Instant, Request<Value>)>>>;

    /// An API that answers every request alike; what it was asked, and when.
    fn api(code: u16, answer: &Value) -> (Api<ConfigMap>, Requests) {
        let requests = Requests::default();
        let (log, answer) = (requests.clone(), answer.to_string());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (log, answer) = (log.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
                log.lock().unwrap().push((Instant::now(), Request::from_parts(parts, body)));
                Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(answer.into_bytes())).unwrap())
            }
        });
        (Api::namespaced(Client::new(service, "default"), "default"), requests)
    }

    fn failure(code: u16) -> (Api<ConfigMap>, Requests) {
        api(code, &refusal(code, None))
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

    fn meta(uid: Option<&str>) -> ObjectMeta {
        ObjectMeta { name: Some("a".into()), uid: uid.map(Into::into), ..ObjectMeta::default() }
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
        let (api, requests) = api(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
        assert!(delete_exact(&api, &meta(Some("u")), Some(7)).await.unwrap());
        let (_, request) = requests.lock().unwrap().pop().unwrap();
        assert_eq!((request.method().as_str(), request.uri().path()), ("DELETE", "/api/v1/namespaces/default/configmaps/a"));
        let expected = json!({"gracePeriodSeconds": 7, "preconditions": {"uid": "u"}, "propagationPolicy": "Background"});
        assert_eq!(request.body(), &expected);
    }

    #[tokio::test]
    async fn an_object_that_is_gone_or_replaced_needs_no_deletion() {
        for code in [404, 409] {
            assert!(!delete_exact(&failure(code).0, &meta(Some("u")), None).await.unwrap());
        }
        assert!(matches!(delete_exact(&failure(403).0, &meta(Some("u")), None).await, Err(kube::Error::Api(_))));
    }

    #[tokio::test]
    async fn an_object_without_a_uid_is_not_deleted() {
        let (api, requests) = failure(404);
        assert!(delete_exact(&api, &meta(None), None).await.is_err());
        assert!(requests.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn apply_forces_and_names_its_manager() {
        let (api, requests) = api(200, &json!({"metadata": {"name": "a", "uid": "u"}}));
        let object = ConfigMap { metadata: meta(None), ..ConfigMap::default() };
        assert_eq!(apply(&api, "me", &object).await.unwrap().metadata.uid.as_deref(), Some("u"));
        let (_, request) = requests.lock().unwrap().pop().unwrap();
        let query = request.uri().query().unwrap();
        assert!(query.contains("force=true") && query.contains("fieldManager=me"), "{query}");
        assert_eq!(request.headers()["content-type"], "application/apply-patch+yaml");
        assert_eq!(request.body(), &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_spaces_its_retries_while_the_api_is_away() {
        let (api, requests) = failure(503);
        let shutdown = CancellationToken::new();
        let watch = tokio::spawn(follow(api, Config::default(), "test", shutdown.clone(), |event| assert!(matches!(event, Event::Init))));
        tokio::time::sleep(Duration::from_secs(120)).await;
        shutdown.cancel();
        watch.await.unwrap();
        let times: Vec<Instant> = requests.lock().unwrap().iter().map(|(at, _)| *at).collect();
        let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        // Half a minute with a request each 160 ms, then fewer and fewer.
        assert!((185..210).contains(&times.len()), "{}: {pauses:?}", times.len());
        assert_eq!(pauses.last(), Some(&Duration::from_secs(20)));
    }
}
