//! Names inside the tenant: the host's kubelet would point a pod at the host's DNS.

use super::Translator;
use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption};

/// Limits of the API on `dnsConfig` (upstream validation).
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

impl Translator<'_> {
    /// The host pod's `dnsPolicy` and `dnsConfig`. `ClusterFirst` becomes `None` with the tenant's nameserver; the pod's
    /// own `dnsConfig` is merged as a kubelet merges it. In the host's network `ClusterFirst` means `Default`.
    pub fn dns(&self, policy: Option<&str>, config: Option<PodDNSConfig>, host_network: bool) -> (String, Option<PodDNSConfig>) {
        match policy.unwrap_or("ClusterFirst") {
            "ClusterFirst" if host_network => ("Default".into(), config),
            "ClusterFirst" | "ClusterFirstWithHostNet" => ("None".into(), Some(self.cluster_first(config.unwrap_or_default()))),
            other => (other.into(), config),
        }
    }

    fn cluster_first(&self, own: PodDNSConfig) -> PodDNSConfig {
        let PodDNSConfig { nameservers, options, searches } = own;
        let tenant = self.context.owner.tenant;
        let domain = &tenant.cluster_domain;
        let namespace = &self.key.namespace;
        let first = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        let mut searches = unique(first.into_iter().chain(searches.unwrap_or_default()));
        searches.truncate(MAX_SEARCHES);
        while searches.iter().map(|search| search.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS + 1 {
            searches.pop();
        }
        let mut nameservers = unique([tenant.dns_address.to_string()].into_iter().chain(nameservers.unwrap_or_default()));
        nameservers.truncate(MAX_NAMESERVERS);

        let mut merged = vec![PodDNSConfigOption { name: Some("ndots".into()), value: Some("5".into()) }];
        for option in options.unwrap_or_default() {
            match merged.iter_mut().find(|known| known.name == option.name) {
                Some(known) => *known = option,
                None => merged.push(option),
            }
        }
        PodDNSConfig { nameservers: Some(nameservers), options: Some(merged), searches: Some(searches) }
    }
}

fn unique(list: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = Vec::new();
    for item in list {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}
