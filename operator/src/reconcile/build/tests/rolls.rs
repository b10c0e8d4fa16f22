//! What replaces pods, and what must not.

use super::{POLICY, build, endpoint, pki, resources};
use crate::model::{Membership, ValidatedCluster, names};
use crate::pki::{Pki, plan};
use crate::reconcile::validate::testing::{cluster, now, reads};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{PodTemplateSpec, Secret};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Pod templates of the members, the apiserver (if apart) and the controllers, with the same authorities and keys.
fn templates(spec: &Value, existing: &BTreeMap<String, Secret>) -> [Option<PodTemplateSpec>; 3] {
    let mut reads = reads();
    reads.secrets.clone_from(existing);
    let cluster = cluster(spec);
    let built = resources(&cluster, &pki(&cluster, &reads));
    [Some(built.members.spec.template), built.apiserver.map(|apiserver| apiserver.spec.template), Some(built.controllers.spec.template)]
}

fn secrets(spec: &Value) -> BTreeMap<String, Secret> {
    by_name(&pki(&cluster(spec), &reads()).secrets)
}

fn by_name(secrets: &crate::pki::PkiSecrets) -> BTreeMap<String, Secret> {
    let crate::pki::PkiSecrets { ca, service_account, apiserver, etcd, controllers, admin_kubeconfig } = secrets;
    [ca, service_account, apiserver, etcd, controllers, admin_kubeconfig].map(|secret| (secret.name_any(), secret.clone())).into()
}

#[test]
fn a_change_replaces_only_the_pods_that_read_it() {
    let base = json!({"topology": "External"});
    let keys = secrets(&base);
    // reads() makes a new installation each time, whose CAs are read at start: compare within one.
    let before = templates_with(&base, &keys);
    for (spec, expected) in [
        (json!({"topology": "External", "controlPlane": {"scheduler": {"profiles": [{"schedulerName": "x"}]}}}), [false, false, true]),
        (json!({"topology": "External", "controlPlane": {"controllerManager": {"controllers": ["*", "-job"]}}}), [false, false, true]),
        (
            json!({"topology": "External", "controlPlane": {"apiServer": {"extraArgs": [{"name": "v", "value": "4"}]}}}),
            [false, true, false],
        ),
        (json!({"topology": "External", "controlPlane": {"apiServer": {"audit": {"rules": []}}}}), [false, true, false]),
        (json!({"topology": "External", "controlPlane": {"apiServer": {"authentication": {"jwt": []}}}}), [false, false, false]),
        (json!({"topology": "External", "controlPlane": {"apiServer": {"certSANs": ["a.example.com"]}}}), [false, false, false]),
        (json!({"topology": "External", "isolation": {"podSecurity": "restricted"}}), [false, false, false]),
        (json!({"topology": "External", "nodes": {"selector": {"matchLabels": {"disk": "ssd"}}}}), [false, false, false]),
        (json!({"topology": "External", "etcd": {"placement": {"nodeSelector": {"disk": "ssd"}}}}), [true, false, false]),
    ] {
        let after = templates_with(&spec, &keys);
        let changed: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before != after).collect();
        assert_eq!(changed, expected, "{spec}");
    }
}

/// As [`templates`], but blind to the installation's own authorities.
fn templates_with(spec: &Value, keys: &BTreeMap<String, Secret>) -> [Option<PodTemplateSpec>; 3] {
    use std::sync::OnceLock;
    static INSTALLATION: OnceLock<std::sync::Arc<crate::pki::installation::InstallationCas>> = OnceLock::new();
    let mut reads = reads();
    reads.installation = INSTALLATION.get_or_init(|| reads.installation.clone()).clone();
    reads.secrets.clone_from(keys);
    let cluster = cluster(spec);
    let built = resources(&cluster, &pki(&cluster, &reads));
    [Some(built.members.spec.template), built.apiserver.map(|apiserver| apiserver.spec.template), Some(built.controllers.spec.template)]
}

