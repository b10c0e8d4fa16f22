//! Every flag that we set is one that a user may not, but for presets, where the user's value counts.

use super::super::{apiserver, controllers, etcd};
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
        "controlPlane": {"featureGates": {"AllAlpha": false}, "apiServer": {"audit": {}, "encryption": {"secretRef": {"name": "keys"}}, "admission": {}}},
    }));
    let check = |program: &str, args: Vec<String>, managed: &[ManagedFlags]| {
        for arg in args {
            let flag = arg.trim_start_matches("--").split('=').next().unwrap().to_owned();
            let manager = controllers::controller_manager_presets(&cluster);
            let mut presets = manager.iter().map(|(preset, _)| *preset).chain(etcd::presets().map(|(preset, _)| preset));
            if presets.any(|preset| preset == flag) {
                continue;
            }
            assert!(refusal(managed, &flag).is_some(), "{program} --{flag} is set by the operator but not in managed_flags");
        }
    };
    check("kube-apiserver", apiserver::flags(&cluster).into_args(), managed_flags::API_SERVER);
    check("kube-controller-manager", controllers::controller_manager_flags(&cluster).into_args(), managed_flags::CONTROLLER_MANAGER);
    check("kube-scheduler", controllers::scheduler_flags(&cluster).into_args(), managed_flags::SCHEDULER);
    let cloud = controllers::cloud_controller_manager_flags(&cluster).into_args();
    check("cloud-controller-manager", cloud, managed_flags::CLOUD_CONTROLLER_MANAGER);
    check("etcd", etcd::flags(&cluster).into_args(), managed_flags::ETCD);
}

#[test]
fn a_preset_gives_way() {
    let cluster = cluster(&json!({"controlPlane": {"controllerManager": {"extraArgs": [{"name": "kube_api_qps", "value": "10"}]}}}));
    let args = controllers::controller_manager_flags(&cluster).into_args();
    assert!(args.contains(&"--kube-api-qps=10".to_owned()) && args.contains(&"--kube-api-burst=300".to_owned()), "{args:?}");
    assert_eq!(args.iter().filter(|arg| arg.contains("qps")).count(), 1, "{args:?}");
}

#[test]
fn repeated_flags_keep_their_order() {
    let cluster = cluster(&json!({"etcd": {"extraArgs": [
        {"name": "log-outputs", "value": "stderr"}, {"name": "log-level", "value": "warn"}, {"name": "log-outputs", "value": "stdout"},
    ]}}));
    let args = etcd::flags(&cluster).into_args();
    assert_eq!(args[args.len() - 3..], ["--log-outputs=stderr", "--log-level=warn", "--log-outputs=stdout"]);
}

#[test]
fn gates_reach_every_program_of_kubernetes() {
    let cluster = cluster(&json!({"controlPlane": {"featureGates": {"B": false, "A": true}}}));
    for flags in [apiserver::flags(&cluster), controllers::controller_manager_flags(&cluster), controllers::scheduler_flags(&cluster)] {
        assert!(flags.into_args().contains(&"--feature-gates=A=true,B=false".to_owned()));
    }
}
