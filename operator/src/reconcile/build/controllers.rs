//! Deployment `<vc>-controllers`: kube-controller-manager, kube-scheduler and cloud-controller-manager in one pod, because
//! a dense host runs out of pods and addresses first. Each container mounts its own keys only. With it go the scheduler's
//! configuration and the service account of the cloud-controller-manager.

use crate::model::metadata::component;
use crate::model::{CERTIFICATES, FRONT_PROXY_CLIENT, ValidatedCluster, keys, metadata, names};
use crate::pki::PkiSecrets;
use crate::reconcile::build::container::{Flags, Http, container, file, go_env, port, resources};
use crate::reconcile::build::mounts;
use crate::reconcile::build::mounts::{CONFIG, TOKEN};
use crate::reconcile::build::pod::{self, hash_of, secret_hash};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ExecAction, Lifecycle, LifecycleHandler, PodSpec, Probe, ProjectedVolumeSource, ServiceAccount,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::ResourceExt as _;
use nestling_control_api::consts;
use nestling_crds::labels;
use serde_json::json;
use std::collections::BTreeMap;

pub const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub const SCHEDULER: &str = "kube-scheduler";
pub const CLOUD_CONTROLLER_MANAGER: &str = "cloud-controller-manager";

/// The program in its image.
const CLOUD_CONTROLLER_PROGRAM: &str = "/usr/local/bin/cloud-controller-manager";

const CONTROLLER_MANAGER_PORT: i32 = 10257;
const SCHEDULER_PORT: i32 = 10259;
const CLOUD_CONTROLLER_PORT: i32 = 10258;

const CONTROLLER_MANAGER_VOLUME: &str = "controller-manager-certs";
const SCHEDULER_VOLUME: &str = "scheduler-certs";
const CLOUD_CONTROLLER_VOLUME: &str = "cloud-controller-certs";
const CONFIG_VOLUME: &str = "controllers-config";
const TOKEN_VOLUME: &str = "control-token";

/// Life of such a token, seconds; the kubelet renews it at 80 %.
const TOKEN_SECONDS: i64 = 3600;
/// Controllers hand over nothing at their end.
const GRACE_SECONDS: i64 = 10;

pub(super) fn controllers(cluster: &ValidatedCluster, pki: &PkiSecrets, config: &ConfigMap) -> Deployment {
    let inside = PodSpec {
        service_account_name: Some(names::cloud_controller(&cluster.name)),
        // The first holds the others back until the API serves.
        containers: vec![cloud_controller_manager(cluster), controller_manager(cluster), scheduler(cluster)],
        volumes: Some(volumes(cluster)),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        ..PodSpec::default()
    };
    let hashes = [
        (CONTROLLER_MANAGER, controller_manager_hash(pki)),
        (SCHEDULER, scheduler_hash(pki, config)),
        (CLOUD_CONTROLLER_MANAGER, cloud_controller_hash(pki)),
    ];
    let mut deployment = pod::deployment(cluster, names::controllers(&cluster.name), component::CONTROLLERS, &hashes, inside);
    // Read back while kube-apiserver changes its version, when these stay what they are.
    deployment.labels_mut().insert(labels::VERSION.to_owned(), cluster.controllers_version.to_string());
    deployment.annotations_mut().insert(names::CLOUD_CONTROLLER_IMAGE.to_owned(), cluster.images.cloud_controller.clone());
    deployment
}

/// Holds the containers that follow back until the API has its roles: without them kube-controller-manager and
/// kube-scheduler end at once, and the kubelet waits ten seconds and more before it starts them again. The kubelet starts the
/// containers of a pod in their order, each after the hook of the one before has ended; the end of an init container it would
/// notice up to a second late. For a minute at most: a kubelet does not end a pod while a hook runs.
fn wait_for_api() -> Lifecycle {
    let kubeconfig = kubeconfig(keys::CLOUD_CONTROLLER_MANAGER);
    let program = [CLOUD_CONTROLLER_PROGRAM, "wait", "--for=readyz", "--timeout=60"].map(ToOwned::to_owned);
    let command = [&program[..], &[format!("--kubeconfig={kubeconfig}")]].concat();
    Lifecycle {
        post_start: Some(LifecycleHandler { exec: Some(ExecAction { command: Some(command) }), ..LifecycleHandler::default() }),
        ..Lifecycle::default()
    }
}

