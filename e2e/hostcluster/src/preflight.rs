//! Checks, before anything is started, that this machine can run a host cluster, and names what is missing and where to get it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::cgroup::{Hierarchies, Version};
use crate::command::{self, Run};
use crate::containerd::Machine;
use crate::network::ROOT_LINK;
use crate::topology::{NODE_PREFIX_LENGTH, POD_CIDR, SERVICE_CIDR, SWITCH_ADDRESS};

#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    #[error("hostcluster creates namespaces, mounts and control groups: run it as root")]
    NotRoot,
    #[error("this machine cannot run a host cluster:\n{}", .0.join("\n"))]
    Lacks(Vec<String>),
}

/// Programs that are called, with the Debian package of each.
const TOOLS: [(&str, &str); 14] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("ldd", "libc-bin"),
    ("find", "findutils"),
    ("cp", "coreutils"),
    ("busybox", "busybox"),
    ("gcc", "gcc"),
    ("pkg-config", "pkg-config"),
    ("modprobe", "kmod"),
];
const CNI_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
const CNI_PACKAGE: &str = "containernetworking-plugins";
const KERNEL_MODULES: [&str; 5] = ["overlay", "br_netfilter", "nf_conntrack", "nf_tables", "veth"];

/// Checks everything, and installs missing Debian packages where that is possible.
pub(crate) async fn check() -> Result<Machine, PreflightError> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err(PreflightError::NotRoot);
    }
    let packages = missing_packages().await;
    if !packages.is_empty() {
        install(&packages).await;
    }
    let mut lacks = Vec::new();
    let packages = missing_packages().await;
    if !packages.is_empty() {
        lacks.push(format!("- programs are missing; on Debian: apt-get install {}", packages.join(" ")));
    }
    if find("go").is_none() {
        lacks.push("- the Go compiler (`go`, 1.26 or newer) is not on PATH: https://go.dev/dl".to_owned());
    }
    lacks.extend(kernel_lacks().await);
    lacks.extend(taken_ranges().await);
    let Some(cni_dir) = cni_dir().filter(|_| lacks.is_empty()) else { return Err(PreflightError::Lacks(lacks)) };
    Ok(Machine { cni_dir, restricted: !may_lower_oom_score() })
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn cni_dir() -> Option<PathBuf> {
    let has_all = |dir: &&str| ["bridge", "host-local", "portmap", "loopback"].iter().all(|plugin| Path::new(dir).join(plugin).is_file());
    CNI_DIRS.iter().find(|dir| has_all(dir)).map(PathBuf::from)
}

/// runc is linked against libseccomp.
async fn has_seccomp_headers() -> bool {
    Run::new(["pkg-config", "--exists", "libseccomp"]).output().await.is_ok()
}

async fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<&'static str> =
        TOOLS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if cni_dir().is_none() {
        packages.push(CNI_PACKAGE);
    }
    if !packages.contains(&"pkg-config") && !has_seccomp_headers().await {
        packages.push("libseccomp-dev");
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Failures are printed only: the caller checks again.
async fn install(packages: &[&str]) {
    if find("apt-get").is_none() {
        return;
    }
    let label = format!("install {}", packages.join(" "));
    let every = Duration::from_secs(30);
    let apt = |arguments: &[&str]| {
        let argv = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"].into_iter().chain(arguments.iter().copied());
        Run::new(argv.map(str::to_owned).collect::<Vec<_>>()).deadline(Duration::from_secs(600)).output()
    };
    let installed = command::step(&label, every, async {
        let install: Vec<&str> = ["install", "-y", "--no-install-recommends"].into_iter().chain(packages.iter().copied()).collect();
        if apt(&install).await.is_ok() {
            return Ok(());
        }
        // A fresh machine has no package lists yet.
        apt(&["update"]).await?;
        apt(&install).await.map(|_| ())
    })
    .await;
    if let Err(error) = installed {
        command::note(&format!("{error}"));
    }
}

async fn kernel_lacks() -> Vec<String> {
    for module in KERNEL_MODULES {
        // It may be built in or loaded already; the features are tried below.
        let _ = Run::new(["modprobe", "--quiet", module]).output().await;
    }
    let mut lacks = Vec::new();
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.split_whitespace().any(|name| name == "overlay") {
        lacks.push("- the kernel has no overlay file system (CONFIG_OVERLAY_FS)".to_owned());
    }
    match Hierarchies::detect() {
        Err(error) => lacks.push(format!("- control groups: {error}")),
        Ok(hierarchies) => {
            // On v2 every container's shim watches its memory events.
            let watches = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap_or_default();
            if hierarchies.version == Version::V2 && watches.trim().parse::<u32>().is_ok_and(|limit| limit < 512) {
                command::note("note: fs.inotify.max_user_instances is below 512, which many pods at once may use up");
            }
            let missing = hierarchies.missing_controllers();
            if !missing.is_empty() {
                lacks.push(format!("- control group controllers are missing: {}", missing.join(", ")));
            }
        }
    }
    if !Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        lacks.push("- the kernel does not filter bridged packets (CONFIG_BRIDGE_NETFILTER, module br_netfilter)".to_owned());
    }
    // In namespaces that end with the command.
    let trials = [
        ("namespaces (CONFIG_NET_NS, CONFIG_PID_NS, CONFIG_UTS_NS)", "true"),
        (
            "veth and bridge links (CONFIG_VETH, CONFIG_BRIDGE)",
            "ip link add name left0 type veth peer name right0 && ip link add name bridge0 type bridge",
        ),
        (
            "nftables with NAT (CONFIG_NF_TABLES, CONFIG_NFT_NAT)",
            "nft 'add table ip t; add chain ip t c { type nat hook prerouting priority -100; }'",
        ),
    ];
    for (what, script) in trials {
        let argv = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "sh", "-c", script];
        if let Err(error) = Run::new(argv).output().await {
            lacks.push(format!("- the kernel (or this container's permissions) lacks {what}: {error}"));
        }
    }
    lacks
}

/// The machine gets routes into the cluster, which must not replace others.
async fn taken_ranges() -> Vec<String> {
    // Without a list nothing can be checked here; setting up the routes fails if they clash.
    let routes = Run::new(["ip", "-oneline", "-4", "route", "show", "table", "all"]).text().await.unwrap_or_default();
    overlapping(&routes)
}

fn overlapping(routes: &str) -> Vec<String> {
    let nodes = format!("{SWITCH_ADDRESS}/{NODE_PREFIX_LENGTH}");
    let ours: Vec<Ipv4Net> = [nodes.as_str(), POD_CIDR, SERVICE_CIDR].iter().filter_map(|range| range.parse().ok()).collect();
    let mut taken = Vec::new();
    for line in routes.lines().filter(|line| !line.contains(&format!("dev {ROOT_LINK}"))) {
        let mut words =
            line.split_whitespace().skip_while(|word| matches!(*word, "local" | "broadcast" | "unicast" | "blackhole" | "unreachable"));
        let target = words.next().unwrap_or_default();
        let range = target.parse::<Ipv4Net>().or_else(|_| target.parse::<Ipv4Addr>().map(Ipv4Net::from));
        if let Ok(range) = range
            && range.prefix_len() > 0
            && ours.iter().any(|own| own.contains(&range) || range.contains(own))
        {
            taken.push(format!("- the machine already routes a range that the cluster uses: {}", line.trim()));
        }
    }
    taken
}

/// Whether this process may lower `oom_score_adj`: bit 24 of its effective capabilities, `CAP_SYS_RESOURCE`.
fn may_lower_oom_score() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|bits| bits & (1 << 24) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_others_into_the_ranges_are_found() {
        let routes = "default via 10.0.0.1 dev eth0\n10.0.0.0/24 dev eth0 scope link\n172.30.0.0/16 dev br-1 scope link\n\
                      10.244.1.0/24 via 172.30.0.1 dev nestling0\nlocal 10.96.3.4 dev eth0 table local\nbroadcast 10.0.0.255 dev eth0\n";
        let found = overlapping(routes);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("br-1") && found[1].contains("10.96.3.4"));
    }
}
