//! What every control-plane pod and container is denied: the Pod Security Standard `restricted`.

use k8s_openapi::api::core::v1::{Capabilities, PodSecurityContext, SeccompProfile, SecurityContext};

/// Everything runs as this user and group.
pub const USER: i64 = 65532;

pub fn pod() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        // Secrets and etcd's volume belong to this group.
        fs_group: Some(USER),
        // A volume whose root already fits is not walked through at every start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

pub fn container() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// Upstream's kube-apiserver binary carries the file capability `cap_net_bind_service=+ep`. The kernel refuses to execute
/// it (EPERM) when that capability is not in the bounding set, so it is left there; `restricted` allows it, and without
/// privilege escalation the program does not gain it.
pub fn apiserver_container() -> SecurityContext {
    SecurityContext {
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: Some(vec!["NET_BIND_SERVICE".to_owned()]) }),
        ..container()
    }
}
