//! Watches one tenant's Services, `EndpointSlices` and `ServiceCIDRs`, and this node's zone, and keeps the proxy told.

use super::Proxy;
use super::feed::{Change, Feed};
use crate::tenant::Tenant;
use futures::stream::select_all;
use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Leaves out objects that are for another proxy, or for none.
const SELECTOR: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
/// Events that came together are worked out together, up to so many.
const CHUNK: usize = 1024;

/// Ends with `shutdown`, and leaves the tenant's rules as they are: [`Proxy::remove`] is for whoever knows that the tenant
/// is gone. Watches that fail are begun anew with growing delays, and the rules stay meanwhile.
pub async fn run(tenant: Arc<Tenant>, proxy: Proxy, shutdown: CancellationToken) {
    let uid = &tenant.spec.uid;
    proxy.expect(uid, &tenant.spec.service_cidrs);
    let mut feed = Feed::new(tenant.node.as_str(), tenant.spec.service_cidrs.clone());
    let client = || tenant.proxy.clone();
    let ours = watcher::Config::default().labels(SELECTOR);
    let node = watcher::Config::default().fields(&format!("metadata.name={}", tenant.node));
    let mut changes = select_all([
        watch(Api::all(client()), ours.clone(), Change::Service),
        watch(Api::all(client()), ours, Change::Slice),
        watch(Api::all(client()), watcher::Config::default(), Change::Cidr),
        watch(Api::all(client()), node, Change::Node),
    ])
    .ready_chunks(CHUNK);
    // Watches never end by themselves.
    while let Some(Some(chunk)) = shutdown.run_until_cancelled(changes.next()).await {
        for change in chunk {
            feed.take(change);
        }
        if let Some(table) = feed.table() {
            tracing::debug!(frontends = table.frontends.len(), ranges = table.ranges.len(), "services changed");
            proxy.set_services(uid, &table);
        }
    }
}

fn watch<K>(api: Api<K>, config: watcher::Config, change: fn(Event<K>) -> Change) -> futures::stream::BoxStream<'static, Change>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    heard(watcher(api, config).default_backoff(), K::plural(&K::DynamicType::default()).into_owned()).map(change).boxed()
}

fn heard<E>(stream: impl Stream<Item = watcher::Result<E>>, what: String) -> impl Stream<Item = E> {
    stream.filter_map(move |result| {
        let event = result.inspect_err(|error| tracing::warn!(%what, %error, "watch failed; trying again")).ok();
        std::future::ready(event)
    })
}