fn controller_manager(cluster: &ValidatedCluster) -> Container {
    let settings = &cluster.controller_manager;
    let resources = resources(settings.resources.as_ref(), "20m", "64Mi");
    Container {
        env: Some(go_env(&resources)),
        ports: Some(vec![port("kcm", CONTROLLER_MANAGER_PORT)]),
        resources: Some(resources),
        volume_mounts: Some(vec![mounts::mount(CONTROLLER_MANAGER_VOLUME, CERTIFICATES)]),
        startup_probe: Some(startup("HTTPS", CONTROLLER_MANAGER_PORT)),
        liveness_probe: Some(liveness("HTTPS", CONTROLLER_MANAGER_PORT)),
        ..container(
            CONTROLLER_MANAGER,
            &cluster.images.controller_manager,
            &["kube-controller-manager"],
            controller_manager_flags(cluster).into_args(),
        )
    }
}

/// Flags of kube-controller-manager whose upstream default does not suit a tenant, and that a user may set otherwise.
///
/// Its controllers are set up one after the other, each with a few requests, and upstream's 20 requests a second let that
/// take five seconds: most of the time that a tenant takes to come up. What a tenant's apiserver can bear is kept by its
/// own priority and fairness.
pub(super) fn controller_manager_presets(cluster: &ValidatedCluster) -> Vec<(&'static str, &'static str)> {
    let mut presets = vec![("kube-api-burst", "300"), ("kube-api-qps", "150")];
    if cluster.replicas == 1 {
        let [duration, deadline, period] = LONE_LEASE;
        presets.extend([
            ("leader-elect-lease-duration", duration),
            ("leader-elect-renew-deadline", deadline),
            ("leader-elect-retry-period", period),
        ]);
    }
    presets
}

/// Duration, renewal deadline and retry period of the lease of a replica that has no other to compete with. Upstream's 15 s, 10 s
/// and 2 s would be most of the writes of an idle tenant, and a host that starves a control plane for ten seconds would restart
/// its controllers. kube-controller-manager does not release its lease when it ends, so its successor waits for the duration.
const LONE_LEASE: [&str; 3] = ["20s", "15s", "5s"];

/// The program's flags.
pub(super) fn controller_manager_flags(cluster: &ValidatedCluster) -> Flags {
    let settings = &cluster.controller_manager;
    let kubeconfig = kubeconfig(keys::CONTROLLER_MANAGER);
    let mut flags = Flags::new([
        // Pods get their addresses from the host's network.
        ("allocate-node-cidrs", "false".to_owned()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig.clone()),
        // For probes; everything but health wants a token of the tenant.
        ("bind-address", "0.0.0.0".to_owned()),
        ("client-ca-file", file(CERTIFICATES, keys::CA)),
        ("cluster-name", cluster.name.clone()),
        ("cluster-signing-cert-file", file(CERTIFICATES, keys::CA)),
        ("cluster-signing-key-file", file(CERTIFICATES, keys::CA_KEY)),
        ("configure-cloud-routes", "false".to_owned()),
        ("controllers", settings.controllers.join(",")),
        ("kubeconfig", kubeconfig),
        ("leader-elect", "true".to_owned()),
        ("profiling", "false".to_owned()),
        ("requestheader-allowed-names", FRONT_PROXY_CLIENT.to_owned()),
        ("requestheader-client-ca-file", file(CERTIFICATES, keys::FRONT_PROXY_CA)),
        ("root-ca-file", file(CERTIFICATES, keys::CA)),
        ("secure-port", CONTROLLER_MANAGER_PORT.to_string()),
        ("service-account-private-key-file", file(CERTIFICATES, keys::SERVICE_ACCOUNT_KEY)),
        ("tls-min-version", "VersionTLS12".to_owned()),
        ("use-service-account-credentials", "true".to_owned()),
    ]);
    for (name, value) in controller_manager_presets(cluster) {
        flags.set(name, value);
    }
    flags.gates(&cluster.feature_gates).with(&settings.extra_args)
}

