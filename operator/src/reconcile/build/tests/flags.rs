//! Every flag that we set is one that a user may not, but for presets, where the user's value counts.

use super::super::{apiserver, controllers};
use crate::reconcile::validate::testing::cluster;
use nestling_crds::managed_flags::{self, ManagedFlags, refusal};
use rstest::rstest;
use serde_json::json;

#[rstest]
#[case("Stacked")]
#[case("External")]
fn ours_are_managed(#[case] topology: &str) {
    let cluster = cluster(&json!({
        "topology": topology,
        "controlPlane": {"apiServer": {"audit": {}, "encryption": {}, "admission": {}}},
    }));
    let check = |program: &str, args: Vec<String>, managed: &[ManagedFlags]| {
        for arg in args {
            let flag = arg.trim_start_matches("--").split('=').next().unwrap().to_owned();
            if controllers::CONTROLLER_MANAGER_PRESETS.iter().any(|(preset, _)| *preset == flag) {
                continue;
            }
            assert!(refusal(managed, &flag).is_some(), "{program} --{flag} is set by the operator but not in managed_flags");
        }
    };
    check("kube-apiserver", apiserver::flags(&cluster).into_args(), managed_flags::API_SERVER);
    check("kube-controller-manager", controllers::controller_manager_flags(&cluster).into_args(), managed_flags::CONTROLLER_MANAGER);
    check("kube-scheduler", controllers::scheduler_flags(&cluster).into_args(), managed_flags::SCHEDULER);
}

#[test]
fn a_preset_gives_way() {
    let cluster = cluster(&json!({"controlPlane": {"controllerManager": {"extraArgs": {"kube-api-qps": "10"}}}}));
    let args = controllers::controller_manager_flags(&cluster).into_args();
    assert!(args.contains(&"--kube-api-qps=10".to_owned()) && args.contains(&"--kube-api-burst=300".to_owned()), "{args:?}");
}
