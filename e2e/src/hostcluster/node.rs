//! A worker node: containerd, kubelet and kube-proxy in namespaces that look like a machine of their own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::binaries::{Binaries, BuildError};
use super::cgroup::Hierarchies;
use super::containerd;
use super::control_plane::api_address;
use super::files::{self, Access, FileError};
use super::kubeconfig;
use super::pki::{self, Pair, PkiError};
use super::topology::{DNS_SERVICE, Node, POD_CIDR, REGION, SWITCH_ADDRESS};
use super::unit::{Disks, Endpoint, Service, UnitSpec};
use super::versions::{Versions, VersionsError};
use super::workdir::WorkDir;

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("a program is missing")]
    Program(#[from] BuildError),
    #[error("an image is missing")]
    Image(#[from] VersionsError),
    #[error("cannot make the node's certificates")]
    Certificates(#[from] PkiError),
    #[error("cannot write the node's configuration")]
    File(#[from] FileError),
}

/// What a node takes from the machine it runs on.
#[derive(Debug, Clone)]
pub struct Machine {
    pub cni_dir: PathBuf,
    /// No `CAP_SYS_RESOURCE`.
    pub restricted: bool,
}

/// Inside the node.
const CONFIG: &str = "/etc/kubernetes";

/// Disks with containerd's data where its configuration expects it, and a `PATH` for what containerd starts.
pub fn runtime_disks(dir: &Path) -> Disks {
    let own = |target: &str, name: &str| (PathBuf::from(target), dir.join(name));
    Disks {
        // A pod that writes to a host path here writes to its node, not to the machine.
        layered: ["/etc", "/var", "/opt"].map(PathBuf::from).into(),
        volatile: vec![PathBuf::from("/run")],
        own: BTreeMap::from([own("/var/lib/containerd", "containerd"), own("/etc/containerd", "etc-containerd")]),
        pinned_settings: BTreeMap::new(),
    }
}

/// containerd as a service. Its shim is found by `PATH`, so the folder of each program comes first there.
pub fn runtime_service(binaries: &Binaries) -> Result<Service, BuildError> {
    let shim_dir = binaries.path("containerd-shim-runc-v2")?.parent().unwrap_or(Path::new("/")).display().to_string();
    let path = format!("PATH={shim_dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let containerd = binaries.path("containerd")?.display().to_string();
    let argv = vec!["/usr/bin/env".to_owned(), path, containerd, "--config=/etc/containerd/config.toml".to_owned()];
    Ok(Service { name: "containerd".to_owned(), argv, after: Vec::new() })
}

pub fn write_runtime_config(dir: &Path, versions: &Versions, binaries: &Binaries, machine: &Machine) -> Result<(), NodeError> {
    let config = containerd::config(versions.image("pause")?, binaries.path("runc")?, &machine.cni_dir, machine.restricted);
    Ok(files::write(&dir.join("etc-containerd/config.toml"), config, Access::Public)?)
}

/// The unit of a node, with everything it reads written.
pub fn unit(work: &WorkDir, versions: &Versions, binaries: &Binaries, machine: &Machine, node: Node) -> Result<UnitSpec, NodeError> {
    let name = node.name();
    let dir = work.unit(&name);
    write_files(work, &dir, node)?;
    write_runtime_config(&dir, versions, binaries, machine)?;

    let mut disks = runtime_disks(&dir);
    for (target, source) in [
        ("/var/lib/kubelet", "kubelet"),
        ("/var/lib/cni", "cni"),
        ("/var/log", "var-log"),
        (containerd::CNI_CONFIG_DIR, "etc-cni"),
        (CONFIG, "etc-kubernetes"),
        ("/opt/local-path-provisioner", "volumes"),
    ] {
        disks.own.insert(PathBuf::from(target), dir.join(source));
    }
    disks.pinned_settings = pinned_settings();
    let kubelet = vec![
        binaries.path("kubelet")?.display().to_string(),
        format!("--config={CONFIG}/kubelet.json"),
        format!("--kubeconfig={CONFIG}/kubelet.kubeconfig"),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", node.address()),
        format!("--node-labels=topology.kubernetes.io/region={REGION},topology.kubernetes.io/zone={}", node.zone()),
    ];
    let proxy = vec![binaries.path("kube-proxy")?.display().to_string(), format!("--config={CONFIG}/kube-proxy.json")];
    let api = Endpoint::Tcp(api_address());
    let runtime = Endpoint::Unix(PathBuf::from(containerd::SOCKET));
    let service =
        |name: &str, argv, after: &[&Endpoint]| Service { name: name.to_owned(), argv, after: after.iter().copied().cloned().collect() };
    Ok(UnitSpec {
        netns: Some(work.netns(&name)),
        disks,
        services: vec![runtime_service(binaries)?, service("kubelet", kubelet, &[&api, &runtime]), service("kube-proxy", proxy, &[&api])],
        name,
        dir,
    })
}

/// The kubelet sets these on its machine; ours is shared, so each node sees them as already set.
fn pinned_settings() -> BTreeMap<PathBuf, String> {
    let values = [
        ("vm/overcommit_memory", "1"),
        ("vm/panic_on_oom", "0"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
        ("kernel/keys/root_maxkeys", "1000000"),
        ("kernel/keys/root_maxbytes", "25000000"),
    ];
    values.into_iter().map(|(key, value)| (Path::new("/proc/sys").join(key), value.to_owned())).collect()
}

fn write_files(work: &WorkDir, dir: &Path, node: Node) -> Result<(), NodeError> {
    let (client, serving) = pki::node(&work.pki(), node)?;
    let pki_dir = work.pki();
    let config = dir.join("etc-kubernetes");
    kubeconfig::write(&config.join("kubelet.kubeconfig"), &pki_dir, &client)?;
    kubeconfig::write(&config.join("kube-proxy.kubeconfig"), &pki_dir, &Pair::at(&pki_dir, "kube-proxy"))?;
    files::write(&config.join("ca.crt"), files::read(&Pair::at(&pki_dir, "ca").certificate)?, Access::Public)?;
    files::write(&config.join("serving.crt"), files::read(&serving.certificate)?, Access::Public)?;
    files::write(&config.join("serving.key"), files::read(&serving.key)?, Access::Secret)?;
    // Nobody listens there, so a name from outside is refused at once. There must be one: CoreDNS, which runs with the node's
    // name servers, does not start without any.
    files::write(&config.join("resolv.conf"), format!("nameserver {SWITCH_ADDRESS}\n"), Access::Public)?;
    files::write(&config.join("kubelet.json"), kubelet_config(node), Access::Public)?;
    files::write(&config.join("kube-proxy.json"), proxy_config(node), Access::Public)?;
    files::write(&dir.join("etc-cni/10-nestling-host.conflist"), containerd::cni_config(&node.pod_cidr()), Access::Public)?;
    let etc = dir.join("root/etc");
    files::write(&etc.join("hostname"), format!("{}\n", node.name()), Access::Public)?;
    files::write(&etc.join("hosts"), hosts(node.address(), &node.name()), Access::Public)?;
    let machine_id = files::key([b"machine-id", node.name().as_bytes(), work.root().as_os_str().as_encoded_bytes()]);
    files::write(&etc.join("machine-id"), format!("{machine_id:0<32}\n"), Access::Public)?;
    Ok(())
}

fn hosts(address: Ipv4Addr, name: &str) -> String {
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {name}\n")
}

fn kubelet_config(node: Node) -> String {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{CONFIG}/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{CONFIG}/serving.crt"),
        "tlsPrivateKeyFile": format!("{CONFIG}/serving.key"),
        "containerRuntimeEndpoint": format!("unix://{}", containerd::SOCKET),
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": format!("{CONFIG}/resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": Hierarchies::root_of(&node.name()),
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        // All nodes share the machine's disk: evicting pods or dropping images that nobody can pull again would help no one.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
    });
    format!("{config:#}\n")
}

fn proxy_config(node: Node) -> String {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": node.name(),
        "clientConnection": {"kubeconfig": format!("{CONFIG}/kube-proxy.kubeconfig")},
        // The table's size is the machine's setting, not a namespace's.
        "conntrack": {"maxPerCore": 0},
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_has_its_nodes_cgroup_root() {
        let config: serde_json::Value = serde_json::from_str(&kubelet_config(Node::parse("node-2").unwrap())).unwrap();
        assert_eq!(config["cgroupRoot"], "/nestling-node-2");
    }
}