/// What tells the pods of etcd's members apart.
fn template(cluster: &ValidatedCluster, pki: &Pki) -> String {
    resources(cluster, pki).members.annotations()[names::TEMPLATE].clone()
}

#[test]
fn scaling_replaces_no_member() {
    let (one, reads) = (cluster(&json!({})), reads());
    let three = cluster(&json!({"controlPlane": {"replicas": 3}}));
    let pki = pki(&one, &reads);
    assert_eq!(template(&one, &pki), template(&three, &pki));
    let formed = ValidatedCluster { membership: Membership { slots: 1, formed: true }, ..one.clone() };
    assert_eq!(template(&one, &pki), template(&formed, &pki));
    let other = cluster(&json!({"etcd": {"extraArgs": [{"name": "log-level", "value": "warn"}]}}));
    assert_ne!(template(&one, &pki), template(&other, &pki));
}

#[test]
fn renewed_leaves_replace_nothing() {
    let (cluster, reads) = (cluster(&json!({})), reads());
    let first = pki(&cluster, &reads);
    let later = now() + SignedDuration::from_hours(8000);
    let second = plan(&cluster, &endpoint(&cluster), &reads.installation, &by_name(&first.secrets), later, &POLICY).unwrap();
    assert_ne!(first.secrets.apiserver, second.secrets.apiserver);
    let (first, second) = (resources(&cluster, &first), resources(&cluster, &second));
    assert_eq!(first.members, second.members);
    assert_eq!(first.controllers, second.controllers);
}

#[test]
fn new_authorities_replace_everything() {
    let base = json!({"topology": "External"});
    let (before, after) = (templates(&base, &secrets(&base)), templates(&base, &secrets(&base)));
    assert!(before.iter().zip(&after).all(|(before, after)| before != after));
}

#[test]
fn names_of_all_pods_fit_their_labels() {
    let longest = "c".repeat(crate::model::names::MAX_CLUSTER_NAME);
    let set = crate::model::names::control_plane(&longest);
    // controller-revision-hash: <StatefulSet>-<hash of at most 10 characters>
    assert_eq!(format!("{set}-0123456789").len(), 63);
}

#[test]
fn what_data_needs_stays_with_it() {
    let owner = |secret: &Secret| secret.metadata.owner_references.is_some();
    let retained = build(&cluster(&json!({"deletionPolicy": "Retain"})));
    assert!(!owner(&retained.secrets.ca) && !owner(&retained.secrets.service_account) && !owner(&retained.apiserver_config));
    assert!(owner(&retained.secrets.etcd));
    assert!(owner(&build(&cluster(&json!({}))).secrets.ca));
}

#[test]
fn an_operator_that_knows_more_versions_replaces_no_pod() {
    use crate::reconcile::validate::{testing, validate};
    use nestling_crds::v1alpha1::VirtualClusterStatus;
    use nestling_crds::versions::{Known, Version};
    const LONGER: &[Known] = &[
        Known { version: Version { minor: 37, patch: 2 }, etcd_tag: "3.9.9-0", coredns_tag: "v1.99.0" },
        Known { version: Version { minor: 38, patch: 0 }, etcd_tag: "3.9.9-0", coredns_tag: "v1.99.0" },
    ];
    for spec in [json!({}), json!({"version": "v1.37", "topology": "External"})] {
        let before = cluster(&spec);
        let pki = pki(&before, &reads());
        let mut vc = testing::vc(&spec);
        vc.status = Some(VirtualClusterStatus { release: Some(before.release.clone()), ..VirtualClusterStatus::default() });
        let mut config = testing::config();
        (config.versions, config.cloud_controller_image) = (LONGER, "nestling/cloud-controller:later".to_owned());
        // The range would be claimed in the status.
        let mut after = validate(&vc, &reads(), &config).unwrap();
        after.owner.clone_from(&before.owner);
        let (before, after) = (resources(&before, &pki), resources(&after, &pki));
        assert_eq!((before.members, before.apiserver, before.controllers), (after.members, after.apiserver, after.controllers));
    }
}
