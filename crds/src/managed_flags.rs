//! Flags of the control-plane programs that the operator sets itself. `extraArgs` that name one are refused at admission
//! with the field that controls it: a flag given twice would be resolved by the program's own rule, unseen by the user.
//! A name is looked up in upstream's normal form ([`normal`]), so that no other spelling gets past.
//!
//! One list for everybody: the CEL rules of the CRD are made from it, and the operator's builder may set no flag that is
//! missing here.

/// Flags with one owner.
#[derive(Clone, Copy, Debug)]
pub struct ManagedFlags {
    /// Without leading dashes.
    pub flags: &'static [&'static str],
    /// What to use instead; completes the sentence "flag --x is managed: …".
    pub instead: &'static str,
}

/// The name by which a program knows a flag: Kubernetes' programs take `_` for `-` (`WordSepNormalizeFunc`) and tell cases
/// apart.
pub fn normal(flag: &str) -> String {
    flag.replace('_', "-")
}

/// Reason why a flag may not be given by the user, or nothing if it may.
pub fn refusal(managed: &[ManagedFlags], flag: &str) -> Option<&'static str> {
    let flag = normal(flag);
    managed.iter().find(|group| group.flags.contains(&flag.as_str())).map(|group| group.instead)
}

const PKI: &str = "certificates and keys are minted and renewed by the operator";
const SERVING: &str = "how the API is served follows spec.expose and spec.controlPlane.apiServer.certSANs";
const IDENTITY: &str = "the operator gives each component its own identity";
const LEADER: &str = "leader election is always on";
const HARDENING: &str = "the operator sets it for every tenant";
const VERSION: &str = "use spec.version";
const GATES: ManagedFlags = ManagedFlags { flags: &["feature-gates"], instead: "use spec.controlPlane.featureGates" };

/// Flags of kube-apiserver.
pub const API_SERVER: &[ManagedFlags] = &[
    ManagedFlags {
        flags: &[
            "etcd-servers",
            "etcd-servers-overrides",
            "etcd-cafile",
            "etcd-certfile",
            "etcd-keyfile",
            "etcd-prefix",
            "etcd-compaction-interval",
            "storage-backend",
        ],
        instead: "use spec.etcd",
    },
    ManagedFlags {
        flags: &[
            "secure-port",
            "bind-address",
            "advertise-address",
            "external-hostname",
            "cert-dir",
            "tls-cert-file",
            "tls-private-key-file",
            "tls-sni-cert-key",
            "endpoint-reconciler-type",
            "kubernetes-service-node-port",
            "permit-port-sharing",
            "permit-address-sharing",
            "peer-advertise-ip",
            "peer-advertise-port",
            "peer-ca-file",
        ],
        instead: SERVING,
    },
    ManagedFlags { flags: &["service-cluster-ip-range"], instead: "use spec.network.serviceCIDRs" },
    ManagedFlags { flags: &["service-node-port-range"], instead: "use spec.network.nodePorts" },
    ManagedFlags {
        flags: &[
            "service-account-issuer",
            "service-account-jwks-uri",
            "service-account-key-file",
            "service-account-signing-key-file",
            "service-account-signing-endpoint",
            "service-account-lookup",
            "api-audiences",
        ],
        instead: "the operator keeps the keys of service-account tokens, and the issuer follows spec.network.clusterDomain",
    },
    ManagedFlags {
        flags: &[
            "client-ca-file",
            "requestheader-allowed-names",
            "requestheader-client-ca-file",
            "requestheader-extra-headers-prefix",
            "requestheader-group-headers",
            "requestheader-uid-headers",
            "requestheader-username-headers",
            "proxy-client-cert-file",
            "proxy-client-key-file",
        ],
        instead: PKI,
    },
    ManagedFlags {
        flags: &[
            "kubelet-certificate-authority",
            "kubelet-client-certificate",
            "kubelet-client-key",
            "kubelet-preferred-address-types",
            "enable-aggregator-routing",
            "egress-selector-config-file",
        ],
        instead: "the way from the API to nodes and pods is made by the operator",
    },
    ManagedFlags {
        // The operator always passes a configuration file, and kube-apiserver refuses the older flags beside it.
        flags: &[
            "authentication-config",
            "authentication-token-webhook-config-file",
            "anonymous-auth",
            "enable-bootstrap-token-auth",
            "token-auth-file",
            "oidc-ca-file",
            "oidc-client-id",
            "oidc-groups-claim",
            "oidc-groups-prefix",
            "oidc-issuer-url",
            "oidc-required-claim",
            "oidc-signing-algs",
            "oidc-username-claim",
            "oidc-username-prefix",
        ],
        instead: "use spec.controlPlane.apiServer.authentication",
    },
    ManagedFlags {
        flags: &["authorization-config", "authorization-mode", "authorization-policy-file", "authorization-webhook-config-file"],
        instead: "use spec.controlPlane.apiServer.authorization",
    },
    ManagedFlags {
        flags: &["audit-policy-file", "audit-log-path", "audit-webhook-config-file"],
        instead: "use spec.controlPlane.apiServer.audit",
    },
    ManagedFlags {
        flags: &["encryption-provider-config", "encryption-provider-config-automatic-reload"],
        instead: "use spec.controlPlane.apiServer.encryption",
    },
    ManagedFlags {
        flags: &["admission-control", "admission-control-config-file", "enable-admission-plugins", "disable-admission-plugins"],
        instead: "use spec.controlPlane.apiServer.admission; NodeRestriction and the upstream defaults are always on",
    },
    ManagedFlags { flags: &["allow-privileged"], instead: "use spec.isolation.podSecurity" },
    ManagedFlags { flags: &["emulated-version", "min-compatibility-version"], instead: VERSION },
    GATES,
    ManagedFlags {
        flags: &[
            "profiling",
            "contention-profiling",
            "debug-socket-path",
            "tls-min-version",
            "shutdown-delay-duration",
            "shutdown-send-retry-after",
            "shutdown-watch-termination-grace-period",
            "goaway-chance",
        ],
        instead: HARDENING,
    },
];

