//! The tenants known from the operator, across streams: what each event changes. Pure.
//!
//! Level-triggered: a new stream sends the full set first, and what it has not sent by `synced` is gone, whatever was
//! missed in between.

use super::parse::{self, ParseError};
use crate::tenant::TenantSpec;
use nestling_control_api::v1alpha1::watch_event::Event;
use nestling_crds::names::TenantUid;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A tenant is to be served, or served differently.
    Serve(Box<TenantSpec>),
    /// A tenant is no longer to be served: what it has on this node is to be removed.
    Remove(TenantUid),
    /// These are all the tenants that the operator has told, including any that could not be understood.
    Synced(BTreeSet<TenantUid>),
}

#[derive(Debug, Default)]
pub(super) struct Known {
    tenants: BTreeMap<TenantUid, TenantSpec>,
    /// What the current stream has sent before `synced`; `None` after it.
    sent: Option<BTreeSet<TenantUid>>,
}

impl Known {
    /// A new stream begins.
    pub(super) fn begin(&mut self) {
        self.sent = Some(BTreeSet::new());
    }

    pub(super) fn is_synced(&self) -> bool {
        self.sent.is_none()
    }

    /// A tenant that cannot be understood counts as sent: an older agent must not remove what a newer operator describes.
    pub(super) fn apply(&mut self, event: Event) -> Result<Vec<Change>, ParseError> {
        match event {
            Event::Upsert(tenant) => {
                if let Some(sent) = &mut self.sent {
                    sent.insert(TenantUid::new(tenant.uid.clone()));
                }
                let spec = parse::tenant(tenant)?;
                let old = self.tenants.insert(spec.uid.clone(), spec.clone());
                Ok(if old.as_ref() == Some(&spec) { Vec::new() } else { vec![Change::Serve(Box::new(spec))] })
            }
            Event::Remove(removed) => Ok(self.remove(TenantUid::new(removed.uid)).into_iter().collect()),
            Event::Synced(_) => {
                let Some(sent) = self.sent.take() else { return Ok(Vec::new()) };
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
        let synced = || Event::Synced(Synced {});
        assert_eq!(run(&mut known, [upsert("a", "1"), upsert("b", "1"), synced()]), ["+a", "+b", "=2"]);
        assert!(known.is_synced());
        assert_eq!(run(&mut known, [upsert("a", "1"), upsert("c", "1"), synced()]), ["+c", "-b", "=2"]);
        assert_eq!(run(&mut known, [upsert("a", "2"), upsert("c", "1"), synced()]), ["+a", "=2"]);
    }

    #[test]
    fn nothing_is_removed_before_synced() {
        let mut known = Known::default();
        assert_eq!(run(&mut known, [upsert("a", "1"), Event::Synced(Synced {})]), ["+a", "=1"]);
        assert!(run(&mut known, []).is_empty());
        assert!(!known.is_synced());
        assert_eq!(run(&mut known, [Event::Synced(Synced {})]), ["-a", "=0"]);
    }

    #[test]
    fn a_removed_tenant_is_removed_once() {
        let mut known = Known::default();
        let remove = || Event::Remove(Removed { uid: "a".into() });
        assert_eq!(run(&mut known, [upsert("a", "1"), remove(), remove(), Event::Synced(Synced {})]), ["+a", "-a", "=0"]);
    }

    #[test]
    fn a_tenant_that_cannot_be_read_keeps_being_served_as_before() {
        let mut known = Known::default();
        assert_eq!(run(&mut known, [upsert("a", "1"), Event::Synced(Synced {})]), ["+a", "=1"]);
        known.begin();
        let Event::Upsert(tenant) = upsert("a", "2") else { unreachable!() };
        let error = known.apply(Event::Upsert(Tenant { dns_address: "nonsense".into(), ..tenant })).unwrap_err();
        assert!(error.to_string().contains("nonsense"));
        assert_eq!(served(&known.apply(Event::Synced(Synced {})).unwrap()), ["=1"]);
    }
}
