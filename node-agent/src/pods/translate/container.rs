//! Containers, init containers and native sidecars.

use super::Translator;
use k8s_openapi::api::core::v1::{Container, EnvVar, ResourceRequirements, VolumeMount};

impl Translator<'_> {
    pub fn container(&mut self, path: &str, container: Container, service_env: &[EnvVar]) -> Container {
        let Container {
            args,
            command,
            env,
            env_from,
            image,
            image_pull_policy,
            lifecycle,
            liveness_probe,
            name,
            ports,
            readiness_probe,
            resize_policy,
            resources,
            restart_policy,
            restart_policy_rules,
            security_context,
            startup_probe,
            stdin,
            stdin_once,
            termination_message_path,
            termination_message_policy,
            tty,
            volume_devices,
            volume_mounts,
            working_dir,
        } = container;

        let devices = volume_devices.as_ref().filter(|list| !list.is_empty());
        self.refusals.set(format!("{path}.volumeDevices"), devices, "persistent volumes are not supported yet");
        for (kind, probe) in [("livenessProbe", &liveness_probe), ("readinessProbe", &readiness_probe), ("startupProbe", &startup_probe)] {
            if let Some(probe) = probe {
                self.probe(&format!("{path}.{kind}"), probe);
            }
        }
        if let Some(lifecycle) = &lifecycle {
            self.lifecycle(&format!("{path}.lifecycle"), lifecycle);
        }

        let env = self.env(path, env.unwrap_or_default(), env_from.as_deref().unwrap_or_default(), service_env);
        let env_from = env_from.map(|list| self.each(&format!("{path}.envFrom"), list, |this, path, source| this.env_from(&path, source)));
        let volume_mounts =
            volume_mounts.map(|list| self.each(&format!("{path}.volumeMounts"), list, |this, path, mount| this.volume_mount(&path, mount)));
        Container {
            args,
            command,
            env: Some(env),
            env_from,
            image,
            image_pull_policy,
            lifecycle,
            liveness_probe,
            name, // equal on both sides: the kubelet API finds containers by it
            ports,
            readiness_probe,
            resize_policy,
            resources: resources.map(|resources| self.resources(&format!("{path}.resources"), resources)),
            restart_policy,
            restart_policy_rules,
            security_context: security_context.map(|context| self.container_security(&format!("{path}.securityContext"), context)),
            startup_probe,
            stdin,
            stdin_once,
            termination_message_path,
            termination_message_policy,
            tty,
            volume_devices: None,
            volume_mounts,
            working_dir,
        }
    }

    pub fn resources(&mut self, path: &str, resources: ResourceRequirements) -> ResourceRequirements {
        let ResourceRequirements { claims, limits, requests } = resources;
        let claims = claims.as_ref().filter(|list| !list.is_empty());
        self.refusals.set(format!("{path}.claims"), claims, "resource claims are not supported yet");
        ResourceRequirements { claims: None, limits, requests }
    }

    fn volume_mount(&mut self, path: &str, mount: VolumeMount) -> VolumeMount {
        let VolumeMount {
            bind_mount_options,
            mount_path,
            mount_propagation,
            name,
            read_only,
            recursive_read_only,
            sub_path,
            sub_path_expr,
        } = mount;
        let options = bind_mount_options.as_ref().filter(|list| !list.is_empty());
        self.refusals.set(format!("{path}.bindMountOptions"), options, "an alpha field that hosts drop");
        VolumeMount {
            bind_mount_options: None,
            mount_path,
            mount_propagation,
            name,
            read_only,
            recursive_read_only,
            sub_path,
            sub_path_expr,
        }
    }
}
