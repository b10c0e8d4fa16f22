use super::*;
use crate::pods::fixtures;
use crate::services::{PortFacts, Protocol, ServiceFacts};
use crate::tenant::TenantSpec;
use k8s_openapi::api::core::v1::PodSpec;
use nestling_crds::names::{NodeName, TenantName};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

fn service(namespace: &str, name: &str, cluster_ip: &str, ports: &[(&str, u16, Protocol)]) -> Arc<ServiceFacts> {
    let ports = ports.iter().map(|(name, port, protocol)| PortFacts { name: (*name).to_owned(), port: *port, protocol: *protocol });
    Arc::new(ServiceFacts {
        name: TenantName::new(namespace, name),
        cluster_ips: vec![cluster_ip.parse().unwrap()],
        ports: ports.collect(),
        local_only: false,
        affinity: None,
        is_proxied: true,
    })
}

/// What stands around the pod that is translated.
struct Around {
    tenant: TenantSpec,
    node: NodeName,
    services: Vec<Arc<ServiceFacts>>,
    /// Keys of the objects that exist.
    keys: BTreeMap<Source, Arc<BTreeSet<String>>>,
}

impl Around {
    fn new() -> Self {
        let services = vec![service("default", "kubernetes", "10.96.0.1", &[("https", 443, Protocol::Tcp)])];
        Self { tenant: fixtures::tenant_spec(), node: fixtures::node(), services, keys: BTreeMap::new() }
    }

    fn translate(&self, pod: &Pod) -> Translation {
        let owner = Owner { tenant: &self.tenant, node: &self.node };
        let mut translation = translate(owner, &fixtures::key(), pod);
        let copies = self.keys.iter().map(|(source, keys)| (source.host_name(&self.tenant.uid, &self.node).to_string(), keys.clone()));
        if let Ok(host) = &mut translation.pod {
            add_service_variables(host, pod, &self.services, self.tenant.kubernetes_address, &copies.collect());
        }
        translation
    }

    fn host(&self, spec: Value) -> PodSpec {
        self.translate(&pod(spec)).pod.unwrap().spec.unwrap()
    }
}

fn pod(spec: Value) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": "web-0", "namespace": "shop", "uid": "tenant-pod-uid",
            "labels": {"app": "web", "nestling.dev/component": "control-plane"},
            "annotations": {"note": "costs $(PRICE) or $$5"},
        },
    });
    pod["spec"] = spec;
    serde_json::from_value(pod).unwrap()
}

/// The spec of a pod as an apiserver stores it, with every field that is handled.
fn full() -> Pod {
    pod(serde_json::from_str(include_str!("full_pod.json")).unwrap())
}

#[test]
fn a_pod_with_everything() {
    let mut around = Around::new();
    around.services.push(service("shop", "data-base", "10.96.7.7", &[("sql", 5432, Protocol::Tcp), ("probe", 53, Protocol::Udp)]));
    let Translation { needs, pod } = around.translate(&full());
    insta::assert_yaml_snapshot!("full_host_pod", pod.unwrap());
    insta::assert_debug_snapshot!("full_needs", needs);
}

#[test]
fn nothing_of_the_tenants_own_marks_lands_on_the_host_pod() {
    let host = Around::new().translate(&full()).pod.unwrap();
    let marks = host.metadata.labels.unwrap();
    assert_eq!(marks.get("app"), None);
    assert_eq!(marks.get("nestling.dev/component").map(String::as_str), Some("workload"));
    assert!(host.metadata.annotations.unwrap().keys().all(|key| key.starts_with("nestling.dev/")));
    let spec = host.spec.unwrap();
    assert_eq!((spec.priority_class_name, spec.priority, spec.service_account_name, spec.node_name), (None, None, None, None));
}