fn scheduler(cluster: &ValidatedCluster) -> Container {
    let settings = &cluster.scheduler;
    let resources = resources(settings.resources.as_ref(), "10m", "48Mi");
    Container {
        env: Some(go_env(&resources)),
        ports: Some(vec![port("scheduler", SCHEDULER_PORT)]),
        resources: Some(resources),
        volume_mounts: Some(vec![mounts::mount(SCHEDULER_VOLUME, CERTIFICATES), mounts::mount(CONFIG_VOLUME, CONFIG)]),
        startup_probe: Some(startup("HTTPS", SCHEDULER_PORT)),
        liveness_probe: Some(liveness("HTTPS", SCHEDULER_PORT)),
        ..container(SCHEDULER, &cluster.images.scheduler, &["kube-scheduler"], scheduler_flags(cluster).into_args())
    }
}

/// The program's flags. Leader election, profiling and the API's address stand in the file: `--config` overrides the flags.
pub(super) fn scheduler_flags(cluster: &ValidatedCluster) -> Flags {
    let kubeconfig = kubeconfig(keys::SCHEDULER);
    Flags::new([
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("bind-address", "0.0.0.0".to_owned()),
        ("client-ca-file", file(CERTIFICATES, keys::CA)),
        ("config", file(CONFIG, SCHEDULER_FILE)),
        ("requestheader-allowed-names", FRONT_PROXY_CLIENT.to_owned()),
        ("requestheader-client-ca-file", file(CERTIFICATES, keys::FRONT_PROXY_CA)),
        ("secure-port", SCHEDULER_PORT.to_string()),
        ("tls-min-version", "VersionTLS12".to_owned()),
    ])
    .gates(&cluster.feature_gates)
    .with(&cluster.scheduler.extra_args)
}

/// The program's flags.
pub(super) fn cloud_controller_manager_flags(cluster: &ValidatedCluster) -> Flags {
    let settings = &cluster.cloud_controller_manager;
    Flags::new([
        ("controllers", settings.controllers.join(",")),
        ("kubeconfig", kubeconfig(keys::CLOUD_CONTROLLER_MANAGER)),
        ("operator", cluster.control_url.clone()),
        ("operator-ca", file(CERTIFICATES, keys::CONTROL_CA)),
    ])
    .with(&settings.extra_args)
}

fn cloud_controller_manager(cluster: &ValidatedCluster) -> Container {
    let args = cloud_controller_manager_flags(cluster).into_args();
    Container {
        // Our own images know their program.
        command: None,
        lifecycle: Some(wait_for_api()),
        ports: Some(vec![port("ccm", CLOUD_CONTROLLER_PORT)]),
        resources: Some(resources(cluster.cloud_controller_manager.resources.as_ref(), "5m", "16Mi")),
        volume_mounts: Some(vec![mounts::mount(CLOUD_CONTROLLER_VOLUME, CERTIFICATES), mounts::mount(TOKEN_VOLUME, TOKEN)]),
        startup_probe: Some(startup("HTTP", CLOUD_CONTROLLER_PORT)),
        liveness_probe: Some(liveness("HTTP", CLOUD_CONTROLLER_PORT)),
        ..container(CLOUD_CONTROLLER_MANAGER, &cluster.images.cloud_controller, &[], args)
    }
}

/// Five minutes, looked at every second. Nobody routes traffic here, so there is no readiness probe: a container that has
/// started is ready.
fn startup(scheme: &str, port: i32) -> Probe {
    Http { scheme, port, path: "/healthz", period: 1, timeout: 5, failures: 300, initial_delay: 0 }.into()
}

fn liveness(scheme: &str, port: i32) -> Probe {
    Http { scheme, port, path: "/healthz", period: 10, timeout: 15, failures: 8, initial_delay: 0 }.into()
}

fn kubeconfig(stem: &str) -> String {
    file(CERTIFICATES, format!("{stem}.kubeconfig"))
}

