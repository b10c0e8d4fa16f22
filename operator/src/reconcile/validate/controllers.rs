//! Lists of controllers, as upstream's `--controllers`. A name that a program does not know ends it at its start, so names
//! are checked here.

use crate::reconcile::validate::problems::Problems;

/// Controllers of kube-controller-manager in the known versions of Kubernetes (`KnownControllers`).
const KNOWN: &[&str] = &[
    "bootstrap-signer-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "certificatesigningrequest-signing-controller",
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "device-taint-eviction-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "ephemeral-volume-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-expander-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "podcertificaterequest-cleaner-controller",
    "replicaset-controller",
    "replicationcontroller-controller",
    "resourceclaim-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "selinux-warning-controller",
    "service-cidr-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "storage-version-migrator-controller",
    "storageversion-garbage-collector-controller",
    "taint-eviction-controller",
    "token-cleaner-controller",
    "ttl-after-finished-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
    "volumeattributesclass-protection-controller",
];

/// Their short names (`ControllerAliases`), which upstream promises to keep.
const ALIASES: &[&str] = &[
    "attachdetach",
    "bootstrapsigner",
    "clusterrole-aggregation",
    "cronjob",
    "csrapproving",
    "csrcleaner",
    "csrsigning",
    "daemonset",
    "deployment",
    "disruption",
    "endpoint",
    "endpointslice",
    "endpointslicemirroring",
    "ephemeral-volume",
    "garbagecollector",
    "horizontalpodautoscaling",
    "job",
    "legacy-service-account-token-cleaner",
    "namespace",
    "nodelifecycle",
    "persistentvolume-binder",
    "persistentvolume-expander",
    "podgc",
    "pv-protection",
    "pvc-protection",
    "replicaset",
    "replicationcontroller",
    "resource-claim-controller",
    "resourcequota",
    "root-ca-cert-publisher",
    "serviceaccount",
    "serviceaccount-token",
    "statefulset",
    "storage-version-gc",
    "svm",
    "tokencleaner",
    "ttl",
    "ttl-after-finished",
];

/// Known to some of the versions only; whether this one has it is the program's word.
const SOME_VERSIONS: &[&str] = &["podgroup-protection-controller", "resourcepoolstatusrequest-controller"];

/// Controllers of our cloud controller manager.
const CLOUD: &[&str] = &["node"];

pub(super) fn controller_manager(list: &[String], problems: &mut Problems) -> Vec<String> {
    let field = "spec.controlPlane.controllerManager.controllers";
    check(field, list, problems, |name| {
        if matches!(name, "node-ipam-controller" | "nodeipam") {
            return Err("cannot be chosen: pods get their addresses from the host's network".to_owned());
        }
        if KNOWN.contains(&name) || ALIASES.contains(&name) || SOME_VERSIONS.contains(&name) {
            return Ok(());
        }
        Err(format!("is not known; known are {}", KNOWN.join(", ")))
    })
}

pub(super) fn cloud(list: &[String], problems: &mut Problems) -> Vec<String> {
    let field = "spec.controlPlane.cloudControllerManager.controllers";
    check(
        field,
        list,
        problems,
        |name| {
            if CLOUD.contains(&name) { Ok(()) } else { Err(format!("is not known; known are {}", CLOUD.join(", "))) }
        },
    )
}

fn check(field: &str, list: &[String], problems: &mut Problems, known: impl Fn(&str) -> Result<(), String>) -> Vec<String> {
    if list.is_empty() {
        problems.add(field, "must not be empty: [\"*\"] runs the default ones, a name with a dash before it leaves one out");
    }
    for entry in list.iter().filter(|entry| *entry != "*") {
        let name = entry.strip_prefix('-').unwrap_or(entry);
        if let Err(why) = known(name) {
            problems.add(field, format!("{entry:?} {why}"));
        }
    }
    list.to_vec()
}
