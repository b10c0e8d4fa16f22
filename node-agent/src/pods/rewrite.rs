//! Host names in texts that reach the tenant: events, waiting reasons, status messages.

use super::key::PodKey;
use super::ownership::Owner;
use super::translate::Needs;
use k8s_openapi::api::core::v1::Pod;

/// Turns host names of one pod into the tenant's. Every host name carries a hash or is a UID, so plain replacement cannot
/// hit a word of the tenant's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite(Vec<(String, String)>);

impl Rewrite {
    /// For pod `key`, realized by `host` if any, which needs `needs`.
    pub fn new(owner: &Owner<'_>, key: &PodKey, host: Option<&Pod>, needs: &Needs) -> Self {
        let tenant = owner.tenant;
        let mut pairs: Vec<(String, String)> =
            needs.sources.iter().map(|source| (source.host_name(&tenant.uid, owner.node).to_string(), source.name.clone())).collect();
        pairs.push((key.host_name(&tenant.uid).to_string(), key.name.clone()));
        pairs.push((key.secret_name(&tenant.uid).to_string(), key.name.clone()));
        pairs.push((tenant.workload_namespace.to_string(), key.namespace.clone()));
        pairs.extend(host.and_then(|host| host.metadata.uid.clone()).map(|uid| (uid, key.uid.clone())));
        Self(pairs)
    }

    pub fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (host, tenant)| text.replace(host, tenant))
    }

    pub fn option(&self, text: Option<&String>) -> Option<String> {
        text.map(|text| self.text(text))
    }
}
