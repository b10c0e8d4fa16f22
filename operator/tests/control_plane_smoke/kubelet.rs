//! As much of a kubelet as a control-plane pod needs: brings Secrets and ConfigMaps to their paths, puts `$(NAME)` into
//! arguments, and starts the programs, all on this machine's own network.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Container, KeyToPath, PodTemplateSpec, Secret, Volume};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

pub(crate) struct Kubelet<'a> {
    /// Where the programs are.
    pub binaries: PathBuf,
    /// Root of everything that is written, a folder for each container.
    pub root: &'a Path,
    pub pod_ip: IpAddr,
    pub secrets: BTreeMap<String, Secret>,
    pub config_maps: BTreeMap<String, ConfigMap>,
}

impl Kubelet<'_> {
    /// Starts one container of a pod; it ends with the handle.
    pub(crate) fn start(&self, pod_name: &str, template: &PodTemplateSpec, container: &str) -> Result<Child> {
        let pod = template.spec.as_ref().context("no spec")?;
        let all = pod.init_containers.iter().flatten().chain(&pod.containers);
        let container: &Container = all.into_iter().find(|one| one.name == container).context("no such container")?;
        let home = self.root.join(&container.name);
        for mount in container.volume_mounts.iter().flatten() {
            let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).context("no such volume")?;
            self.fill(volume, &home.join(mount.mount_path.trim_start_matches('/')), &home)?;
        }
        let program = container.command.iter().flatten().next().context("no command")?;
        let variables: Vec<(String, String)> = container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| {
                let field = &variable.value_from.as_ref()?.field_ref.as_ref()?.field_path;
                Some((format!("$({})", variable.name), self.field(pod_name, template, field)?))
            })
            .collect();
        let args = container.args.iter().flatten().map(|arg| {
            let arg = variables.iter().fold(arg.clone(), |arg, (variable, value)| arg.replace(variable, value));
            relocated(&arg, &home)
        });
        spawn(Command::new(self.binaries.join(program)).args(args), &self.root.join(format!("{}.log", container.name)))
    }

    /// What a container gets of its pod; an annotation that is missing is empty.
    fn field(&self, pod_name: &str, template: &PodTemplateSpec, path: &str) -> Option<String> {
        match path {
            "metadata.name" => Some(pod_name.to_owned()),
            "status.podIP" => Some(self.pod_ip.to_string()),
            _ => {
                let annotation = path.strip_prefix("metadata.annotations['")?.strip_suffix("']")?;
                let annotations = template.metadata.as_ref()?.annotations.as_ref()?;
                Some(annotations.get(annotation).cloned().unwrap_or_default())
            }
        }
    }

    fn fill(&self, volume: &Volume, folder: &Path, home: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut sources: Vec<(&str, Option<&Vec<KeyToPath>>)> = Vec::new();
        if let Some(secret) = &volume.secret {
            sources.push((secret.secret_name.as_deref().unwrap_or_default(), secret.items.as_ref()));
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            let secret = source.secret.as_ref().context("only Secrets are projected here")?;
            sources.push((secret.name.as_str(), secret.items.as_ref()));
        }
        for (name, items) in sources {
            let data = self.secrets.get(name).and_then(|secret| secret.data.as_ref()).with_context(|| format!("no Secret {name}"))?;
            let all = || data.keys().map(|key| (key, key)).collect();
            let wanted: Vec<_> = items.map_or_else(all, |items| items.iter().map(|item| (&item.key, &item.path)).collect());
            for (key, path) in wanted {
                let value = data.get(key).with_context(|| format!("Secret {name} has no {key}"))?;
                self.write(folder, path, &String::from_utf8(value.0.clone())?, home)?;
            }
        }
        if let Some(config_map) = &volume.config_map {
            let data = self.config_maps.get(&config_map.name).and_then(|map| map.data.as_ref()).context("no such ConfigMap")?;
            for (key, text) in data {
                self.write(folder, key, text, home)?;
            }
        }
        Ok(())
    }

    /// There is no Service in front: what goes to its port goes to the apiserver's own.
    fn write(&self, folder: &Path, name: &str, text: &str, home: &Path) -> Result<()> {
        let port = format!("{}:443", self.pod_ip);
        let text = relocated(text, home).replace(&port, &format!("{}:6443", self.pod_ip));
        std::fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))
    }
}

/// Starts a program that ends with its handle.
pub(crate) fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let shown = command.as_std().get_program().display().to_string();
    let log = File::create(log)?;
    let command = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start {shown}"))
}

/// Paths inside a container become paths under its folder.
fn relocated(text: &str, home: &Path) -> String {
    let home = home.display();
    text.replace("/etc/nestling", &format!("{home}/etc/nestling")).replace("/var/lib/etcd", &format!("{home}/var/lib/etcd"))
}
