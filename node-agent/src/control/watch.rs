//! Follows the operator's stream of tenants, over as many connections as it takes, and turns it into [`Change`]s.

use super::{Operator, OperatorError};
use crate::tenant::TenantSpec;
use jiff::Timestamp;
use nestling_control_api::v1alpha1::watch_event::Event;
use nestling_control_api::v1alpha1::{self as proto, WatchRequest};
use nestling_crds::names::{TenantUid, WorkloadNamespace};
use nestling_runtime::control::{ControlError, call, keep_open};
use nestling_runtime::readiness::Pending;
use std::collections::{BTreeMap, BTreeSet};
use std::net::AddrParseError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A tenant is to be served, or served differently.
    Serve(Box<TenantSpec>),
    /// A tenant is no longer to be served: what it has on this node is to be removed.
    Remove(TenantUid),
    /// The full set of tenants that the operator assigns to this node, including any that could not be parsed or described.
    Synced(BTreeSet<TenantUid>),
}

/// Sends what changes to `changes` until `shutdown`. `unsynced` is dropped once the operator has sent the full set.
pub(crate) async fn follow(operator: Operator, changes: mpsc::Sender<Change>, unsynced: Pending, shutdown: CancellationToken) {
    let mut unsynced = Some(unsynced);
    let mut known = Known::default();
    let forever = keep_open("tenants of this node", async |synced: &mut bool| {
        known.begin();
        let control = operator.reconnect().await?;
        let request = control.request(WatchRequest {}).await?;
        let mut events = call(control.client().watch(request)).await?;
        // A peer that vanishes is found by the connection's own pings, so waiting for an event needs no limit.
        while let Some(event) = events.message().await.map_err(ControlError::broken)? {
            let Some(event) = event.event else { continue };
            match known.apply(event) {
                Ok(all) => {
                    for change in all {
                        // Fails only when the agent stops.
                        let _ = changes.send(change).await;
                    }
                }
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot parse a tenant that the operator sent; keeping its last known description"
                ),
            }
            *synced = known.is_synced();
            if *synced && unsynced.take().is_some() {
                tracing::info!("received all tenants of this node");
            }
        }
        Ok::<(), OperatorError>(())
    });
    let _: Option<()> = shutdown.run_until_cancelled(forever).await;
}

/// The tenants known from the operator, across streams: what each event changes. Level-triggered: a new stream sends the
/// full set first, and what it has not sent by `synced` is gone, whatever was missed in between.
#[derive(Debug, Default)]
struct Known {
    tenants: BTreeMap<TenantUid, TenantSpec>,
    /// What the current stream has sent before `synced`; `None` after it.
    sent: Option<BTreeSet<TenantUid>>,
}

impl Known {
    /// A new stream begins.
    fn begin(&mut self) {
        self.sent = Some(BTreeSet::new());
    }

    fn is_synced(&self) -> bool {
        self.sent.is_none()
    }

    /// A tenant that cannot be parsed counts as sent: an older agent must not remove what a newer operator describes.
    fn apply(&mut self, event: Event) -> Result<Vec<Change>, ParseError> {
        match event {
            Event::Upsert(tenant) => {
                if let Some(sent) = &mut self.sent {
                    sent.insert(TenantUid::new(tenant.uid.clone()));
                }
                let spec = parse(tenant)?;
                let old = self.tenants.insert(spec.uid.clone(), spec.clone());
                Ok(if old.as_ref() == Some(&spec) { Vec::new() } else { vec![Change::Serve(Box::new(spec))] })
            }
            Event::Remove(removed) => Ok(self.remove(TenantUid::new(removed.uid)).into_iter().collect()),
            Event::Synced(synced) => {
                let Some(mut sent) = self.sent.take() else { return Ok(Vec::new()) };
                sent.extend(synced.undescribed.into_iter().map(TenantUid::new));
                let gone: Vec<TenantUid> = self.tenants.keys().filter(|uid| !sent.contains(uid)).cloned().collect();
                let mut changes: Vec<Change> = gone.into_iter().filter_map(|uid| self.remove(uid)).collect();
                changes.push(Change::Synced(sent));
                Ok(changes)
            }
        }
    }

    fn remove(&mut self, uid: TenantUid) -> Option<Change> {
        if let Some(sent) = &mut self.sent {
            sent.remove(&uid);
        }
        self.tenants.remove(&uid).map(|_| Change::Remove(uid))
    }
}

#[derive(Debug, thiserror::Error)]
enum ParseError {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} {value:?} is not an IP address")]
    Address {
        field: &'static str,
        value: String,
        #[source]
        source: AddrParseError,
    },
    #[error("service range {value:?} is not in CIDR notation")]
    Cidr {
        value: String,
        #[source]
        source: ipnet::AddrParseError,
    },
    #[error("endpoint {0:?} is not an https URL")]
    Endpoint(String),
}

