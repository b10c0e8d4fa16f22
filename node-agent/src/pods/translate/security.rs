//! Security contexts, probes and lifecycle hooks: passed, for the host's Pod Security decides on them, but looked at
//! field by field.

use super::Translator;
use k8s_openapi::api::core::v1::{HTTPGetAction, Lifecycle, LifecycleHandler, PodSecurityContext, Probe, SecurityContext};

const WINDOWS: &str = "nodes run linux";

impl Translator<'_> {
    pub fn pod_security(&mut self, path: &str, context: PodSecurityContext) -> PodSecurityContext {
        let PodSecurityContext {
            app_armor_profile,
            fs_group,
            fs_group_change_policy,
            run_as_group,
            run_as_non_root,
            run_as_user,
            se_linux_change_policy,
            se_linux_options,
            seccomp_profile,
            supplemental_groups,
            supplemental_groups_policy,
            sysctls,
            windows_options,
        } = context;
        self.refusals.set(format!("{path}.windowsOptions"), windows_options.as_ref(), WINDOWS);
        PodSecurityContext {
            app_armor_profile,
            fs_group,
            fs_group_change_policy,
            run_as_group,
            run_as_non_root,
            run_as_user,
            se_linux_change_policy,
            se_linux_options,
            seccomp_profile,
            supplemental_groups,
            supplemental_groups_policy,
            sysctls,
            windows_options: None,
        }
    }

    pub fn container_security(&mut self, path: &str, context: SecurityContext) -> SecurityContext {
        let SecurityContext {
            allow_privilege_escalation,
            app_armor_profile,
            capabilities,
            privileged,
            proc_mount,
            read_only_root_filesystem,
            run_as_group,
            run_as_non_root,
            run_as_user,
            se_linux_options,
            seccomp_profile,
            windows_options,
        } = context;
        self.refusals.set(format!("{path}.windowsOptions"), windows_options.as_ref(), WINDOWS);
        SecurityContext {
            allow_privilege_escalation,
            app_armor_profile,
            capabilities,
            privileged,
            proc_mount,
            read_only_root_filesystem,
            run_as_group,
            run_as_non_root,
            run_as_user,
            se_linux_options,
            seccomp_profile,
            windows_options: None,
        }
    }

    /// Probes are run by the host's kubelet against the pod's own address, so all kinds pass.
    pub fn probe(&mut self, path: &str, probe: &Probe) {
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

    pub fn lifecycle(&mut self, path: &str, lifecycle: &Lifecycle) {
        let Lifecycle { post_start, pre_stop, stop_signal: _ } = lifecycle;
        for (name, handler) in [("postStart", post_start), ("preStop", pre_stop)] {
            if let Some(LifecycleHandler { exec: _, http_get, sleep: _, tcp_socket: _ }) = handler {
                self.http_get(&format!("{path}.{name}.httpGet"), http_get.as_ref());
            }
        }
    }

    fn http_get(&mut self, path: &str, action: Option<&HTTPGetAction>) {
        if let Some(HTTPGetAction { host: _, http_headers: _, path: _, port: _, protocol, scheme: _ }) = action {
            self.refusals.set(format!("{path}.protocol"), protocol.as_ref(), "an alpha field that hosts drop");
        }
    }
}
