//! A host node for the tests of this folder.

pub(super) use crate::fixtures::tenant_spec;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

pub(super) fn host_node() -> Node {
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "of the host", "lastHeartbeatTime": "2026-01-01T00:00:00Z",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    serde_json::from_value(json!({
        "metadata": {
            "name": "worker-7",
            "uid": "host-uid",
            "labels": {
                "kubernetes.io/hostname": "worker-seven", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": "zone-b", "example.com/secret": "of-the-host",
            },
        },
        "spec": {"podCIDR": "10.244.7.0/24", "providerID": "cloud://worker-7", "taints": [{"key": "host-only", "effect": "NoSchedule"}]},
        "status": {
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "allocatable": {"cpu": "7800m", "memory": "15Gi", "pods": "110"},
            "conditions": [
                condition("NetworkUnavailable", "False", "CalicoIsUp"),
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "addresses": [{"type": "InternalIP", "address": "172.30.0.7"}, {"type": "Hostname", "address": "worker-7"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "architecture": "amd64", "bootID": "boot", "containerRuntimeVersion": "containerd://2.4.2", "kernelVersion": "6.18",
                "kubeProxyVersion": "", "kubeletVersion": "v1.37.2", "machineID": "machine", "operatingSystem": "linux",
                "osImage": "Debian", "systemUUID": "system",
            },
            "images": [{"names": ["example.com/another-tenant/app:1"], "sizeBytes": 1}],
            "volumesInUse": ["kubernetes.io/csi/of-another-tenant"],
            "runtimeHandlers": [{"name": "", "features": {"recursiveReadOnlyMounts": true, "userNamespaces": true}}],
            "declaredFeatures": ["ExtendWebSocketsToKubelet", "InPlacePodVerticalScaling"],
        },
    }))
    .unwrap()
}