fn parse(tenant: proto::Tenant) -> Result<TenantSpec, ParseError> {
    let proto::Tenant {
        uid,
        namespace,
        name,
        workload_namespace,
        endpoint,
        ca_bundle,
        service_cidrs,
        dns_address,
        kubernetes_address,
        cluster_domain,
        version,
        capacity,
        draining,
        node_labels,
        hibernated,
        resumed_at,
    } = tenant;
    let present = |field: &'static str, value: String| if value.is_empty() { Err(ParseError::Missing { field }) } else { Ok(value) };
    if !endpoint.starts_with("https://") {
        return Err(ParseError::Endpoint(endpoint));
    }
    if ca_bundle.is_empty() {
        return Err(ParseError::Missing { field: "ca_bundle" });
    }
    let service_cidrs = service_cidrs
        .into_iter()
        .map(|value| value.parse().map_err(|source| ParseError::Cidr { value, source }))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(TenantSpec {
        uid: TenantUid::new(present("uid", uid)?),
        namespace,
        name,
        workload_namespace: WorkloadNamespace::from_made(present("workload_namespace", workload_namespace)?),
        endpoint,
        ca_bundle,
        service_cidrs,
        dns_address: address("dns_address", dns_address)?,
        kubernetes_address: address("kubernetes_address", kubernetes_address)?,
        cluster_domain: present("cluster_domain", cluster_domain)?,
        version,
        capacity: capacity.into_iter().collect(),
        draining,
        node_labels: node_labels.into_iter().collect(),
        hibernated,
        resumed_at: Timestamp::from_second(resumed_at).ok().filter(|_| resumed_at != 0),
    })
}

fn address(field: &'static str, value: String) -> Result<std::net::IpAddr, ParseError> {
    value.parse().map_err(|source| ParseError::Address { field, value, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nestling_control_api::v1alpha1::{Removed, Synced, Tenant};

    fn upsert(uid: &str, version: &str) -> Event {
        Event::Upsert(Tenant {
            uid: uid.into(),
            namespace: "team".into(),
            name: uid.into(),
            workload_namespace: format!("team-{uid}-x"),
            endpoint: "https://10.96.3.4:443".into(),
            ca_bundle: b"pem".to_vec(),
            service_cidrs: vec!["10.96.0.0/16".into()],
            dns_address: "10.96.0.10".into(),
            kubernetes_address: "10.96.0.1".into(),
            cluster_domain: "cluster.local".into(),
            version: version.into(),
            ..Tenant::default()
        })
    }

    fn served(changes: &[Change]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match change {
                Change::Serve(spec) => format!("+{}", spec.uid),
                Change::Remove(uid) => format!("-{uid}"),
                Change::Synced(all) => format!("={}", all.len()),
            })
            .collect()
    }

    fn run(known: &mut Known, events: impl IntoIterator<Item = Event>) -> Vec<String> {
        known.begin();
        events.into_iter().flat_map(|event| served(&known.apply(event).unwrap())).collect()
    }

    #[test]
    fn a_new_stream_changes_only_what_differs() {
        let mut known = Known::default();
        let synced = || Event::Synced(Synced::default());
        assert_eq!(run(&mut known, [upsert("a", "1"), upsert("b", "1"), synced()]), ["+a", "+b", "=2"]);
        assert!(known.is_synced());
        assert_eq!(run(&mut known, [upsert("a", "1"), upsert("c", "1"), synced()]), ["+c", "-b", "=2"]);
        assert_eq!(run(&mut known, [upsert("a", "2"), upsert("c", "1"), synced()]), ["+a", "=2"]);
    }

    #[test]
    fn nothing_is_removed_before_synced() {
        let mut known = Known::default();
        assert_eq!(run(&mut known, [upsert("a", "1"), Event::Synced(Synced::default())]), ["+a", "=1"]);
        assert!(run(&mut known, []).is_empty());
        assert!(!known.is_synced());
        assert_eq!(run(&mut known, [Event::Synced(Synced::default())]), ["-a", "=0"]);
    }

    #[test]
    fn a_removed_tenant_is_removed_once() {
        let mut known = Known::default();
        let remove = || Event::Remove(Removed { uid: "a".into() });
        assert_eq!(run(&mut known, [upsert("a", "1"), remove(), remove(), Event::Synced(Synced::default())]), ["+a", "-a", "=0"]);
    }

    #[test]
    fn a_tenant_that_cannot_be_parsed_keeps_being_served_as_before() {
        let mut known = Known::default();
        assert_eq!(run(&mut known, [upsert("a", "1"), Event::Synced(Synced::default())]), ["+a", "=1"]);
        known.begin();
        let Event::Upsert(tenant) = upsert("a", "2") else { unreachable!() };
        let error = known.apply(Event::Upsert(Tenant { dns_address: "nonsense".into(), ..tenant })).unwrap_err();
        assert!(error.to_string().contains("nonsense"));
        assert_eq!(served(&known.apply(Event::Synced(Synced::default())).unwrap()), ["=1"]);
    }

    #[test]
    fn what_the_operator_cannot_describe_is_kept() {
        let mut known = Known::default();
        known.begin();
        assert_eq!(served(&known.apply(upsert("a", "1")).unwrap()), ["+a"]);
        known.apply(Event::Synced(Synced::default())).unwrap();
        known.begin();
        let synced = Synced { undescribed: vec!["a".into(), "b".into()] };
        assert_eq!(served(&known.apply(Event::Synced(synced)).unwrap()), ["=2"]);
        assert!(known.tenants.contains_key(&TenantUid::new("a")));
    }
}
