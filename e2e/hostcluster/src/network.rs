//! The network: a switch in a namespace of its own without an uplink, and a cable to it from each node, the control plane and the
//! machine.
//!
//! Neither the switch nor the machine forwards packets, so a packet that no node translates is dropped. Each node's default
//! route is the switch's own address and not a blackhole: the kernel looks the route up before the output NAT hook, so with a blackhole a
//! host-network process could not connect to any ClusterIP, whatever kube-proxy's rules.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::command::{CommandError, Run};
use crate::files::{self, FileError};
use crate::topology::{CONTROL, CONTROL_ADDRESS, NODE_PREFIX_LENGTH, Node, ROOT_ADDRESS, SERVICE_CIDR, SWITCH_ADDRESS};
use crate::workdir::WorkDir;

/// The one link in the machine's own namespace.
pub(crate) const ROOT_LINK: &str = "nestling0";
const SWITCH: &str = "switch";
const BRIDGE: &str = "switch0";

#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("cannot set up the cluster's network")]
    Command(#[from] CommandError),
    #[error("cannot pin a network namespace")]
    Pin(#[from] FileError),
    #[error("cannot unpin the network namespace {path}")]
    Unpin { path: String, source: nix::errno::Errno },
}

/// The switch, the machine's cable and the control plane's.
pub(crate) async fn set_up(work: &WorkDir) -> Result<(), NetworkError> {
    for name in [SWITCH, CONTROL] {
        pin(&work.netns(name)).await?;
    }
    ip(work, SWITCH, &format!("link set lo up\nlink add name {BRIDGE} type bridge\naddr add {SWITCH_ADDRESS}/{NODE_PREFIX_LENGTH} dev {BRIDGE}\nlink set {BRIDGE} up\n")).await?;
    // Frames between ports pass no firewall rules, and no packets are forwarded.
    settings(work, SWITCH, &[("net/ipv4/ip_forward", "0"), ("net/bridge/bridge-nf-call-iptables", "0")]).await?;
    let root = format!("/proc/{}/ns/net", std::process::id());
    ip(
        work,
        SWITCH,
        &format!("link add name port-root type veth peer name {ROOT_LINK} netns {root}\nlink set port-root master {BRIDGE} up\n"),
    )
    .await?;
    Run::new(["ip", "-batch", "-"])
        .stdin(format!("addr add {ROOT_ADDRESS}/{NODE_PREFIX_LENGTH} dev {ROOT_LINK}\nlink set {ROOT_LINK} up\n"))
        .output()
        .await?;
    cable(work, CONTROL, "port-control", &CONTROL_ADDRESS.to_string()).await?;
    settings(work, CONTROL, &[("net/ipv4/ip_forward", "0")]).await
}

/// A fresh namespace for the node, as after a boot, plugged into the switch.
pub(crate) async fn plug_in(work: &WorkDir, node: Node) -> Result<(), NetworkError> {
    let name = node.name();
    unpin(&work.netns(&name))?;
    // The kernel may still be removing the port of the former namespace.
    let _ = ip(work, SWITCH, &format!("link del {}\n", node.port())).await;
    pin(&work.netns(&name)).await?;
    cable(work, &name, &node.port(), &node.address().to_string()).await?;
    let forwarding = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        // A reply between two pods on one bridge must pass connection tracking to be translated back.
        ("net/bridge/bridge-nf-call-iptables", "1"),
        ("net/bridge/bridge-nf-call-ip6tables", "1"),
    ];
    settings(work, &name, &forwarding).await
}