/// Flags of kube-controller-manager.
pub const CONTROLLER_MANAGER: &[ManagedFlags] = &[
    ManagedFlags { flags: &["controllers"], instead: "use spec.controlPlane.controllerManager.controllers" },
    ManagedFlags {
        flags: &["kubeconfig", "master", "authentication-kubeconfig", "authorization-kubeconfig", "use-service-account-credentials"],
        instead: IDENTITY,
    },
    ManagedFlags {
        flags: &[
            "root-ca-file",
            "service-account-private-key-file",
            "cluster-signing-cert-file",
            "cluster-signing-key-file",
            "cluster-signing-kube-apiserver-client-cert-file",
            "cluster-signing-kube-apiserver-client-key-file",
            "cluster-signing-kubelet-client-cert-file",
            "cluster-signing-kubelet-client-key-file",
            "cluster-signing-kubelet-serving-cert-file",
            "cluster-signing-kubelet-serving-key-file",
            "cluster-signing-legacy-unknown-cert-file",
            "cluster-signing-legacy-unknown-key-file",
        ],
        instead: PKI,
    },
    ManagedFlags { flags: ENDPOINT_PKI_FLAGS, instead: PKI },
    ManagedFlags { flags: LEADER_FLAGS, instead: LEADER },
    ManagedFlags { flags: &["enable-leader-migration", "leader-migration-config"], instead: LEADER },
    ManagedFlags { flags: &["service-cluster-ip-range"], instead: "use spec.network.serviceCIDRs" },
    ManagedFlags {
        flags: &["allocate-node-cidrs", "cidr-allocator-type", "cluster-cidr", "node-cidr-mask-size", "configure-cloud-routes"],
        instead: "pods get their addresses from the host's network",
    },
    ManagedFlags {
        flags: &["cloud-provider", "cloud-config", "external-cloud-volume-plugin"],
        instead: "use spec.controlPlane.cloudControllerManager",
    },
    ManagedFlags { flags: &["cluster-name"], instead: "it follows the name of the VirtualCluster" },
    ManagedFlags { flags: &["emulated-version", "min-compatibility-version"], instead: VERSION },
    GATES,
    ManagedFlags { flags: ENDPOINT_FLAGS, instead: HARDENING },
];

/// Flags of kube-scheduler.
pub const SCHEDULER: &[ManagedFlags] = &[
    ManagedFlags { flags: &["config", "write-config-to"], instead: "use spec.controlPlane.scheduler.profiles" },
    ManagedFlags { flags: &["kubeconfig", "master", "authentication-kubeconfig", "authorization-kubeconfig"], instead: IDENTITY },
    ManagedFlags { flags: ENDPOINT_PKI_FLAGS, instead: PKI },
    ManagedFlags { flags: LEADER_FLAGS, instead: LEADER },
    ManagedFlags { flags: &["emulated-version", "min-compatibility-version"], instead: VERSION },
    GATES,
    ManagedFlags { flags: ENDPOINT_FLAGS, instead: HARDENING },
];

/// Flags of cloud-controller-manager, which is part of Nestling.
pub const CLOUD_CONTROLLER_MANAGER: &[ManagedFlags] = &[
    ManagedFlags { flags: &["controllers"], instead: "use spec.controlPlane.cloudControllerManager.controllers" },
    ManagedFlags { flags: &["kubeconfig", "operator", "operator-address", "operator-ca", "operator-token-file"], instead: IDENTITY },
    ManagedFlags { flags: &["admin-address"], instead: HARDENING },
];

