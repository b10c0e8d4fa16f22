//! The container of an etcd member.

use crate::model::{CERTIFICATES, Storage, ValidatedCluster, keys, names};
use crate::pki::PkiSecrets;
use crate::reconcile::build::container::{Flags, Http, field_env, file, go_env, port, resources};
use crate::reconcile::build::mounts;
use crate::reconcile::build::mounts::DATA;
use crate::reconcile::build::pod::secret_hash;
use k8s_openapi::api::core::v1::{Container, Volume};

pub const NAME: &str = "etcd";
pub(super) use crate::model::{ETCD_CLIENT_PORT as CLIENT_PORT, ETCD_METRICS_PORT as METRICS_PORT};
pub(super) const PEER_PORT: i32 = 2380;

const CERTS_VOLUME: &str = "etcd-certs";
/// Counts restores of the data. Cluster and member IDs are derived from URLs and this token, so a restored etcd must not
/// have the token of the one it came from.
const EPOCH: u32 = 0;

/// The program's flags.
///
/// `initial-*` is read only when the volume is empty. A member whose volume was lost would then begin anew under its old
/// name; with the one member that there is today that loses nothing that the volume had not lost already. Before there may
/// be a second member, an empty directory must be told apart from a lost one.
pub(super) fn flags(cluster: &ValidatedCluster) -> Flags {
    let own = |role: &str, end: &str| file(CERTIFICATES, format!("$(POD_NAME).{role}.{end}"));
    let own_host = names::member_host(cluster, "$(POD_NAME)");
    let initial: Vec<String> = names::members(cluster)
        .iter()
        .map(|member| format!("{member}=https://{}:{PEER_PORT}", names::member_host(cluster, member)))
        .collect();
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
        ("initial-cluster", initial.join(",")),
        ("initial-cluster-state", "new".to_owned()),
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
        ("peer-trusted-ca-file", file(CERTIFICATES, keys::ETCD_PEER_CA)),
        ("quota-backend-bytes", cluster.etcd.quota_bytes.to_string()),
        ("tls-min-version", "TLS1.2".to_owned()),
        ("trusted-ca-file", file(CERTIFICATES, keys::CA)),
        // As kubeadm: kube-apiserver serves consistent lists from its cache once it hears how far etcd is.
        ("watch-progress-notify-interval", "5s".to_owned()),
    ]);
    for (name, value) in presets(cluster) {
        flags.set(name, value);
    }
    flags.with(&cluster.etcd.extra_args)
}

/// Flags that a user may set otherwise.
///
/// What is kept of the log for members that lag behind lies in memory. A lone member has none of them; its snapshots come often
/// enough to keep the log short.
pub(super) fn presets(cluster: &ValidatedCluster) -> [(&'static str, String); 3] {
    let (snapshots, entries) = if cluster.members == 1 { ("1000", "500") } else { ("10000", "5000") };
    [
        ("max-wals", cluster.etcd.wal_files.to_string()),
        ("snapshot-catchup-entries", entries.to_owned()),
        ("snapshot-count", snapshots.to_owned()),
    ]
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
    let own = vec![field_env("POD_NAME", "metadata.name"), field_env("POD_IP", "status.podIP")];
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
    let mut items: Vec<String> = names::members(cluster)
        .iter()
        .flat_map(|member| [format!("{member}.server"), format!("{member}.peer")])
        .flat_map(|stem| mounts::pair_items(&stem))
        .collect();
    items.extend([keys::CA, keys::ETCD_PEER_CA].map(ToOwned::to_owned));
    vec![mounts::secret(CERTS_VOLUME, names::etcd_certs(&cluster.name), &items)]
}

/// What the program reads at its start only: its authorities (etcd#11555). Leaves are read at each handshake.
pub(super) fn start_hash(pki: &PkiSecrets) -> String {
    secret_hash(pki.etcd.data.as_ref(), &[keys::CA, keys::ETCD_PEER_CA])
}
