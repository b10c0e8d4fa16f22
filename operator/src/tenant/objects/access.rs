//! Who may do what inside a tenant, beyond what kube-apiserver sets up by itself.

use super::{TenantObject, object};
use crate::pki::sign::PROXIES;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn objects() -> Vec<TenantObject> {
    vec![
        // The admin kubeconfig is a member of this group and not of system:masters, so that its rights can be taken away
        // (as kubeadm does since 1.29).
        bind("kubeadm:cluster-admins", "cluster-admin", &json!({"kind": "Group", "name": "kubeadm:cluster-admins"})),
        // kube-apiserver as a client of kubelets: the agents ask the tenant whether it may.
        bind("nestling:kubelet-api-admin", "system:kubelet-api-admin", &json!({"kind": "User", "name": "kube-apiserver-kubelet-client"})),
        // The proxy half of node agents.
        bind("nestling:node-proxier", "system:node-proxier", &json!({"kind": "Group", "name": PROXIES})),
        cloud_controller_role(),
        bind(CLOUD_CONTROLLER, CLOUD_CONTROLLER, &json!({"kind": "User", "name": CLOUD_CONTROLLER})),
    ]
}

const CLOUD_CONTROLLER: &str = "system:cloud-controller-manager";

/// What the node controller needs, and leader election.
fn cloud_controller_role() -> TenantObject {
    let rules = json!([
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "update", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["update", "patch"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["cloud-controller-manager"],
            "verbs": ["get", "update", "patch"],
        },
    ]);
    object::<ClusterRole>("", CLOUD_CONTROLLER, &[], json!({"rules": rules}))
}

fn bind(name: &str, role: &str, subject: &Value) -> TenantObject {
    let mut subject = subject.clone();
    subject["apiGroup"] = GROUP.into();
    let fields = json!({"roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}, "subjects": [subject]});
    object::<ClusterRoleBinding>("", name, &[], fields)
}