/// Flags of etcd.
pub const ETCD: &[ManagedFlags] = &[
    ManagedFlags {
        flags: &[
            "name",
            "advertise-client-urls",
            "initial-advertise-peer-urls",
            "initial-cluster",
            "initial-cluster-state",
            "initial-cluster-token",
            "listen-client-http-urls",
            "listen-client-urls",
            "listen-metrics-urls",
            "listen-peer-urls",
            "max-learners",
            "strict-reconfig-check",
            "force-new-cluster",
            "discovery",
            "discovery-cacert",
            "discovery-cert",
            "discovery-dial-timeout",
            "discovery-endpoints",
            "discovery-fallback",
            "discovery-insecure-skip-tls-verify",
            "discovery-insecure-transport",
            "discovery-keepalive-time",
            "discovery-keepalive-timeout",
            "discovery-key",
            "discovery-password",
            "discovery-proxy",
            "discovery-request-timeout",
            "discovery-srv",
            "discovery-srv-name",
            "discovery-token",
            "discovery-user",
        ],
        instead: "the operator forms the etcd cluster; its size follows spec.etcd.replicas or spec.controlPlane.replicas",
    },
    ManagedFlags { flags: &["config-file"], instead: "it would override all other flags; write flags into spec.etcd.extraArgs" },
    ManagedFlags { flags: &["data-dir", "wal-dir", "quota-backend-bytes"], instead: "use spec.etcd.storage" },
    ManagedFlags {
        flags: &["auto-compaction-mode", "auto-compaction-retention"],
        instead: "kube-apiserver compacts etcd, and one of the two must not",
    },
    ManagedFlags {
        flags: &[
            "auto-tls",
            "cert-file",
            "client-cert-allowed-hostname",
            "client-cert-auth",
            "client-cert-file",
            "client-crl-file",
            "client-key-file",
            "key-file",
            "peer-auto-tls",
            "peer-cert-allowed-cn",
            "peer-cert-allowed-hostname",
            "peer-cert-file",
            "peer-client-cert-auth",
            "peer-client-cert-file",
            "peer-client-key-file",
            "peer-crl-file",
            "peer-key-file",
            "peer-skip-client-san-verification",
            "peer-trusted-ca-file",
            "self-signed-cert-validity",
            "trusted-ca-file",
        ],
        instead: PKI,
    },
    ManagedFlags {
        flags: &["unsafe-no-fsync"],
        instead: "acknowledged writes would be lost; use spec.etcd.storage.medium Memory for a disposable cluster",
    },
    ManagedFlags {
        flags: &["feature-gates", "compact-hash-check-time", "enable-pprof", "tls-min-version", "watch-progress-notify-interval"],
        instead: HARDENING,
    },
];

/// Certificates of the health and metrics endpoint, and of who may ask it.
const ENDPOINT_PKI_FLAGS: &[&str] = &[
    "client-ca-file",
    "requestheader-allowed-names",
    "requestheader-client-ca-file",
    "requestheader-extra-headers-prefix",
    "requestheader-group-headers",
    "requestheader-uid-headers",
    "requestheader-username-headers",
    "cert-dir",
    "tls-cert-file",
    "tls-private-key-file",
    "tls-sni-cert-key",
];

const LEADER_FLAGS: &[&str] =
    &["leader-elect", "leader-elect-resource-lock", "leader-elect-resource-name", "leader-elect-resource-namespace"];

const ENDPOINT_FLAGS: &[&str] = &[
    "bind-address",
    "secure-port",
    "permit-port-sharing",
    "permit-address-sharing",
    "profiling",
    "contention-profiling",
    "tls-min-version",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_flag_has_two_owners() {
        for managed in [API_SERVER, CONTROLLER_MANAGER, SCHEDULER, CLOUD_CONTROLLER_MANAGER, ETCD] {
            let mut seen = BTreeSet::new();
            for flag in managed.iter().flat_map(|group| group.flags) {
                assert!(seen.insert(flag), "{flag} is listed twice");
                assert!(!flag.starts_with('-') && normal(flag) == *flag, "{flag}");
            }
        }
    }

    #[test]
    fn a_managed_flag_names_its_field() {
        assert_eq!(refusal(API_SERVER, "service-cluster-ip-range"), Some("use spec.network.serviceCIDRs"));
        assert_eq!(refusal(API_SERVER, "authorization_mode"), Some("use spec.controlPlane.apiServer.authorization"));
        assert_eq!(refusal(API_SERVER, "event-ttl"), None);
    }
}
