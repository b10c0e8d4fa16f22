//! The pod itself: what of it the host takes, where it runs, its hostname and DNS.

use super::Translator;
use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodDNSConfig,
    PodDNSConfigOption, PodOS, PodSecurityContext, PodSpec,
};

/// Longest hostname.
const MAX_HOSTNAME: usize = 63;
/// The apiserver's mark on a pod that stands for a kubelet's static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Limits of the API on `dnsConfig` (upstream validation).
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

impl Translator<'_> {
    pub(super) fn pod(&mut self) -> Pod {
        let pod = self.pod;
        let spec = pod.spec.clone().unwrap_or_default();
        if let Some(value) = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR)) {
            self.refuse("metadata", &format!("annotations[{MIRROR}]"), Some(value), "mirror pods are run from files, not from the API");
        }
        Pod { metadata: self.owner.pod_metadata(self.key), spec: Some(self.spec(spec)), status: None }
    }

    fn spec(&mut self, spec: PodSpec) -> PodSpec {
        let PodSpec {
            active_deadline_seconds,
            affinity: _,                        // the tenant's scheduler has decided
            automount_service_account_token: _, // already done by the tenant's admission, as a projected volume
            containers,
            dns_config,
            dns_policy,
            enable_service_links: _, // see `add_service_variables`
            ephemeral_containers: _, // cannot be created with a pod; added ones are seen when the pod is followed
            eviction_responders: _,  // asked by the tenant's eviction controller, not by nodes
            host_aliases,
            host_ipc,
            host_network,
            host_pid,
            host_users,
            hostname,
            hostname_override,
            image_pull_secrets,
            init_containers,
            node_name: _,     // this node: pinned below
            node_selector: _, // the tenant's scheduler has decided
            os,
            overhead,
            preemption_policy: _,   // the tenant's scheduler has decided
            priority: _,            // orders the tenant's pods among themselves; on the host all tenants are equal
            priority_class_name: _, // see priority: a tenant must not claim system-node-critical on the host
            readiness_gates: _,     // combined with the host pod's readiness when the status is written back
            resource_claims,
            resources,
            restart_policy,
            runtime_class_name,
            scheduler_name: _,   // the tenant's scheduler has decided
            scheduling_gates: _, // a bound pod has none
            scheduling_group: _, // the tenant's scheduler has decided
            security_context,
            service_account: _,      // deprecated twin of service_account_name
            service_account_name: _, // identity in the tenant: its tokens are made by the agent
            set_hostname_as_fqdn,
            share_process_namespace,
            subdomain: _, // the name is served by the tenant's DNS; the host's would be the host's namespace and domain
            termination_grace_period_seconds,
            tolerations,
            topology_spread_constraints: _, // the tenant's scheduler has decided
            volumes,
        } = spec;

        self.refuse("spec", "overhead", overhead.as_ref().filter(|map| !map.is_empty()), "comes with runtime classes");
        self.refuse("spec", "resourceClaims", resource_claims.as_ref().filter(|list| !list.is_empty()), "not supported yet");
        self.refuse("spec", "runtimeClassName", runtime_class_name.as_ref(), "runtime classes are not supported yet");
        let as_fqdn = set_hostname_as_fqdn.as_ref().filter(|set| **set);
        self.refuse("spec", "setHostnameAsFQDN", as_fqdn, "the host would use its own domain");
        if let Some(PodOS { name }) = os.filter(|os| os.name != "linux") {
            self.refuse("spec", "os.name", Some(&name), "nodes run linux");
        }

        let host_network = host_network.filter(|host| *host);
        let (hostname, hostname_override) = self.hostname(hostname, hostname_override, host_network.is_some());
        let (dns_policy, dns_config) = self.dns(dns_policy.as_deref(), dns_config, host_network.is_some());
        let init_containers =
            init_containers.map(|list| self.each("spec.initContainers", list, |this, path, container| this.container(&path, container)));
        let containers = self.each("spec.containers", containers, |this, path, container| this.container(&path, container));
        let volumes = volumes.map(|list| self.each("spec.volumes", list, |this, path, volume| this.volume(&path, volume)));
        let image_pull_secrets = image_pull_secrets.map(|list| self.pull_secrets(list));
        let resources = resources.map(|resources| self.resources("spec.resources", resources));
        let security_context = security_context.map(|context| self.pod_security("spec.securityContext", context));

        PodSpec {
            active_deadline_seconds,
            affinity: Some(self.pin()),
            automount_service_account_token: Some(false),
            containers,
            dns_config,
            dns_policy: Some(dns_policy),
            enable_service_links: Some(false),
            host_aliases,
            host_ipc,
            host_network,
            host_pid,
            host_users,
            hostname,
            hostname_override,
            image_pull_secrets,
            init_containers,
            resources,
            restart_policy,
            security_context,
            share_process_namespace,
            termination_grace_period_seconds,
            tolerations,
            volumes,
            ..PodSpec::default()
        }
    }

    /// Required affinity to this node, not `nodeName`: the host's scheduler still checks that the pod fits, and one that
    /// does not waits instead of failing in a loop.
    fn pin(&self) -> Affinity {
        let this_node =
            NodeSelectorRequirement { key: "metadata.name".into(), operator: "In".into(), values: Some(vec![self.owner.node.to_string()]) };
        let term = NodeSelectorTerm { match_fields: Some(vec![this_node]), match_expressions: None };
        Affinity {
            node_affinity: Some(NodeAffinity {
                required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: vec![term] }),
                ..NodeAffinity::default()
            }),
            ..Affinity::default()
        }
    }

    /// The hostname that the tenant's pod would have: the host pod's name must not show. A pod in the host's network
    /// has the node's.
    fn hostname(&self, hostname: Option<String>, override_: Option<String>, host_network: bool) -> (Option<String>, Option<String>) {
        if host_network {
            return (None, None);
        }
        if override_.is_some() {
            return (hostname, override_);
        }
        let full = hostname.filter(|name| !name.is_empty()).unwrap_or_else(|| self.key.name.clone());
        let cut: String = full.chars().take(MAX_HOSTNAME).collect();
        let cut = cut.trim_end_matches(['-', '.']).to_owned();
        // `hostname` must be one DNS label, which a pod's name need not be.
        if cut.contains('.') { (None, Some(cut)) } else { (Some(cut), None) }
    }

    fn pull_secrets(&mut self, list: Vec<LocalObjectReference>) -> Vec<LocalObjectReference> {
        let named = list.into_iter().filter(|LocalObjectReference { name }| !name.is_empty());
        named.map(|LocalObjectReference { name }| LocalObjectReference { name: self.secret(&name) }).collect()
    }

    /// The host pod's `dnsPolicy` and `dnsConfig`. `ClusterFirst` becomes `None` with the tenant's nameserver; the pod's
    /// own `dnsConfig` is merged as a kubelet merges it. In the host's network `ClusterFirst` means `Default`.
    fn dns(&self, policy: Option<&str>, config: Option<PodDNSConfig>, host_network: bool) -> (String, Option<PodDNSConfig>) {
        match policy.unwrap_or("ClusterFirst") {
            "ClusterFirst" if host_network => ("Default".into(), config),
            "ClusterFirst" | "ClusterFirstWithHostNet" => ("None".into(), Some(self.cluster_first(config.unwrap_or_default()))),
            other => (other.into(), config),
        }
    }

    fn cluster_first(&self, own: PodDNSConfig) -> PodDNSConfig {
        let PodDNSConfig { nameservers, options, searches } = own;
        let tenant = self.owner.tenant;
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

    /// Passed: the host's Pod Security decides on it.
    fn pod_security(&mut self, path: &str, context: PodSecurityContext) -> PodSecurityContext {
        let PodSecurityContext {
            app_armor_profile: _,
            fs_group: _,
            fs_group_change_policy: _,
            run_as_group: _,
            run_as_non_root: _,
            run_as_user: _,
            se_linux_change_policy: _,
            se_linux_options: _,
            seccomp_profile: _,
            supplemental_groups: _,
            supplemental_groups_policy: _,
            sysctls: _,
            windows_options,
        } = &context;
        self.refuse(path, "windowsOptions", windows_options.as_ref(), "nodes run linux");
        PodSecurityContext { windows_options: None, ..context }
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
