//! CoreDNS as kubeadm installs it, made to fit the `restricted` Pod Security Standard, with one replica, and with a readiness
//! probe every second so that it does not delay a new cluster.

use crate::apply::Object;
use crate::tenant::observe::{COREDNS as NAME, COREDNS_NAMESPACE as NAMESPACE};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::ResourceExt as _;
use kube::core::DynamicObject;
use nestling_crds::names::hash65;
use nestling_crds::v1alpha1::CoreDns;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What of a cluster its add-ons depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Settings {
    /// Address of the `kube-dns` Service.
    pub(crate) dns_address: IpAddr,
    pub(crate) cluster_domain: String,
    pub(crate) coredns_image: String,
    pub(crate) core_dns: CoreDns,
    /// `metadata.generation` of the live CoreDNS Deployment, so that a change by others leads to a check of all objects.
    pub(crate) coredns_generation: Option<i64>,
    /// When the cluster last woke from hibernation.
    pub(crate) resumed_at: Option<Timestamp>,
}

const ROLE: &str = "system:coredns";
const LABELS: &[(&str, &str)] = &[("k8s-app", "kube-dns")];

/// Everything but the Deployment: its pods cannot be created without their service account.
pub(super) fn prerequisites(settings: &Settings) -> Vec<Object> {
    let subject = json!({"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE});
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE});
    vec![
        Object::new::<ServiceAccount>(NAMESPACE, NAME, &[], json!({})),
        Object::new::<ClusterRole>(
            "",
            ROLE,
            &[],
            json!({"rules": [
                {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ]}),
        ),
        Object::new::<ClusterRoleBinding>("", ROLE, &[], json!({"roleRef": role_ref, "subjects": [subject]})),
        config(settings),
        service(settings),
    ]
}

const COREFILE: &str = "Corefile";
/// Annotation: hash of the Corefile that the operator wrote last. One that differs is somebody's edit.
const WRITTEN: &str = "nestling.dev/corefile";

fn config(settings: &Settings) -> Object {
    let corefile = corefile(settings);
    let mut config = Object::new::<ConfigMap>(NAMESPACE, NAME, &[], json!({"data": {COREFILE: corefile}}));
    config.object.metadata.annotations = Some(BTreeMap::from([(WRITTEN.to_owned(), hash65(&[&corefile]))]));
    config
}

/// Whether `live` is a Corefile that the tenant has edited, and which therefore stays.
pub(super) fn is_edited(live: &DynamicObject) -> bool {
    let is_config = live.types.as_ref().is_some_and(|types| types.kind == "ConfigMap") && live.name_any() == NAME;
    let corefile = live.data.pointer(&format!("/data/{COREFILE}")).and_then(Value::as_str).unwrap_or_default();
    is_config && live.annotations().get(WRITTEN) != Some(&hash65(&[corefile]))
}

/// Last resort for names outside the cluster, an address without a server: on a host whose nodes have no name server,
/// CoreDNS would not start without one, and with this one answers SERVFAIL at once. (`policy sequential`: name servers of the node come first.)
const NO_UPSTREAM: &str = "127.0.0.1:9";

fn corefile(settings: &Settings) -> String {
    let domain = &settings.cluster_domain;
    let upstreams = match settings.core_dns.forwarding.upstreams.as_slice() {
        [] => format!("/etc/resolv.conf {NO_UPSTREAM}"),
        servers => servers.join(" "),
    };
    format!(
        ".:53 {{
    errors
    health {{
       lameduck 5s
    }}
    ready
    kubernetes {domain} in-addr.arpa ip6.arpa {{
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }}
    prometheus :9153
    forward . {upstreams} {{
       max_concurrent 1000
       policy sequential
    }}
    cache 30 {{
       disable success {domain}
       disable denial {domain}
    }}
    loop
    reload
    loadbalance
}}
"
    )
}

fn service(settings: &Settings) -> Object {
    let labels = &[("k8s-app", "kube-dns"), ("kubernetes.io/cluster-service", "true"), ("kubernetes.io/name", "CoreDNS")];
    Object::new::<Service>(
        NAMESPACE,
        "kube-dns",
        labels,
        json!({"spec": {
            "clusterIP": settings.dns_address.to_string(),
            "selector": {"k8s-app": "kube-dns"},
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
            ],
        }}),
    )
}

pub(super) fn deployment(settings: &Settings) -> Object {
    let container = json!({
        "name": NAME,
        "image": settings.coredns_image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "resources": {"limits": {"memory": "170Mi"}, "requests": {"cpu": "100m", "memory": "70Mi"}},
        "ports": [
            {"containerPort": 53, "name": "dns", "protocol": "UDP"},
            {"containerPort": 53, "name": "dns-tcp", "protocol": "TCP"},
            {"containerPort": 9153, "name": "metrics", "protocol": "TCP"},
            {"containerPort": 8080, "name": "liveness-probe", "protocol": "TCP"},
            {"containerPort": 8181, "name": "readiness-probe", "protocol": "TCP"},
        ],
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": "liveness-probe", "scheme": "HTTP"},
            "initialDelaySeconds": 60,
            "timeoutSeconds": 5,
        },
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": "readiness-probe", "scheme": "HTTP"},
            "periodSeconds": 1,
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        },
        "volumeMounts": [{"mountPath": "/etc/coredns", "name": "config-volume", "readOnly": true}],
    });
    let pod = json!({
        "serviceAccountName": NAME,
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [
            {"key": "CriticalAddonsOnly", "operator": "Exists"},
            {"effect": "NoSchedule", "key": "node-role.kubernetes.io/control-plane"},
            // A new cluster has DNS as soon as its nodes are there, not when they have been initialized.
            {"effect": "NoSchedule", "key": "node.cloudprovider.kubernetes.io/uninitialized"},
            {"effect": "NoSchedule", "key": "node.kubernetes.io/not-ready"},
        ],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "podAffinityTerm": {
                "labelSelector": {"matchExpressions": [{"key": "k8s-app", "operator": "In", "values": ["kube-dns"]}]},
                "topologyKey": "kubernetes.io/hostname",
            },
            "weight": 100,
        }]}},
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
            // Port 53 without root: a "safe" sysctl, and the default of containerd 2.
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "containers": [container],
        "volumes": [{"configMap": {"items": [{"key": "Corefile", "path": "Corefile"}], "name": NAME}, "name": "config-volume"}],
    });
    let fields = json!({"spec": {
        "replicas": settings.core_dns.replicas.unwrap_or(1),
        "selector": {"matchLabels": {"k8s-app": "kube-dns"}},
        "strategy": {"rollingUpdate": {"maxUnavailable": 1}, "type": "RollingUpdate"},
        "template": {"metadata": {"labels": {"k8s-app": "kube-dns"}}, "spec": pod},
    }});
    Object::new::<Deployment>(NAMESPACE, NAME, LABELS, fields)
}
