use super::*;
use crate::managed_flags::{API_SERVER, CLOUD_CONTROLLER_MANAGER, CONTROLLER_MANAGER, ETCD, ManagedFlags, SCHEDULER};
use rstest::rstest;
use serde_json::{Value, json};

/// A `VirtualCluster` as an apiserver would store it, from a spec as a user writes it.
fn cluster(name: &str, spec: &Value) -> VirtualCluster {
    let object = json!({
        "apiVersion": "nestling.dev/v1alpha1",
        "kind": "VirtualCluster",
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn refused(cluster: &VirtualCluster) -> String {
    let lines: Vec<String> = refusals(cluster).into_iter().map(|Refusal { field, message }| format!("{field}: {message}")).collect();
    lines.join("\n")
}

#[test]
fn a_refusal_names_its_field() {
    let refusals = refusals(&cluster("dev", &json!({"network": {"nodePorts": "External"}, "etcd": {"replicas": 1}})));
    let fields: Vec<&str> = refusals.iter().map(|refusal| refusal.field.as_str()).collect();
    assert_eq!(fields, ["spec", "spec.network.nodePorts"]);
}

#[rstest]
#[case("a", true)]
#[case("abcdefghijklmnopqrstuvwxyz0123456789", true)]
#[case("abcdefghijklmnopqrstuvwxyz0123456789x", false)]
#[case("1st", false)]
#[case("dev.a", false)]
fn names_leave_room_for_the_names_made_from_them(#[case] name: &str, #[case] taken: bool) {
    assert_eq!(refused(&cluster(name, &json!({}))).is_empty(), taken);
}

#[rstest]
#[case(API_SERVER, "/controlPlane/apiServer")]
#[case(CONTROLLER_MANAGER, "/controlPlane/controllerManager")]
#[case(SCHEDULER, "/controlPlane/scheduler")]
#[case(CLOUD_CONTROLLER_MANAGER, "/controlPlane/cloudControllerManager")]
#[case(ETCD, "/etcd")]
fn every_managed_flag_is_refused_in_every_spelling(#[case] managed: &[ManagedFlags], #[case] component: &str) {
    for group in managed {
        for flag in group.flags {
            for flag in [(*flag).to_owned(), flag.replace('-', "_")] {
                let args = json!({"extraArgs": [{"name": "v", "value": "4"}, {"name": flag, "value": "x"}]});
                let spec = component.rsplit('/').filter(|part| !part.is_empty()).fold(args, |inner, part| json!({part: inner}));
                let refusals = refused(&cluster("dev", &spec));
                let message = format!("flag --{flag} is managed: {}", group.instead);
                assert!(refusals.contains(&message), "{refusals:?}\n{message}");
            }
        }
    }
}
