//! containerd in a unit: its configuration, its disks, and images into it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::Run;
use crate::files::{self, Access, FileError};
use crate::launch::{self, LaunchError};
use crate::pki::PkiError;
use crate::programs::{BuildError, Programs, Versions, VersionsError};
use crate::unit::{Disks, Service};
use crate::workdir::WorkDir;

pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";
pub(crate) const CNI_CONFIG_DIR: &str = "/etc/cni/net.d";

/// What a unit with containerd takes from the machine.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) cni_dir: PathBuf,
    /// No `CAP_SYS_RESOURCE`.
    pub(crate) restricted: bool,
}

/// Why the files of a unit could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot find a program")]
    Program(#[from] BuildError),
    #[error("cannot find an image")]
    Image(#[from] VersionsError),
    #[error("cannot make certificates")]
    Certificates(#[from] PkiError),
    #[error("cannot write a configuration file")]
    File(#[from] FileError),
}

/// Disks with containerd's data where its configuration expects it, and a `PATH` for what containerd starts.
pub(crate) fn runtime_disks(dir: &Path) -> Disks {
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
pub(crate) fn runtime_service(programs: &Programs) -> Result<Service, BuildError> {
    let shim_dir = programs.path("containerd-shim-runc-v2")?.parent().unwrap_or(Path::new("/")).display().to_string();
    let path = format!("PATH={shim_dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let containerd = programs.path("containerd")?.display().to_string();
    let argv = vec!["/usr/bin/env".to_owned(), path, containerd, "--config=/etc/containerd/config.toml".to_owned()];
    Ok(Service { name: "containerd".to_owned(), argv, after: Vec::new() })
}

pub(crate) fn write_config(dir: &Path, versions: &Versions, programs: &Programs, machine: &Machine) -> Result<(), ConfigError> {
    let config = config(versions.image("pause")?, programs.path("runc")?, &machine.cni_dir, machine.restricted);
    Ok(files::write(&dir.join("etc-containerd/config.toml"), config, Access::Public)?)
}

/// `restricted`: without `CAP_SYS_RESOURCE` a process cannot lower `oom_score_adj`, so containers must not request it.
fn config(pause_image: &str, runc: &Path, cni_dir: &Path, restricted: bool) -> String {
    format!(
        r#"version = 3

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{pause_image}"

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = {restricted}

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{cni}"]
conf_dir = "{CNI_CONFIG_DIR}"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#,
        cni = cni_dir.display(),
        runc = runc.display()
    )
}

/// Pods on the node's bridge, addresses from its own range, host ports by port mapping.
pub(crate) fn cni_config(pod_cidr: &str) -> String {
    format!(
        r#"{{
  "cniVersion": "1.0.0",
  "name": "nestling-host",
  "plugins": [
    {{
      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
      "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{pod_cidr}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}
    }},
    {{"type": "portmap", "capabilities": {{"portMappings": true}}, "snat": true}}
  ]
}}
"#
    )
}

/// Imports an image archive into containerd's namespace of Kubernetes (`k8s.io`).
pub(crate) async fn import(work: &WorkDir, unit: &str, ctr: &Path, archive: &Path) -> Result<(), LaunchError> {
    let image = std::fs::canonicalize(archive).map_err(|source| FileError::new("open", archive, source))?;
    // Redirected by a shell outside the unit's mount namespace: the archive may be where the unit has files of its own.
    let mut argv =
        vec!["sh".into(), "-c".into(), "archive=$1; shift; exec \"$@\" < \"$archive\"".into(), "sh".into(), image.into_os_string()];
    argv.extend(launch::inside(work, unit, [ctr.as_os_str(), "--address".as_ref(), SOCKET.as_ref()])?);
    argv.extend(["--namespace", "k8s.io", "images", "import", "-"].map(std::ffi::OsString::from));
    Run::new(argv).deadline(Duration::from_secs(300)).output().await?;
    Ok(())
}

/// Waits until containerd answers, for 15 seconds.
pub(crate) async fn ready(work: &WorkDir, unit: &str, ctr: &Path) -> Result<(), LaunchError> {
    let mut tries = 0;
    loop {
        let version = launch::run_inside(work, unit, [ctr.as_os_str(), "--address".as_ref(), SOCKET.as_ref(), "version".as_ref()])?;
        match version.deadline(Duration::from_secs(5)).output().await {
            Ok(_) => return Ok(()),
            Err(error) if tries >= 150 => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        tries += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_parse() {
        let text = config("registry.example/pause:1", Path::new("/x/runc"), Path::new("/usr/lib/cni"), true);
        let parsed: toml::Value = toml::from_str(&text).unwrap();
        assert_eq!(parsed["version"].as_integer(), Some(3));
        let network: serde_json::Value = serde_json::from_str(&cni_config("10.244.7.0/24")).unwrap();
        assert_eq!(network["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.7.0/24");
    }
}