/// Routes to every node's pods from everywhere, and to Services from the machine: the kube-proxy of the first node whose cable is
/// in answers those.
pub(crate) async fn route(work: &WorkDir, nodes: &[Node]) -> Result<(), NetworkError> {
    let to_pods = |except: Option<Node>| {
        let others = nodes.iter().filter(|node| Some(**node) != except);
        others.fold(String::new(), |mut batch, node| {
            let _ = writeln!(batch, "route replace {} via {}", node.pod_cidr(), node.address());
            batch
        })
    };
    for node in nodes.iter().filter(|node| work.netns(&node.name()).exists()) {
        ip(work, &node.name(), &to_pods(Some(*node))).await?;
    }
    ip(work, CONTROL, &to_pods(None)).await?;
    let mut batch = to_pods(None);
    let plugged = plugged(work).await?;
    if let Some(first) = nodes.iter().find(|node| plugged.contains(&node.port())) {
        let _ = writeln!(batch, "route replace {SERVICE_CIDR} via {}", first.address());
    }
    Run::new(["ip", "-batch", "-"]).stdin(batch).output().await?;
    Ok(())
}

/// Ports of the switch whose cable is in.
async fn plugged(work: &WorkDir) -> Result<BTreeSet<String>, NetworkError> {
    let listing = Run::new(["nsenter", &enter(&work.netns(SWITCH)), "ip", "-brief", "link", "show", "up"]).text().await?;
    Ok(listing.lines().filter_map(|line| line.split(['@', ' ']).next()).map(str::to_owned).collect())
}

/// Pulls the node's cable, or plugs it in again.
pub(crate) async fn set_link(work: &WorkDir, node: Node, up: bool) -> Result<(), NetworkError> {
    ip(work, SWITCH, &format!("link set {} {}\n", node.port(), if up { "up" } else { "down" })).await
}

/// Removes whatever part of it exists.
pub(crate) async fn tear_down(work: &WorkDir) -> Result<(), NetworkError> {
    let link_exists = Path::new("/sys/class/net").join(ROOT_LINK).exists();
    if link_exists {
        Run::new(["ip", "link", "del", ROOT_LINK]).output().await?;
    }
    for entry in std::fs::read_dir(work.netns_dir()).into_iter().flatten().flatten() {
        unpin(&entry.path())?;
    }
    Ok(())
}

/// A cable between the switch and a namespace. Its far end is created there, so it never appears in the machine's namespace.
async fn cable(work: &WorkDir, name: &str, port: &str, address: &str) -> Result<(), NetworkError> {
    let far = work.netns(name);
    ip(
        work,
        SWITCH,
        &format!("link add name {port} type veth peer name eth0 netns {}\nlink set {port} master {BRIDGE} up\n", far.display()),
    )
    .await?;
    let batch = format!(
        "link set lo up\naddr add {address}/{NODE_PREFIX_LENGTH} dev eth0\nlink set eth0 up\nroute add default via {SWITCH_ADDRESS}\n"
    );
    ip(work, name, &batch).await
}

fn enter(path: &Path) -> String {
    format!("--net={}", path.display())
}

async fn ip(work: &WorkDir, name: &str, batch: &str) -> Result<(), NetworkError> {
    Run::new(["nsenter", &enter(&work.netns(name)), "ip", "-batch", "-"]).stdin(batch).output().await?;
    Ok(())
}

/// Network settings of the kernel; they apply to the namespace of the process that writes them. Settings that the kernel lacks are
/// left out: preflight checks the necessary ones.
async fn settings(work: &WorkDir, name: &str, values: &[(&str, &str)]) -> Result<(), NetworkError> {
    let script = values.iter().fold(String::from("set -e\n"), |mut script, (key, value)| {
        let _ = writeln!(script, "if [ -e /proc/sys/{key} ]; then echo {value} > /proc/sys/{key}; fi");
        script
    });
    Run::new(["nsenter", &enter(&work.netns(name)), "sh"]).stdin(script).output().await?;
    Ok(())
}

/// A new network namespace that lives as long as this file is mounted.
async fn pin(path: &Path) -> Result<(), NetworkError> {
    files::write(path, "", files::Access::Public)?;
    Run::new(["unshare", &enter(path), "true"]).output().await?;
    Ok(())
}

fn unpin(path: &PathBuf) -> Result<(), NetworkError> {
    use nix::errno::Errno;
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // No mount point (any more).
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(source) => return Err(NetworkError::Unpin { path: path.display().to_string(), source }),
        }
    }
    let _ = std::fs::remove_file(path);
    Ok(())
}
