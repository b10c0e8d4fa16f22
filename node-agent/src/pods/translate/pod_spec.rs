//! The pod itself.

use super::Translator;
use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodOS, PodSpec,
};

/// Longest hostname.
const MAX_HOSTNAME: usize = 63;
/// The API server's mark on a pod that stands for a kubelet's static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Translator<'_> {
    pub fn pod(&mut self) -> Pod {
        let pod = self.pod;
        let spec = pod.spec.clone().unwrap_or_default();
        if let Some(value) = pod.metadata.annotations.as_ref().and_then(|notes| notes.get(MIRROR)) {
            self.refusals.add(format!("metadata.annotations[{MIRROR}]"), value, "mirror pods are run from files, not from the API");
        }
        Pod { metadata: self.context.owner.pod_metadata(self.key), spec: Some(self.spec(spec)), status: None }
    }

    fn spec(&mut self, spec: PodSpec) -> PodSpec {
        let PodSpec {
            active_deadline_seconds,
            affinity: _,                        // the tenant's scheduler has decided
            automount_service_account_token: _, // already done by the tenant's admission, as a projected volume
            containers,
            dns_config,
            dns_policy,
            enable_service_links,
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
            readiness_gates: _,     // joined with the host pod's readiness when the status is mirrored
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

        self.refusals.set("spec.overhead", overhead.as_ref().filter(|map| !map.is_empty()), "comes with runtime classes");
        self.refusals.set("spec.resourceClaims", resource_claims.as_ref().filter(|list| !list.is_empty()), "not supported yet");
        self.refusals.set("spec.runtimeClassName", runtime_class_name.as_ref(), "runtime classes are not supported yet");
        let as_fqdn = set_hostname_as_fqdn.as_ref().filter(|set| **set);
        self.refusals.set("spec.setHostnameAsFQDN", as_fqdn, "the host would use its own domain");
        if let Some(PodOS { name }) = os.filter(|os| os.name != "linux") {
            self.refusals.add("spec.os.name", &name, "nodes run linux");
        }

        let host_network = host_network.filter(|host| *host);
        let (hostname, hostname_override) = self.hostname(hostname, hostname_override, host_network.is_some());
        let service_env = self.service_env(enable_service_links);
        let (dns_policy, dns_config) = self.dns(dns_policy.as_deref(), dns_config, host_network.is_some());
        let init_containers = init_containers
            .map(|list| self.each("spec.initContainers", list, |this, path, container| this.container(&path, container, &service_env)));
        let containers = self.each("spec.containers", containers, |this, path, container| this.container(&path, container, &service_env));
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

    /// Translates a list whose elements have a path.
    pub fn each<T, U>(&mut self, path: &str, list: Vec<T>, mut one: impl FnMut(&mut Self, String, T) -> U) -> Vec<U> {
        list.into_iter().enumerate().map(|(index, item)| one(self, format!("{path}[{index}]"), item)).collect()
    }

    /// Required affinity to this node, not `nodeName`: the host's scheduler still checks that the pod fits, and one that
    /// does not waits instead of failing in a loop.
    fn pin(&self) -> Affinity {
        let this_node = NodeSelectorRequirement {
            key: "metadata.name".into(),
            operator: "In".into(),
            values: Some(vec![self.context.owner.node.to_string()]),
        };
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
        let wanted = hostname.filter(|name| !name.is_empty()).unwrap_or_else(|| self.key.name.clone());
        let cut: String = wanted.chars().take(MAX_HOSTNAME).collect();
        let cut = cut.trim_end_matches(['-', '.']).to_owned();
        // `hostname` must be one DNS label, which a pod's name need not be.
        if cut.contains('.') { (None, Some(cut)) } else { (Some(cut), None) }
    }

    fn pull_secrets(&mut self, list: Vec<LocalObjectReference>) -> Vec<LocalObjectReference> {
        let named = list.into_iter().filter(|LocalObjectReference { name }| !name.is_empty());
        named.map(|LocalObjectReference { name }| LocalObjectReference { name: self.secret(&name) }).collect()
    }
}
