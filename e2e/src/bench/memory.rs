//! Anonymous memory of pods, as the kernel charges it to their cgroups (`total_rss` with cgroup v1, `anon` with v2).

use crate::suite::{Kubectl, Tenant};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Usage {
    pub name: String,
    bytes: u64,
}

impl Usage {
    #[allow(clippy::cast_precision_loss)] // for display
    pub(super) fn mebibytes(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20)
    }
}

/// Start-up garbage is collected within Go's forced collection period of two minutes.
pub(super) fn settle() {
    println!("letting the tenant rest for 150 s");
    std::thread::sleep(Duration::from_secs(150));
}

/// The control plane and CoreDNS of a tenant.
pub(super) fn tenant(tenant: &Tenant) -> Result<Vec<Usage>> {
    let mut all = pods(tenant.host())?;
    all.extend(pods(&Kubectl::host().in_namespace(&tenant.workload_namespace()?))?);
    Ok(all)
}

/// Operator and agents.
pub(super) fn installation(host: &Kubectl) -> Result<Vec<Usage>> {
    pods(&host.in_namespace("nestling-system"))
}

fn pods(kubectl: &Kubectl) -> Result<Vec<Usage>> {
    let list = kubectl.json(&["get", "pods"])?;
    list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| {
            let text = |pointer: &str| pod.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            let (name, uid) = (text("/metadata/name"), text("/metadata/uid"));
            Ok(Usage { bytes: charged(&uid).with_context(|| format!("memory of pod {name}"))?, name })
        })
        .collect()
}

fn charged(uid: &str) -> Result<u64> {
    for (root, key) in [("/sys/fs/cgroup/memory", "total_rss "), ("/sys/fs/cgroup", "anon ")] {
        if let Some(folder) = find(Path::new(root), uid, 6) {
            let text = std::fs::read_to_string(folder.join("memory.stat"))?;
            let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}in memory.stat"))?;
            return Ok(line.parse()?);
        }
    }
    anyhow::bail!("no memory cgroup of pod {uid} is visible from here")
}

/// The pod's cgroup: a folder named after its UID (with `_` for `-` under the systemd driver).
fn find(below: &Path, uid: &str, depth: usize) -> Option<PathBuf> {
    let folders = std::fs::read_dir(below).ok()?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let folders: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().replace('_', "-").contains(&format!("pod{uid}")));
    if let Some(found) = folders.iter().find(|path| named(path)) {
        return found.join("memory.stat").exists().then(|| found.clone());
    }
    if depth == 0 {
        return None;
    }
    folders.iter().find_map(|path| find(path, uid, depth - 1))
}
