//! Every object of a stacked cluster as YAML, and of others what differs from it. Keys, certificates and hashes over them
//! differ from run to run and are replaced.

use super::{Resources, build, live};
use crate::model::names;
use crate::pki::PkiSecrets;
use crate::reconcile::validate::testing::cluster;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rstest::rstest;
use serde::Serialize;
use serde_json::{Map, Value, json};
use similar::TextDiff;
use std::collections::{BTreeMap, BTreeSet};

const STACKED: &str = r#"{"version": "v1.37.2"}"#;

#[test]
fn stacked() {
    insta::with_settings!({snapshot_path => "../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("stacked", objects(&serde_json::from_str(STACKED).unwrap()).into_values().collect::<Vec<_>>().join("---\n"));
    });
}

#[rstest]
#[case("single_node", json!({"version": "v1.37.2", "topology": "SingleNode", "etcd": {"storage": {"medium": "Memory"}}, "isolation": {"networkPolicy": false}}))]
#[case("external", json!({
    "version": "v1.36.3",
    "topology": "External",
    "deletionPolicy": "Retain",
    "controlPlane": {
        "apiServer": {
            "extraArgs": [{"name": "event-ttl", "value": "2h"}],
            "certSANs": ["api.example.com"],
            "resources": {"requests": {"cpu": "1"}},
            "audit": {"rules": [{"level": "Metadata"}]},
            "encryption": {"secretRef": {"name": "keys"}},
            "admission": {"plugins": []},
        },
        "controllerManager": {"controllers": ["*", "-cronjob"]},
        "scheduler": {"profiles": [{"schedulerName": "packing"}]},
        "placement": {"nodeSelector": {"pool": "control"}, "priorityClassName": "high", "hostSpread": "Required", "zoneSpread": "Required",
                      "tolerations": [{"key": "control", "operator": "Exists"}]},
        "podTemplate": {"labels": {"team": "a"}, "annotations": {"example.com/scrape": "true"}},
    },
    "etcd": {"replicas": 1, "storage": {"size": "20Gi", "storageClassName": "fast"}, "placement": {"zoneSpread": "Required"}},
    "network": {"serviceCIDRs": ["10.200.0.0/20"], "clusterDomain": "dev.example"},
    "expose": {"type": "LoadBalancer", "hostname": "api.example.com", "annotations": {"balancer": "internal"}, "sourceRanges": ["203.0.113.0/24"], "loadBalancerClass": "example.com/internal"},
    "images": {"pullSecrets": [{"name": "registry"}]},
    "isolation": {"podSecurity": "restricted", "quota": {"pods": "100"}},
}))]
fn others_as_they_differ_from_stacked(#[case] name: &str, #[case] spec: Value) {
    let (stacked, other) = (objects(&serde_json::from_str(STACKED).unwrap()), objects(&spec));
    let names: BTreeSet<&String> = stacked.keys().chain(other.keys()).collect();
    let text: String = names.into_iter().map(|name| difference(name, stacked.get(name), other.get(name))).collect();
    insta::with_settings!({snapshot_path => "../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!(name, text);
    });
}

/// The lines of one object that differ, with two lines around them.
fn difference(name: &str, before: Option<&String>, after: Option<&String>) -> String {
    let (before, after) = match (before, after) {
        (before, after) if before == after => return String::new(),
        (Some(_), None) => return format!("=== {name}: none\n"),
        (before, after) => (before.map(String::as_str).unwrap_or_default(), after.map(String::as_str).unwrap_or_default()),
    };
    let mut text = format!("=== {name}\n");
    let lines = TextDiff::from_lines(before, after);
    for (index, group) in lines.grouped_ops(2).iter().enumerate() {
        if index > 0 {
            text.push_str("...\n");
        }
        for change in group.iter().flat_map(|op| lines.iter_changes(op)) {
            text.push_str(&change.tag().to_string());
            text.push_str(change.value());
        }
    }
    text
}

/// Every object of a cluster as YAML, by kind and name.
fn objects(spec: &Value) -> BTreeMap<String, String> {
    let cluster = cluster(spec);
    let mut objects = vec![value(&live(&cluster))];
    objects.extend(values(build(&cluster)));
    let name = |object: &Value| format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
    objects.into_iter().map(|object| (name(&object), yaml(&redacted(object)))).collect()
}

fn yaml(object: &Value) -> String {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: 1000 };
    serde_saphyr::to_string_with_options(object, options).unwrap()
}

fn value(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

fn values<State>(resources: Resources<State>) -> Vec<Value> {
    let Resources {
        workload_namespace,
        workload_operator_binding,
        workload_role_binding,
        workload_network_policy,
        workload_quota,
        service_account,
        etcd_services,
        secrets: PkiSecrets { ca, service_account: sa, apiserver: apiserver_certs, etcd, controllers: controllers_certs, admin_kubeconfig },
        apiserver_config,
        controllers_config,
        network_policies,
        disruption_budgets,
        claims,
        members,
        apiserver,
        controllers,
        state: _,
    } = resources;
    let mut all = vec![value(&workload_namespace), value(&workload_operator_binding), value(&workload_role_binding)];
    all.extend(workload_network_policy.iter().map(value));
    all.extend(workload_quota.iter().map(value));
    all.push(value(&service_account));
    all.extend(etcd_services.iter().map(value));
    all.extend([ca, sa, apiserver_certs, etcd, controllers_certs, admin_kubeconfig, apiserver_config].iter().map(value));
    all.push(value(&controllers_config));
    all.extend(network_policies.iter().map(value));
    all.extend(disruption_budgets.iter().map(value));
    all.extend(claims.iter().map(value));
    all.push(value(&members));
    all.extend(apiserver.iter().map(value));
    all.push(value(&controllers));
    all
}

fn redacted(mut object: Value) -> Value {
    if object["kind"] == "Secret" {
        let data = object["data"].as_object().cloned().unwrap_or_default();
        object["data"] = Value::Object(data.into_iter().map(|(key, value)| (key, secret_text(value.as_str().unwrap()))).collect());
    }
    without_hashes(object)
}

/// The kind of a PEM block, or the text with what is embedded in it left out.
fn secret_text(encoded: &str) -> Value {
    let text = String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap();
    if let Some(kind) = text.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----")) {
        return json!(format!("<{}>", kind.0));
    }
    let line = |line: &str| match line.split_once("-data: ") {
        Some((field, _)) => format!("{field}-data: <base64>"),
        None => line.to_owned(),
    };
    json!(text.lines().map(line).collect::<Vec<_>>().join("\n"))
}

fn without_hashes(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| {
                    let hash = key.starts_with("nestling.dev/") && (key.ends_with("-config") || key == names::TEMPLATE);
                    let value = if hash { json!("<hash>") } else { without_hashes(value) };
                    (key, value)
                })
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_hashes).collect()),
        other => other,
    }
}
