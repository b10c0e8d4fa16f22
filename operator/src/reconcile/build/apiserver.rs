//! kube-apiserver: its container, the Secret with its configuration files, and with topology `External` its Deployment.

use crate::model::metadata::component;
use crate::model::{CERTIFICATES, FRONT_PROXY_CLIENT, ValidatedCluster, keys, metadata, names};
use crate::pki::PkiSecrets;
use crate::reconcile::build::container::{Flags, Http, field_env, file, go_env, hardened_with_bind_service, port, resources};
use crate::reconcile::build::mounts::{CONFIG, SERVICE_ACCOUNT};
use crate::reconcile::build::pod::{self, hash_of, secret_hash};
use crate::reconcile::build::{etcd, mounts};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe, Secret, Volume};
use nestling_crds::v1alpha1::Topology;

pub const NAME: &str = "kube-apiserver";
/// Port of the container; the Service in front has 443.
pub(super) const PORT: i32 = 6443;
/// How long an apiserver that is to end keeps serving while proxies learn of it, where another one can take over.
const SHUTDOWN_DELAY_SECONDS: i64 = 10;
/// Time to drain after that: the longest request (60 s) and a little.
const DRAIN_SECONDS: i64 = 65;
/// How long watches may take to end. Without the flag an apiserver waits for them as long as for the longest request, and a
/// restart takes a minute instead of seconds; clients of a watch connect again anyway.
const WATCH_GRACE_SECONDS: i64 = 3;

const CERTS_VOLUME: &str = "apiserver-certs";
const SERVICE_ACCOUNT_VOLUME: &str = "service-account-keys";
const CONFIG_VOLUME: &str = "apiserver-config";

/// The program's flags.
pub(super) fn flags(cluster: &ValidatedCluster) -> Flags {
    let cert = |stem: &str| file(CERTIFICATES, format!("{stem}.crt"));
    let key = |stem: &str| file(CERTIFICATES, format!("{stem}.key"));
    let mut flags = Flags::new([
        ("advertise-address", "$(POD_IP)".to_owned()),
        // Whether a tenant's pod may be privileged is decided on the host, by the workload namespace's Pod Security level.
        ("allow-privileged", "true".to_owned()),
        ("authentication-config", file(CONFIG, AUTHENTICATION)),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("client-ca-file", file(CERTIFICATES, keys::CA)),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        // Webhooks and aggregated APIs are reached at their pods: the apiserver's pod knows nothing of the tenant's Services.
        ("enable-aggregator-routing", "true".to_owned()),
        ("endpoint-reconciler-type", "lease".to_owned()),
        ("etcd-cafile", file(CERTIFICATES, keys::ETCD_CA)),
        ("etcd-certfile", cert(keys::ETCD_CLIENT)),
        ("etcd-keyfile", key(keys::ETCD_CLIENT)),
        ("etcd-servers", etcd_servers(cluster)),
        ("kubelet-certificate-authority", file(CERTIFICATES, keys::NODE_SERVING_CA)),
        ("kubelet-client-certificate", cert(keys::KUBELET_CLIENT)),
        ("kubelet-client-key", key(keys::KUBELET_CLIENT)),
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ("profiling", "false".to_owned()),
        ("proxy-client-cert-file", cert(keys::FRONT_PROXY_CLIENT)),
        ("proxy-client-key-file", key(keys::FRONT_PROXY_CLIENT)),
        ("requestheader-allowed-names", FRONT_PROXY_CLIENT.to_owned()),
        ("requestheader-client-ca-file", file(CERTIFICATES, keys::FRONT_PROXY_CA)),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".to_owned()),
        ("requestheader-group-headers", "X-Remote-Group".to_owned()),
        ("requestheader-username-headers", "X-Remote-User".to_owned()),
        ("secure-port", PORT.to_string()),
        ("service-account-issuer", format!("https://kubernetes.default.svc.{}", cluster.cluster_domain)),
        ("service-account-key-file", file(SERVICE_ACCOUNT, keys::SERVICE_ACCOUNT_PUBLIC)),
        ("service-account-signing-key-file", file(SERVICE_ACCOUNT, keys::SERVICE_ACCOUNT_KEY)),
        ("service-cluster-ip-range", cluster.service_cidr.to_string()),
        ("tls-cert-file", cert(keys::SERVING)),
        ("tls-min-version", "VersionTLS12".to_owned()),
        ("tls-private-key-file", key(keys::SERVING)),
    ]);
    let files = &cluster.api_server.files;
    if files.audit.is_some() {
        flags.set("audit-policy-file", file(CONFIG, AUDIT));
        flags.set("audit-log-path", "-");
    }
    if files.encryption.is_some() {
        flags.set("encryption-provider-config", file(CONFIG, ENCRYPTION));
        flags.set("encryption-provider-config-automatic-reload", "true");
    }
    if files.admission.is_some() {
        flags.set("admission-control-config-file", file(CONFIG, ADMISSION));
    }
    flags.set("shutdown-watch-termination-grace-period", format!("{WATCH_GRACE_SECONDS}s"));
    if shutdown_delay(cluster) > 0 {
        flags.set("shutdown-delay-duration", format!("{}s", shutdown_delay(cluster)));
        flags.set("shutdown-send-retry-after", "true");
    }
    flags.gates(&cluster.feature_gates).with(&cluster.api_server.extra_args)
}

/// Stacked, an apiserver uses the member beside it and no other, as kubeadm has it. Apart, each member is named, so that the client can
/// turn from one that is ill to another.
fn etcd_servers(cluster: &ValidatedCluster) -> String {
    let url = |host: String| format!("https://{host}:{}", etcd::CLIENT_PORT);
    match cluster.topology {
        Topology::Stacked | Topology::SingleNode => url("127.0.0.1".to_owned()),
        Topology::External => {
            let urls = names::members(cluster).into_iter().map(|member| url(names::member_host(&cluster.namespace, &member)));
            let urls: Vec<String> = urls.collect();
            urls.join(",")
        }
    }
}

