//! Labels and annotations that Nestling puts on host objects, field managers and finalizers.

/// UID of the `VirtualCluster` that a host object belongs to.
pub const TENANT: &str = "nestling.dev/tenant";
/// Host node whose agent owns the object.
pub const NODE: &str = "nestling.dev/node";
/// UID of the tenant pod that a host pod realizes.
pub const POD_UID: &str = "nestling.dev/pod-uid";
/// Part of a tenant that a host object is: `control-plane`, `apiserver`, `etcd`, `controllers` or `workload`.
pub const COMPONENT: &str = "nestling.dev/component";
/// Kubernetes version that a control-plane pod, or the Deployment of such pods, was made for.
pub const VERSION: &str = "nestling.dev/version";
/// Name of the `VirtualCluster`.
pub const CLUSTER: &str = "nestling.dev/cluster";
/// The standard label that says which program manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Value of [`MANAGED_BY`] on objects of the operator, and its field manager.
pub const OPERATOR: &str = "nestling-operator";
/// Value of [`MANAGED_BY`] on objects of the node agent, and its field manager.
pub const AGENT: &str = "nestling-agent";
/// Field manager of the operator's status writes.
pub const OPERATOR_STATUS: &str = "nestling-operator-status";
/// Field manager of the cloud controller manager.
pub const CLOUD_CONTROLLER: &str = "nestling-cloud-controller";

/// Annotation: namespace of the tenant object that a host object stands for.
pub const TENANT_NAMESPACE: &str = "nestling.dev/tenant-namespace";
/// Annotation: name of the tenant object that a host object stands for.
pub const TENANT_NAME: &str = "nestling.dev/tenant-name";
/// Annotation: UID of the tenant object that a host object stands for.
pub const TENANT_OBJECT_UID: &str = "nestling.dev/tenant-object-uid";

/// Finalizer on a `VirtualCluster`: the workload namespace is still to be removed.
pub const FINALIZER: &str = "nestling.dev/cleanup";

/// Annotation of a workload namespace: UID of its `VirtualCluster`, should the label be lost.
pub const OWNER_UID: &str = "nestling.dev/owner-uid";
/// Label, `true`: data of a `VirtualCluster` that has been deleted with `deletionPolicy: Retain`. [`TENANT`] is its UID.
pub const RETAINED: &str = "nestling.dev/retained";
/// Annotation of a `VirtualCluster`, `true`: authorities and keys that are lost may be replaced although data exists that was
/// made with them.
pub const NEW_KEYS: &str = "nestling.dev/new-keys";
/// Annotation of retained Secrets: the service range of the cluster that they belonged to.
pub const SERVICE_RANGE: &str = "nestling.dev/service-range";