#[rstest]
#[case(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}), "spec.volumes[0].persistentVolumeClaim")]
#[case(json!({"volumes": [{"name": "v", "ephemeral": {}}]}), "spec.volumes[0].ephemeral")]
#[case(json!({"volumes": [{"name": "v", "csi": {"driver": "d"}}]}), "spec.volumes[0].csi")]
#[case(json!({"volumes": [{"name": "v", "nfs": {"path": "/", "server": "s"}}]}), "spec.volumes[0].nfs")]
#[case(json!({"volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}}]}), "spec.volumes[0].projected.sources[0].clusterTrustBundle")]
#[case(json!({"volumes": [{"name": "v", "projected": {"sources": [{"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "status.podIP"}}]}}]}}]}),
    "spec.volumes[0].projected.sources[0].downwardAPI.items[0].fieldRef.fieldPath")]
#[case(json!({"resourceClaims": [{"name": "gpu"}]}), "spec.resourceClaims")]
#[case(json!({"setHostnameAsFQDN": true}), "spec.setHostnameAsFQDN")]
#[case(json!({"runtimeClassName": "kata"}), "spec.runtimeClassName")]
#[case(json!({"overhead": {"cpu": "1"}}), "spec.overhead")]
#[case(json!({"os": {"name": "windows"}}), "spec.os.name")]
#[case(json!({"containers": [{"name": "a", "volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]}]}), "spec.containers[0].volumeDevices")]
#[case(json!({"containers": [{"name": "a", "resources": {"claims": [{"name": "gpu"}]}}]}), "spec.containers[0].resources.claims")]
#[case(json!({"containers": [{"name": "a", "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.finalizers"}}}]}]}),
    "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath")]
#[case(json!({"initContainers": [{"name": "a", "securityContext": {"windowsOptions": {}}}]}), "spec.initContainers[0].securityContext.windowsOptions")]
fn a_field_that_is_not_handled_is_refused_by_name(#[case] mut spec: Value, #[case] field: &str) {
    if spec.get("containers").is_none() {
        spec["containers"] = json!([]);
    }
    let refusals = Around::new().translate(&pod(spec)).pod.unwrap_err();
    assert_eq!(refusals.iter().map(|refusal| refusal.field.as_str()).collect::<Vec<_>>(), [field]);
    assert!(!refusals[0].value.is_empty() && !refusals[0].reason.is_empty());
}

#[test]
fn harmless_values_are_not_refused() {
    Around::new().host(json!({"containers": [], "setHostnameAsFQDN": false, "overhead": {}, "resourceClaims": []}));
}

#[test]
fn service_variables_come_first_and_give_way_to_env_from() {
    let mut around = Around::new();
    around.services.push(service("shop", "db", "fd00::7", &[("", 53, Protocol::Udp)]));
    let spec = json!({"containers": [{"name": "a", "env": [{"name": "DB_SERVICE_HOST", "value": "$(DB_SERVICE_HOST)!"}],
        "envFrom": [{"prefix": "DB_", "configMapRef": {"name": "settings"}}]}]});
    around.keys.insert(Source::config_map("shop", "settings"), Arc::new(["SERVICE_PORT".to_owned()].into()));
    let env = around.host(spec).containers.remove(0).env.unwrap();
    let text: Vec<String> = env.iter().map(|var| format!("{}={}", var.name, var.value.as_deref().unwrap_or_default())).collect();
    assert_eq!(
        text,
        [
            "DB_SERVICE_HOST=fd00::7",
            "DB_PORT=udp://[fd00::7]:53",
            "DB_PORT_53_UDP=udp://[fd00::7]:53",
            "DB_PORT_53_UDP_PROTO=udp",
            "DB_PORT_53_UDP_PORT=53",
            "DB_PORT_53_UDP_ADDR=fd00::7",
            "KUBERNETES_SERVICE_HOST=10.96.0.1",
            "KUBERNETES_SERVICE_PORT=443",
            "KUBERNETES_SERVICE_PORT_HTTPS=443",
            "KUBERNETES_PORT=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP_PROTO=tcp",
            "KUBERNETES_PORT_443_TCP_PORT=443",
            "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
            "DB_SERVICE_HOST=$(DB_SERVICE_HOST)!",
        ]
    );
}