/// Where no other apiserver can take over (the one pod of a StatefulSet), waiting would only make the gap longer.
fn shutdown_delay(cluster: &ValidatedCluster) -> i64 {
    match cluster.topology {
        Topology::External => SHUTDOWN_DELAY_SECONDS,
        Topology::Stacked | Topology::SingleNode if cluster.replicas > 1 => SHUTDOWN_DELAY_SECONDS,
        Topology::Stacked | Topology::SingleNode => 0,
    }
}

/// `terminationGracePeriodSeconds` of a pod with an apiserver in it.
pub(super) fn grace_period(cluster: &ValidatedCluster) -> i64 {
    shutdown_delay(cluster) + DRAIN_SECONDS
}

pub(super) fn container(cluster: &ValidatedCluster) -> Container {
    let probe = |path, period, timeout, failures| -> Probe {
        Http { scheme: "HTTPS", port: PORT, path, period, timeout, failures, initial_delay: 0 }.into()
    };
    let resources = resources(cluster.api_server.resources.as_ref(), "50m", "256Mi");
    Container {
        security_context: Some(hardened_with_bind_service()),
        env: Some([vec![field_env("POD_IP", "status.podIP")], go_env(&resources)].concat()),
        ports: Some(vec![port("https", PORT)]),
        resources: Some(resources),
        volume_mounts: Some(vec![
            mounts::mount(CERTS_VOLUME, CERTIFICATES),
            mounts::mount(SERVICE_ACCOUNT_VOLUME, SERVICE_ACCOUNT),
            mounts::mount(CONFIG_VOLUME, CONFIG),
        ]),
        // Ten minutes to come up, looked at every second: time to Ready is what a user waits for.
        startup_probe: Some(probe("/readyz", 1, 5, 600)),
        readiness_probe: Some(probe("/readyz", 1, 5, 3)),
        // Without etcd: restarting an apiserver does not bring a lost quorum back.
        liveness_probe: Some(probe("/livez?exclude=etcd", 10, 15, 8)),
        ..super::container::container(NAME, &cluster.images.api_server, &["kube-apiserver"], flags(cluster).into_args())
    }
}

pub(super) fn volumes(cluster: &ValidatedCluster) -> Vec<Volume> {
    let vc = cluster.name.as_str();
    let mut certs: Vec<String> = [keys::SERVING, keys::KUBELET_CLIENT, keys::FRONT_PROXY_CLIENT, keys::ETCD_CLIENT]
        .iter()
        .flat_map(|stem| mounts::pair_items(stem))
        .collect();
    certs.extend([keys::CA, keys::NODE_SERVING_CA, keys::FRONT_PROXY_CA, keys::ETCD_CA].map(ToOwned::to_owned));
    let sa = [keys::SERVICE_ACCOUNT_KEY, keys::SERVICE_ACCOUNT_PUBLIC].map(ToOwned::to_owned);
    vec![
        mounts::secret(CERTS_VOLUME, names::apiserver_certs(vc), &certs),
        mounts::secret(SERVICE_ACCOUNT_VOLUME, names::service_account_keys(vc), &sa),
        mounts::secret(CONFIG_VOLUME, names::apiserver_config(vc), &config_items(cluster)),
    ]
}

/// What the program reads at its start only. It reloads serving, client and front-proxy certificates, the authorities of
/// clients, and authentication and encryption configuration.
pub(super) fn start_hash(pki: &PkiSecrets, files: &Secret) -> String {
    hash_of([
        ("certs", Some(secret_hash(pki.apiserver.data.as_ref(), &[keys::ETCD_CA, keys::NODE_SERVING_CA]))),
        (
            "service-account",
            Some(secret_hash(pki.service_account.data.as_ref(), &[keys::SERVICE_ACCOUNT_KEY, keys::SERVICE_ACCOUNT_PUBLIC])),
        ),
        ("files", Some(secret_hash(files.data.as_ref(), &[AUDIT, ADMISSION]))),
    ])
}

const AUTHENTICATION: &str = "authentication.yaml";
const AUDIT: &str = "audit.yaml";
const ENCRYPTION: &str = "encryption.yaml";
const ADMISSION: &str = "admission.yaml";

fn files(cluster: &ValidatedCluster) -> Vec<(&'static str, &str)> {
    let files = &cluster.api_server.files;
    let optional = [(AUDIT, &files.audit), (ENCRYPTION, &files.encryption), (ADMISSION, &files.admission)];
    let mut all = vec![(AUTHENTICATION, files.authentication.as_str())];
    all.extend(optional.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))));
    all
}

/// Names of the files that there are.
fn config_items(cluster: &ValidatedCluster) -> Vec<String> {
    files(cluster).into_iter().map(|(name, _)| name.to_owned()).collect()
}

pub(super) fn config(cluster: &ValidatedCluster) -> Secret {
    let data = files(cluster).into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
    Secret {
        metadata: metadata::kept_with_data(cluster, names::apiserver_config(&cluster.name)),
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

pub(super) fn deployment(cluster: &ValidatedCluster, pki: &PkiSecrets, files: &Secret) -> Deployment {
    let inside = PodSpec {
        containers: vec![container(cluster)],
        volumes: Some(volumes(cluster)),
        termination_grace_period_seconds: Some(grace_period(cluster)),
        ..PodSpec::default()
    };
    let hashes = [(NAME, start_hash(pki, files))];
    pod::deployment(cluster, names::apiserver(&cluster.name), component::APISERVER, &hashes, inside)
}
