//! containerd's configuration, and images in and out of it.

use std::path::Path;
use std::time::Duration;

use super::launch::{self, LaunchError};
use super::workdir::WorkDir;

pub const SOCKET: &str = "/run/containerd/containerd.sock";
pub const CNI_CONFIG_DIR: &str = "/etc/cni/net.d";

/// `restricted`: this process may not lower `oom_score_adj` (no `CAP_SYS_RESOURCE`), so containers must not ask for it.
pub fn config(pause_image: &str, runc: &Path, cni_dir: &Path, restricted: bool) -> String {
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
pub fn cni_config(pod_cidr: &str) -> String {
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

/// Imports an image archive into the unit's containerd, where Kubernetes looks for it.
pub async fn import(work: &WorkDir, unit: &str, ctr: &Path, archive: &Path) -> Result<(), LaunchError> {
    let image = std::fs::canonicalize(archive).map_err(|source| super::files::FileError::new("open", archive, source))?;
    // By a shell's redirection on our side of the mount namespaces: the archive may lie where the unit has files of its own.
    let mut argv =
        vec!["sh".into(), "-c".into(), "archive=$1; shift; exec \"$@\" < \"$archive\"".into(), "sh".into(), image.into_os_string()];
    argv.extend(launch::inside(work, unit, [ctr.as_os_str(), "--address".as_ref(), SOCKET.as_ref()])?);
    argv.extend(["--namespace", "k8s.io", "images", "import", "-"].map(std::ffi::OsString::from));
    super::command::Run::new(argv).deadline(Duration::from_secs(300)).output().await?;
    Ok(())
}

/// Waits until containerd answers.
pub async fn ready(work: &WorkDir, unit: &str, ctr: &Path) -> Result<(), LaunchError> {
    let mut tries = 0;
    loop {
        let ask = launch::run_inside(work, unit, [ctr.as_os_str(), "--address".as_ref(), SOCKET.as_ref(), "version".as_ref()])?;
        match ask.deadline(Duration::from_secs(5)).output().await {
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
