//! The API as tests use it: clients, objects, faults, and the log of requests.

use super::ownership::Manager;
use super::request::Request;
use super::store::{ApiError, Key, Scope, Store};
use bytes::Bytes;
use futures::Stream;
use http::Response;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The API. Clones share one state.
#[derive(Clone, Default)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    /// Wakes watches.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    store: Store,
    log: Vec<Request>,
    rules: Vec<Rule>,
    /// Raised to end all watches.
    epoch: u64,
    /// Raised to send a bookmark to all watches.
    bookmarks: u64,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused with this status code.
    Status(u16),
    /// It gets no answer, and is not carried out.
    Hang,
    /// It is served after this time.
    Delay(Duration),
    /// The connection breaks before the request is carried out.
    Disconnect,
    /// The connection breaks after the request has been carried out.
    LoseAnswer,
}

struct Rule {
    verb: String,
    resource: String,
    times: usize,
    action: Action,
}

type Respond = dyn Fn(&Request) -> (u16, Value) + Send + Sync;

#[derive(Clone)]
enum Action {
    Fault(Fault),
    Respond(Arc<Respond>),
    Before(Arc<dyn Fn(&ApiServer) + Send + Sync>),
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}

/// Clients, and the log.
impl ApiServer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move { server.answer(Request::parse(request).await).await }
        });
        Client::new(service, "default")
    }

    /// All requests so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().log.clone()
    }

    /// The requests since the log was last taken.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().log)
    }

    /// The requests since the log was last taken that may have changed something, as `verb resource namespace/name`.
    pub fn take_writes(&self) -> Vec<String> {
        self.take_requests().iter().filter(|request| request.is_write()).map(ToString::to_string).collect()
    }

    /// How many requests of this verb and resource there have been.
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.lock().log.iter().filter(|request| matches(verb, resource, request)).count()
    }
}

/// Objects, read and written directly: past all rules of the API, faults and log.
impl ApiServer {
    /// Stores `object` as it is, status included; a UID, a version and a creation time are added.
    pub fn put<K: Resource<DynamicType = ()> + Serialize + DeserializeOwned>(&self, object: &K) -> K {
        let meta = object.meta();
        let key = key::<K>(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let mut value = encode(object);
        value["apiVersion"] = K::api_version(&()).into();
        value["kind"] = K::kind(&()).into();
        let stored = self.lock().store.put(&key, value, &Manager { name: "test".into(), applies: false, subresource: String::new() });
        self.wake();
        decode(stored)
    }

    /// The object, if there is one. `namespace` is empty for objects that have none.
    pub fn get<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: &str, name: &str) -> Option<K> {
        self.lock().store.get(&key::<K>(namespace, name)).cloned().map(decode)
    }

    /// All objects of the type, by namespace and name.
    pub fn list<K: Resource<DynamicType = ()> + DeserializeOwned>(&self) -> Vec<K> {
        self.lock().store.all(&K::group(&()), &K::plural(&())).cloned().map(decode).collect()
    }

    /// Changes the object as JSON. Without its last finalizer, an object that is being deleted is removed.
    pub fn edit<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let key = key::<K>(namespace, name);
        {
            let mut state = self.lock();
            let mut value = state.store.get(&key).cloned().expect("the object to edit exists");
            change(&mut value);
            drop(state.store.put(&key, value, &Manager { name: "test".into(), applies: false, subresource: String::new() }));
        }
        self.wake();
    }

    /// Removes the object at once, finalizers or not; whether there was one.
    pub fn remove<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) -> bool {
        let removed = self.lock().store.remove(&key::<K>(namespace, name)).is_some();
        self.wake();
        removed
    }
}

/// Faults. A verb or resource of `*` matches any; of several rules for a request, the oldest counts.
impl ApiServer {
    /// The next `times` requests of this kind have this fault; `usize::MAX` is for ever.
    pub fn inject(&self, verb: &str, resource: &str, times: usize, fault: Fault) {
        self.rule(verb, resource, times, Action::Fault(fault));
    }

    /// Requests of this kind are answered with the status code and body of `answer`: for resources that compute, such as
    /// `serviceaccounts/token` and reviews.
    pub fn respond(&self, verb: &str, resource: &str, answer: impl Fn(&Request) -> (u16, Value) + Send + Sync + 'static) {
        self.rule(verb, resource, usize::MAX, Action::Respond(Arc::new(answer)));
    }

    /// Runs `act` before the next request of this kind is served: a race with a fixed order.
    pub fn before(&self, verb: &str, resource: &str, act: impl Fn(&Self) + Send + Sync + 'static) {
        self.rule(verb, resource, 1, Action::Before(Arc::new(act)));
    }

    /// Removes all faults and answers.
    pub fn heal(&self) {
        self.lock().rules.clear();
    }

    /// Ends all watches, as an apiserver does when it restarts.
    pub fn end_watches(&self) {
        self.lock().epoch += 1;
        self.wake();
    }

    /// Forgets all history, so that watches that are behind, or begin at an older version, get 410.
    pub fn compact(&self) {
        self.lock().store.compact();
        self.wake();
    }

    /// Sends a bookmark to all watches that take them.
    pub fn bookmark(&self) {
        self.lock().bookmarks += 1;
        self.wake();
    }