#[test]
fn without_links_only_kubernetes_is_shown_even_before_its_service_exists() {
    let mut around = Around::new();
    around.services = vec![service("shop", "db", "10.96.7.7", &[("", 1, Protocol::Tcp)])];
    let env = around.host(json!({"enableServiceLinks": false, "containers": [{"name": "a"}]})).containers.remove(0).env.unwrap();
    assert!(env.iter().all(|var| var.name.starts_with("KUBERNETES_")));
    assert_eq!(env.len(), 8);
}

#[rstest]
#[case(json!({}), Some("web-0"), None)]
#[case(json!({"hostname": "given"}), Some("given"), None)]
#[case(json!({"hostnameOverride": "a.b.c"}), None, Some("a.b.c"))]
#[case(json!({"hostNetwork": true}), None, None)]
fn the_hostname_is_the_tenants(#[case] mut spec: Value, #[case] hostname: Option<&str>, #[case] override_: Option<&str>) {
    spec["containers"] = json!([]);
    let host = Around::new().host(spec);
    assert_eq!((host.hostname.as_deref(), host.hostname_override.as_deref()), (hostname, override_));
}

#[test]
fn a_hostname_is_cut_and_may_have_dots() {
    let around = Around::new();
    let owner = Owner { tenant: &around.tenant, node: &around.node };
    let hostname = |name: String| {
        let key = PodKey { name, ..fixtures::key() };
        let spec = translate(owner, &key, &pod(json!({"containers": []}))).pod.unwrap().spec.unwrap();
        (spec.hostname, spec.hostname_override)
    };
    assert_eq!(hostname(format!("{}-tail", "a".repeat(62))), (Some("a".repeat(62)), None));
    assert_eq!(hostname("web.v1".into()), (None, Some("web.v1".into())));
}

#[rstest]
#[case(json!({"dnsPolicy": "Default"}), "Default", false)]
#[case(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}), "None", false)]
#[case(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), "Default", false)]
#[case(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), "None", true)]
#[case(json!({}), "None", true)]
fn dns_policies(#[case] mut spec: Value, #[case] policy: &str, #[case] tenant_dns: bool) {
    spec["containers"] = json!([]);
    let host = Around::new().host(spec);
    assert_eq!(host.dns_policy.as_deref(), Some(policy));
    let servers = host.dns_config.and_then(|config| config.nameservers).unwrap_or_default();
    assert_eq!(servers.contains(&"10.96.0.10".to_owned()), tenant_dns);
}

proptest! {
    /// Whatever a value holds, the host's kubelet gives the container exactly that value.
    #[test]
    fn literals_survive_expansion(value in "[$() A-Z{}a]{0,24}") {
        let mut tenant = pod(json!({"containers": [{"name": "a", "env": [
            {"name": "A", "value": "wrong"},
            {"name": "V", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['v']"}}}]}]}));
        tenant.metadata.annotations = Some(BTreeMap::from([("v".into(), value.clone())]));
        let env = Around::new().translate(&tenant).pod.unwrap().spec.unwrap().containers.remove(0).env.unwrap();
        prop_assert_eq!(expand(env.last().unwrap().value.as_deref().unwrap()), value);
    }

    /// Names of any length make valid host names, and no two objects share one.
    #[test]
    fn names_of_copies_are_labels(names in prop::collection::btree_set("[a-z0-9]([-a-z0-9.]{0,80}[a-z0-9])?", 1..5)) {
        let volumes: Vec<Value> = names.iter().enumerate()
            .map(|(i, name)| json!({"name": format!("v{i}"), "configMap": {"name": name}})).collect();
        let host = Around::new().host(json!({"containers": [], "volumes": volumes}));
        let copies: BTreeSet<String> = host.volumes.unwrap().into_iter().map(|volume| volume.config_map.unwrap().name).collect();
        prop_assert_eq!(copies.len(), names.len());
        prop_assert!(copies.iter().all(|name| name.len() <= 63));
    }
}

/// The expansion syntax of Kubernetes, with `A` the only variable.
fn expand(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            out.push_str(if name == "A" { "wrong" } else { "unknown" });
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}
