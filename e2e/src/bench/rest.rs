//! What an idle tenant costs: memory and CPU of its pods as the kernel charges them to their cgroups (v1 and v2), and writes to
//! its etcd.

use crate::suite::{Kubectl, Tenant};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long CPU and writes are watched.
const WATCHED: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Rest {
    /// The control plane and CoreDNS.
    pub(crate) tenant: Vec<Usage>,
    /// Operator and agents.
    pub(crate) installation: Vec<Usage>,
    pub(crate) writes_per_second: f64,
}

#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) name: String,
    /// MiB.
    pub(crate) anonymous: f64,
    /// MiB of tmpfs.
    pub(crate) shared: f64,
    pub(crate) millicores: f64,
}

/// Start-up garbage is collected within Go's forced collection period of two minutes.
pub(crate) fn settle() {
    println!("letting the tenant rest for 150 s");
    std::thread::sleep(Duration::from_secs(150));
}

pub(crate) fn measure(tenant: &Tenant) -> Result<Rest> {
    let host = Kubectl::host();
    let (control_plane, workload) = (Kubectl::clone(tenant.host()), host.in_namespace(&tenant.workload_namespace()?));
    let of_tenant = [pods(&control_plane)?, pods(&workload)?].concat();
    let of_installation = pods(&host.in_namespace("nestling-system"))?;
    let all = || of_tenant.iter().chain(&of_installation);

    let (begun, revision) = (Instant::now(), revision(tenant)?);
    let before: Vec<f64> = all().map(Pod::cpu_seconds).collect::<Result<_>>()?;
    std::thread::sleep(WATCHED);
    let (seconds, writes) = (begun.elapsed().as_secs_f64(), self::revision(tenant)? - revision);
    let mut usages: Vec<Usage> = all().zip(before).map(|(pod, before)| pod.usage(before, seconds)).collect::<Result<_>>()?;
    let installation = usages.split_off(of_tenant.len());
    Ok(Rest { tenant: usages, installation, writes_per_second: f64::from(writes) / seconds })
}

/// etcd's revision, which each write raises by one.
fn revision(tenant: &Tenant) -> Result<u32> {
    let list: serde_json::Value = serde_json::from_str(&tenant.kubectl().run(&["get", "--raw", "/api/v1/nodes?limit=1"])?)?;
    list.pointer("/metadata/resourceVersion")
        .and_then(|version| version.as_str())
        .context("a list has a version")?
        .parse()
        .context("version")
}

#[derive(Clone, Debug)]
struct Pod {
    name: String,
    uid: String,
}

fn pods(kubectl: &Kubectl) -> Result<Vec<Pod>> {
    let list = kubectl.json(&["get", "pods"])?;
    let text = |pod: &serde_json::Value, pointer: &str| pod.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let items = list["items"].as_array().into_iter().flatten();
    Ok(items.map(|pod| Pod { name: text(pod, "/metadata/name"), uid: text(pod, "/metadata/uid") }).collect())
}

impl Pod {
    #[allow(clippy::cast_precision_loss)] // for display
    fn usage(&self, cpu_before: f64, seconds: f64) -> Result<Usage> {
        let mebibytes = |keys: [&str; 2]| anyhow::Ok(self.number("memory", "memory.stat", keys)? as f64 / f64::from(1 << 20));
        Ok(Usage {
            name: self.name.clone(),
            anonymous: mebibytes(["total_rss ", "anon "])?,
            shared: mebibytes(["total_shmem ", "shmem "])?,
            millicores: (self.cpu_seconds()? - cpu_before) / seconds * 1000.0,
        })
    }

    #[allow(clippy::cast_precision_loss)] // for display
    fn cpu_seconds(&self) -> Result<f64> {
        let v1 = find(Path::new("/sys/fs/cgroup/cpuacct"), &self.uid, 6).map(|folder| folder.join("cpuacct.usage"));
        if let Some(file) = v1.filter(|file| file.exists()) {
            return Ok(std::fs::read_to_string(file)?.trim().parse::<u64>()? as f64 / 1e9);
        }
        Ok(self.number("", "cpu.stat", ["usage_usec ", "usage_usec "])? as f64 / 1e6)
    }

    /// The number behind the key for cgroup v1 (in the hierarchy of `controller`) or v2.
    fn number(&self, controller: &str, file: &str, [v1, v2]: [&str; 2]) -> Result<u64> {
        for (root, key) in [(Path::new("/sys/fs/cgroup").join(controller), v1), ("/sys/fs/cgroup".into(), v2)] {
            if let Some(file) = find(&root, &self.uid, 6).map(|folder| folder.join(file)).filter(|file| file.exists()) {
                let text = std::fs::read_to_string(&file)?;
                let line = text.lines().find_map(|line| line.strip_prefix(key));
                return Ok(line.with_context(|| format!("no {key}in {}", file.display()))?.parse()?);
            }
        }
        anyhow::bail!("no cgroup of pod {} is visible from here", self.name)
    }
}

/// The pod's cgroup: a folder named after its UID (with `_` for `-` under the systemd driver).
fn find(below: &Path, uid: &str, depth: usize) -> Option<PathBuf> {
    let folders = std::fs::read_dir(below).ok()?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let folders: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().replace('_', "-").contains(&format!("pod{uid}")));
    if let Some(found) = folders.iter().find(|path| named(path)) {
        return Some(found.clone());
    }
    if depth == 0 {
        return None;
    }
    folders.iter().find_map(|path| find(path, uid, depth - 1))
}