fn volumes(cluster: &ValidatedCluster) -> Vec<Volume> {
    let vc = cluster.name.as_str();
    let certs =
        |volume, stem, further: &[&str]| mounts::secret(volume, names::controllers_certs(vc), &mounts::controller_items(stem, further));
    vec![
        controller_manager_volume(cluster),
        certs(SCHEDULER_VOLUME, keys::SCHEDULER, &[keys::FRONT_PROXY_CA]),
        certs(CLOUD_CONTROLLER_VOLUME, keys::CLOUD_CONTROLLER_MANAGER, &[keys::CONTROL_CA]),
        mounts::config_map(CONFIG_VOLUME, names::controllers_config(vc)),
        token(),
    ]
}

/// Two Secrets in one directory: the signers of kube-controller-manager need the cluster CA's key and the key of
/// service-account tokens.
fn controller_manager_volume(cluster: &ValidatedCluster) -> Volume {
    let vc = cluster.name.as_str();
    let certs = mounts::controller_items(keys::CONTROLLER_MANAGER, &[keys::CA_KEY, keys::FRONT_PROXY_CA]);
    mounts::secrets(
        CONTROLLER_MANAGER_VOLUME,
        [(names::controllers_certs(vc), certs), (names::service_account_keys(vc), vec![keys::SERVICE_ACCOUNT_KEY.to_owned()])],
    )
}

fn token() -> Volume {
    let projection = ServiceAccountTokenProjection {
        audience: Some(consts::TOKEN_AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
        ..ServiceAccountTokenProjection::default()
    };
    Volume {
        name: TOKEN_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(mounts::SECRET_MODE),
            sources: Some(vec![VolumeProjection { service_account_token: Some(projection), ..VolumeProjection::default() }]),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Read at the start only: the root CA that goes into every tenant namespace, and the key of service-account tokens. The
/// signer's CA, client certificates and client CAs are reloaded.
fn controller_manager_hash(pki: &PkiSecrets) -> String {
    let kubeconfig = format!("{}.kubeconfig", keys::CONTROLLER_MANAGER);
    hash_of([
        ("certs", Some(secret_hash(pki.controllers.data.as_ref(), &[keys::CA, kubeconfig.as_str()]))),
        ("service-account", Some(secret_hash(pki.service_account.data.as_ref(), &[keys::SERVICE_ACCOUNT_KEY]))),
    ])
}

fn scheduler_hash(pki: &PkiSecrets, config: &ConfigMap) -> String {
    let kubeconfig = format!("{}.kubeconfig", keys::SCHEDULER);
    let file = config.data.as_ref().and_then(|data| data.get(SCHEDULER_FILE)).cloned();
    hash_of([("certs", Some(secret_hash(pki.controllers.data.as_ref(), &[keys::CA, kubeconfig.as_str()]))), (SCHEDULER_FILE, file)])
}

fn cloud_controller_hash(pki: &PkiSecrets) -> String {
    let kubeconfig = format!("{}.kubeconfig", keys::CLOUD_CONTROLLER_MANAGER);
    secret_hash(pki.controllers.data.as_ref(), &[keys::CA, keys::CONTROL_CA, kubeconfig.as_str()])
}

const SCHEDULER_FILE: &str = "scheduler.yaml";

pub(super) fn config(cluster: &ValidatedCluster) -> ConfigMap {
    let mut config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": file(CERTIFICATES, format!("{}.kubeconfig", keys::SCHEDULER))},
        "enableProfiling": false,
        "leaderElection": {"leaderElect": true},
    });
    if cluster.replicas == 1 {
        let [duration, deadline, period] = LONE_LEASE;
        config["leaderElection"] =
            json!({"leaderElect": true, "leaseDuration": duration, "renewDeadline": deadline, "retryPeriod": period});
    }
    if !cluster.scheduler.profiles.is_empty() {
        config["profiles"] = json!(cluster.scheduler.profiles);
    }
    ConfigMap {
        metadata: metadata::owned(cluster, names::controllers_config(&cluster.name)),
        // JSON is YAML, and always written the same way.
        data: Some(BTreeMap::from([(SCHEDULER_FILE.to_owned(), format!("{config:#}\n"))])),
        ..ConfigMap::default()
    }
}

pub(super) fn service_account(cluster: &ValidatedCluster) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata::owned(cluster, names::cloud_controller(&cluster.name)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
