//! The container of an etcd member.

use crate::model::{CERTIFICATES, Storage, ValidatedCluster, WAL_FILES, keys, names};
use crate::pki::PkiSecrets;
use crate::reconcile::build::container::{Flags, Http, field_env, file, go_env, port, resources};
use crate::reconcile::build::mounts;
use crate::reconcile::build::mounts::DATA;
use crate::reconcile::build::pod::secret_hash;
use k8s_openapi::api::core::v1::{Container, Volume};

pub(super) use crate::model::{
    ETCD as NAME, ETCD_CLIENT_PORT as CLIENT_PORT, ETCD_METRICS_PORT as METRICS_PORT, ETCD_PEER_PORT as PEER_PORT,
};

const CERTS_VOLUME: &str = "etcd-certs";
/// Counts restores of the data. Cluster and member IDs are derived from URLs and this token, so a restored etcd must not
/// have the token of the one it came from.
const EPOCH: u32 = 0;

/// The program's flags.
///
/// `initial-*` is read only when the data directory is empty. Then a member would take its old ID and forget its votes, so etcd begins
/// there only with a ticket: the value of `--initial-cluster`, which the operator writes into an annotation of the pod and takes
/// away when the member has joined. Without one etcd refuses to start.
pub(super) fn flags(cluster: &ValidatedCluster) -> Flags {
    let own = |role: &str, end: &str| file(CERTIFICATES, format!("$(POD_NAME).{role}.{end}"));
    let own_host = names::member_host(&cluster.namespace, "$(POD_NAME)");
    let mut flags = Flags::new([
        ("advertise-client-urls", format!("https://{own_host}:{CLIENT_PORT}")),
        // kube-apiserver compacts every 5 minutes; one of the two must not.
        ("auto-compaction-retention", "0".to_owned()),
        ("cert-file", own("server", "crt")),
        ("client-cert-auth", "true".to_owned()),
        ("compact-hash-check-time", "1m".to_owned()),
        ("data-dir", file(DATA, "data")),
        ("feature-gates", "InitialCorruptCheck=true,CompactHashCheck=true".to_owned()),
        ("initial-advertise-peer-urls", format!("https://{own_host}:{PEER_PORT}")),
        ("initial-cluster", "$(INITIAL_CLUSTER)".to_owned()),
        ("initial-cluster-state", if cluster.membership.formed { "existing" } else { "new" }.to_owned()),
        ("initial-cluster-token", format!("{}-{EPOCH}", cluster.uid)),
        ("key-file", own("server", "key")),
        ("listen-client-urls", format!("https://$(POD_IP):{CLIENT_PORT},https://127.0.0.1:{CLIENT_PORT}")),
        ("listen-metrics-urls", format!("http://$(POD_IP):{METRICS_PORT}")),
        ("listen-peer-urls", format!("https://$(POD_IP):{PEER_PORT}")),
        ("max-learners", "2".to_owned()),
        ("name", "$(POD_NAME)".to_owned()),
        ("peer-cert-file", own("peer", "crt")),
        ("peer-client-cert-auth", "true".to_owned()),
        ("peer-key-file", own("peer", "key")),
        // A peer comes from its pod's address, and its name is that of a Service. The authority of peers signs nothing else.
        ("peer-skip-client-san-verification", "true".to_owned()),
        ("peer-trusted-ca-file", file(CERTIFICATES, keys::ETCD_PEER_CA)),
        ("quota-backend-bytes", cluster.etcd.quota_bytes.to_string()),
        ("tls-min-version", "TLS1.2".to_owned()),
        ("trusted-ca-file", file(CERTIFICATES, keys::CA)),
        // As kubeadm: kube-apiserver serves consistent lists from its cache once it hears how far etcd is.
        ("watch-progress-notify-interval", "5s".to_owned()),
    ]);
    for (name, value) in presets() {
        flags.set(name, value);
    }
    flags.with(&cluster.etcd.extra_args)
}

/// Flags that a user may set otherwise.
///
/// What is kept of the log for members that lag behind lies in memory. One that lags further gets a snapshot, which is small in a
/// tenant; and the same for one member as for several, so that none starts anew when others join.
pub(super) fn presets() -> [(&'static str, String); 3] {
    [("max-wals", WAL_FILES.to_string()), ("snapshot-catchup-entries", "1000".to_owned()), ("snapshot-count", "2000".to_owned())]
}

/// Without the data. Data in memory counts as the pod's: a node that did not reserve it would run out of memory when it
/// fills.
const MEMORY_MI: u64 = 64;

fn memory(cluster: &ValidatedCluster) -> String {
    match cluster.etcd.storage {
        Storage::Volume { .. } => format!("{MEMORY_MI}Mi"),
        Storage::Memory { bytes } => format!("{}Mi", MEMORY_MI + bytes.div_ceil(1 << 20)),
    }
}

pub(super) fn container(cluster: &ValidatedCluster) -> Container {
    let http = |path, period, timeout, failures, initial_delay| Http {
        scheme: "HTTP",
        port: METRICS_PORT,
        path,
        period,
        timeout,
        failures,
        initial_delay,
    };
    let resources = resources(cluster.etcd.resources.as_ref(), "20m", &memory(cluster));
    let ticket = format!("metadata.annotations['{}']", names::INITIAL_CLUSTER);
    let own = vec![field_env("POD_NAME", "metadata.name"), field_env("POD_IP", "status.podIP"), field_env("INITIAL_CLUSTER", &ticket)];
    Container {
        env: Some([own, go_env(&resources)].concat()),
        ports: Some(vec![port("client", CLIENT_PORT), port("peer", PEER_PORT), port("metrics", METRICS_PORT)]),
        resources: Some(resources),
        volume_mounts: Some(vec![mounts::mount(CERTS_VOLUME, CERTIFICATES), mounts::writable(names::DATA_VOLUME, DATA)]),
        // No startup probe: beside an apiserver it would hold the apiserver back. The delay covers the reading of a large
        // database, during which nothing listens.
        liveness_probe: Some(http("/livez", 10, 15, 8, 120).into()),
        readiness_probe: Some(http("/readyz", 1, 5, 3, 0).into()),
        ..super::container::container(NAME, &cluster.images.etcd, &["etcd"], flags(cluster).into_args())
    }
}

/// Certificates; the data's volume comes from the StatefulSet.
pub(super) fn volumes(cluster: &ValidatedCluster) -> Vec<Volume> {
    // All of it: which members there are must not be in the pod's template.
    vec![mounts::whole_secret(CERTS_VOLUME, names::etcd_certs(&cluster.name))]
}

/// What the program reads at its start only: its authorities (etcd#11555). Leaves are read at each handshake.
pub(super) fn start_hash(pki: &PkiSecrets) -> String {
    secret_hash(pki.etcd.data.as_ref(), &[keys::CA, keys::ETCD_PEER_CA])
}
