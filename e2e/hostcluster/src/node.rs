//! A worker node: containerd, kubelet and kube-proxy in namespaces that look like a machine of their own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cgroup::Hierarchies;
use crate::containerd::{self, ConfigError, Machine};
use crate::files::{self, Access};
use crate::pki::{self, Pair};
use crate::programs::{Programs, Versions};
use crate::topology::{DNS_SERVICE, Node, POD_CIDR, REGION, SWITCH_ADDRESS, api_address};
use crate::unit::{Endpoint, Service, UnitSpec};
use crate::workdir::WorkDir;

/// Inside the node.
const CONFIG: &str = "/etc/kubernetes";

/// The unit of a node; also writes the files that it reads.
pub(crate) fn unit(
    work: &WorkDir,
    versions: &Versions,
    programs: &Programs,
    machine: &Machine,
    node: Node,
) -> Result<UnitSpec, ConfigError> {
    let name = node.name();
    let dir = work.unit(&name);
    write_files(work, &dir, node)?;
    containerd::write_config(&dir, versions, programs, machine)?;

    let mut disks = containerd::runtime_disks(&dir);
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
        programs.path("kubelet")?.display().to_string(),
        format!("--config={CONFIG}/kubelet.json"),
        format!("--kubeconfig={CONFIG}/kubelet.kubeconfig"),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", node.address()),
        format!("--node-labels=topology.kubernetes.io/region={REGION},topology.kubernetes.io/zone={}", node.zone()),
    ];
    let proxy = vec![programs.path("kube-proxy")?.display().to_string(), format!("--config={CONFIG}/kube-proxy.json")];
    let api = Endpoint::Tcp(api_address());
    let runtime = Endpoint::Unix(PathBuf::from(containerd::SOCKET));
    let service =
        |name: &str, argv, after: &[&Endpoint]| Service { name: name.to_owned(), argv, after: after.iter().copied().cloned().collect() };
    Ok(UnitSpec {
        netns: Some(work.netns(&name)),
        disks,
        services: vec![
            containerd::runtime_service(programs)?,
            service("kubelet", kubelet, &[&api, &runtime]),
            service("kube-proxy", proxy, &[&api]),
        ],
        name,
        dir,
    })
}

/// The kubelet sets these. They belong to the whole machine, so each node sees them as set already.
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

fn write_files(work: &WorkDir, dir: &Path, node: Node) -> Result<(), ConfigError> {
    let (client, serving) = pki::node(&work.pki(), node)?;
    let pki_dir = work.pki();
    let config = dir.join("etc-kubernetes");
    pki::write_kubeconfig(&config.join("kubelet.kubeconfig"), &pki_dir, &client)?;
    pki::write_kubeconfig(&config.join("kube-proxy.kubeconfig"), &pki_dir, &Pair::at(&pki_dir, "kube-proxy"))?;
    files::write(&config.join("ca.crt"), files::read(&Pair::at(&pki_dir, "ca").certificate)?, Access::Public)?;
    files::write(&config.join("serving.crt"), files::read(&serving.certificate)?, Access::Public)?;
    files::write(&config.join("serving.key"), files::read(&serving.key)?, Access::Secret)?;
    // No DNS server listens at this address, so names from outside fail at once. CoreDNS, which uses the node's name servers, does
    // not start without one.
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
        // All nodes share the machine's disk, and images cannot be pulled again: evictions and image GC would not help.
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
