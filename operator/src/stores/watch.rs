//! One watch that keeps one store.

use futures::StreamExt as _;
use kube::Api;
use kube::core::Resource;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{Config, Event, watcher};
use nestling_runtime::readiness::Pending;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use tokio_util::sync::CancellationToken;

/// What became of a watched kind.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a, K> {
    Applied(&'a K),
    Deleted(&'a K),
    /// The store was filled anew: anything may have changed, and what is not in it is gone.
    Listed,
}

/// Keeps a store in step with the API until `stop`; trouble is logged and tried again, with growing pauses.
///
/// `trim` drops what nobody reads before it is stored (managed fields alone are half of most objects' metadata).
/// `on_change` runs after the store has changed. `pending` is dropped with the first full list.
pub async fn keep<K>(
    api: Api<K>,
    config: Config,
    trim: fn(&mut K),
    mut writer: Writer<K>,
    pending: Pending,
    stop: CancellationToken,
    mut on_change: impl FnMut(Change<'_, K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let mut pending = Some(pending);
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let mut events = pin!(watcher(api, config).modify(trim).default_backoff());
    while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(kind, error = &error as &dyn std::error::Error, "watch failed; trying again");
                continue;
            }
        };
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(object) => on_change(Change::Applied(object)),
            Event::Delete(object) => on_change(Change::Deleted(object)),
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => {
                pending = None;
                on_change(Change::Listed);
            }
        }
    }
    drop(pending);
}
