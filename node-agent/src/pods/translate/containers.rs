//! Containers, init containers and native sidecars. Security contexts, probes and lifecycle hooks are passed, for the host's
//! Pod Security decides on them, but examined field by field.

use super::Translator;
use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, ResourceRequirements, SecurityContext, VolumeMount,
};

impl Translator<'_> {
    pub(super) fn container(&mut self, path: &str, container: Container) -> Container {
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
        self.refuse(path, "volumeDevices", devices, "persistent volumes are not supported yet");
        for (kind, probe) in [("livenessProbe", &liveness_probe), ("readinessProbe", &readiness_probe), ("startupProbe", &startup_probe)] {
            if let Some(probe) = probe {
                self.probe(&format!("{path}.{kind}"), probe);
            }
        }
        if let Some(lifecycle) = &lifecycle {
            self.lifecycle(&format!("{path}.lifecycle"), lifecycle);
        }

        let env = self.each(&format!("{path}.env"), env.unwrap_or_default(), |this, path, var| this.env_var(&path, var));
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
            security_context: security_context.map(|context| self.security(&format!("{path}.securityContext"), context)),
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

    pub(super) fn resources(&mut self, path: &str, resources: ResourceRequirements) -> ResourceRequirements {
        let ResourceRequirements { claims, limits, requests } = resources;
        let claims = claims.as_ref().filter(|list| !list.is_empty());
        self.refuse(path, "claims", claims, "resource claims are not supported yet");
        ResourceRequirements { claims: None, limits, requests }
    }

    fn volume_mount(&mut self, path: &str, mount: VolumeMount) -> VolumeMount {
        let VolumeMount {
            bind_mount_options,
            mount_path: _,
            mount_propagation: _,
            name: _,
            read_only: _,
            recursive_read_only: _,
            sub_path: _,
            sub_path_expr: _,
        } = &mount;
        let options = bind_mount_options.as_ref().filter(|list| !list.is_empty());
        self.refuse(path, "bindMountOptions", options, "an alpha field that hosts drop");
        VolumeMount { bind_mount_options: None, ..mount }
    }

    fn security(&mut self, path: &str, context: SecurityContext) -> SecurityContext {
        let SecurityContext {
            allow_privilege_escalation: _,
            app_armor_profile: _,
            capabilities: _,
            privileged: _,
            proc_mount: _,
            read_only_root_filesystem: _,
            run_as_group: _,
            run_as_non_root: _,
            run_as_user: _,
            se_linux_options: _,
            seccomp_profile: _,
            windows_options,
        } = &context;
        self.refuse(path, "windowsOptions", windows_options.as_ref(), "nodes run linux");
        SecurityContext { windows_options: None, ..context }
    }

    /// Probes are run by the host's kubelet against the pod's own address, so all kinds pass.
    fn probe(&mut self, path: &str, probe: &Probe) {
        let Probe {
            exec: _,
            failure_threshold: _,
            grpc: _,
            http_get,
            initial_delay_seconds: _,
            period_seconds: _,
            success_threshold: _,
            tcp_socket: _,
            termination_grace_period_seconds: _,
            timeout_seconds: _,
        } = probe;
        self.http_get(&format!("{path}.httpGet"), http_get.as_ref());
    }

    fn lifecycle(&mut self, path: &str, lifecycle: &Lifecycle) {
        let Lifecycle { post_start, pre_stop, stop_signal: _ } = lifecycle;
        for (name, handler) in [("postStart", post_start), ("preStop", pre_stop)] {
            if let Some(LifecycleHandler { exec: _, http_get, sleep: _, tcp_socket: _ }) = handler {
                self.http_get(&format!("{path}.{name}.httpGet"), http_get.as_ref());
            }
        }
    }

    fn http_get(&mut self, path: &str, action: Option<&HTTPGetAction>) {
        if let Some(HTTPGetAction { host: _, http_headers: _, path: _, port: _, protocol, scheme: _ }) = action {
            self.refuse(path, "protocol", protocol.as_ref(), "an alpha field that hosts drop");
        }
    }
}