    fn rule(&self, verb: &str, resource: &str, times: usize, action: Action) {
        self.lock().rules.push(Rule { verb: verb.into(), resource: resource.into(), times, action });
    }
}

impl ApiServer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_replace(());
    }

    async fn answer(&self, request: Request) -> Result<Answer, io::Error> {
        let action = {
            let mut state = self.lock();
            state.log.push(request.clone());
            state.action(&request)
        };
        let broken = || io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by the test");
        match action {
            None => {}
            Some(Action::Before(act)) => act(self),
            Some(Action::Respond(answer)) => {
                let (code, body) = answer(&request);
                return Ok(response(code, &body));
            }
            Some(Action::Fault(Fault::Status(code))) => {
                return Ok(response(code, &ApiError::new(code, "refused by the test").body()));
            }
            Some(Action::Fault(Fault::Hang)) => std::future::pending().await,
            Some(Action::Fault(Fault::Delay(time))) => tokio::time::sleep(time).await,
            Some(Action::Fault(Fault::Disconnect)) => return Err(broken()),
            Some(Action::Fault(Fault::LoseAnswer)) => {
                drop(self.serve(&request));
                return Err(broken());
            }
        }
        Ok(self.serve(&request))
    }

    fn serve(&self, request: &Request) -> Answer {
        if request.verb == "watch" {
            return Response::new(StreamBody::new(self.watch(request)).boxed_unsync());
        }
        let answer = self.lock().store.serve(request);
        self.wake();
        match answer {
            Ok((code, body)) => response(code, &body),
            Err(error) => response(error.code, &error.body()),
        }
    }

    fn watch(&self, request: &Request) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + use<> {
        let scope = Scope::of(request);
        let (from, first, epoch, bookmarks) = {
            let state = self.lock();
            let version: u64 = request.param("resourceVersion").parse().unwrap_or(0);
            let existing = if version == 0 { state.store.existing(&scope) } else { Vec::new() };
            (if version == 0 { state.store.version() } else { version }, existing, state.epoch, state.bookmarks)
        };
        let timeout = request.param("timeoutSeconds").parse().ok().map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let watch = Watch {
            server: self.clone(),
            changed: self.changed.subscribe(),
            scope,
            version: from,
            ready: first.into(),
            epoch,
            bookmarks,
            takes_bookmarks: request.param("allowWatchBookmarks") == "true",
            kind: request.plural().to_owned(),
            timeout,
        };
        futures::stream::unfold(watch, |mut watch| async move {
            let event = watch.next().await?;
            Some((Ok(Frame::data(Bytes::from(format!("{event}\n")))), watch))
        })
    }
}

impl State {
    fn action(&mut self, request: &Request) -> Option<Action> {
        let rule = self.rules.iter_mut().find(|rule| rule.times > 0 && matches(&rule.verb, &rule.resource, request))?;
        rule.times = if rule.times == usize::MAX { usize::MAX } else { rule.times - 1 };
        Some(rule.action.clone())
    }
}

struct Watch {
    server: ApiServer,
    changed: watch::Receiver<()>,
    scope: Scope,
    version: u64,
    ready: VecDeque<Value>,
    epoch: u64,
    bookmarks: u64,
    takes_bookmarks: bool,
    kind: String,
    timeout: Option<Instant>,
}

impl Watch {
    /// The next event; none once the watch has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.changed.mark_unchanged();
            if let Some(event) = self.look()? {
                return Some(event);
            }
            let timeout = self.timeout;
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = async { sleep_until(timeout.unwrap_or_else(Instant::now)).await }, if timeout.is_some() => return None,
            }
        }
    }

    #[allow(clippy::option_option)] // ended, nothing yet, an event
    fn look(&mut self) -> Option<Option<Value>> {
        let state = self.server.lock();
        if state.epoch != self.epoch {
            return None;
        }
        match state.store.event_after(self.version, &self.scope) {
            Ok(Some((version, event))) => {
                self.version = version;
                Some(Some(event))
            }
            Err(error) => {
                // The last event of this watch.
                self.epoch = u64::MAX;
                Some(Some(json!({"type": "ERROR", "object": error.body()})))
            }
            Ok(None) if self.takes_bookmarks && state.bookmarks > self.bookmarks => {
                self.bookmarks = state.bookmarks;
                self.version = state.store.version();
                let metadata = json!({"resourceVersion": self.version.to_string()});
                Some(Some(json!({"type": "BOOKMARK", "object": {"kind": self.kind, "apiVersion": "v1", "metadata": metadata}})))
            }
            Ok(None) => Some(None),
        }
    }
}

fn matches(verb: &str, resource: &str, request: &Request) -> bool {
    (verb == "*" || verb == request.verb) && (resource == "*" || resource == request.resource)
}

fn key<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Key {
    Key { group: K::group(&()).into(), resource: K::plural(&()).into(), namespace: namespace.into(), name: name.into() }
}

fn encode(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("an API object is JSON")
}

fn decode<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("the stored object is of this type")
}

fn response(code: u16, body: &Value) -> Answer {
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(Full::new(Bytes::from(body.to_string())).boxed_unsync()).expect("the status code is valid")
}
