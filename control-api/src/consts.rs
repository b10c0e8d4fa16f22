//! What the programs must agree on beyond the gRPC contract. The chart repeats the ports and the audience.

/// Port of the control API on its Service and pods.
pub const CONTROL_PORT: u16 = 8443;

/// Port of the kubelet API that node agents serve.
pub const KUBELET_PORT: u16 = 10350;

/// Namespace of the installation unless it is configured.
pub const SYSTEM_NAMESPACE: &str = "nestling-system";

/// Audience of the projected service-account tokens that callers of the control API present.
pub const TOKEN_AUDIENCE: &str = "nestling-control";

/// Where a caller's pod finds its token.
pub const TOKEN_PATH: &str = "/var/run/secrets/nestling/token";

/// Name of the ConfigMap with the installation's public certificate authorities, and of the Secret with their keys.
pub const INSTALLATION_CA: &str = "nestling-installation-ca";

/// Key in [`INSTALLATION_CA`]: PEM bundle that the control API's serving certificate chains to.
pub const CONTROL_CA: &str = "control-ca.crt";

/// Key in [`INSTALLATION_CA`]: PEM bundle that the agents' serving certificates chain to.
pub const NODE_SERVING_CA: &str = "node-serving-ca.crt";

/// Key in [`INSTALLATION_CA`]: PEM bundle that the client certificates of tenants' apiservers chain to.
pub const KUBELET_CLIENT_CA: &str = "kubelet-client-ca.crt";

/// Prefix of the URI in a certificate that names its tenant; the tenant's UID follows.
pub const TENANT_URI: &str = "nestling://tenants/";

/// DNS name of the control API's Service, which is also in its serving certificate.
pub fn control_host(namespace: &str) -> String {
    format!("nestling-control-api.{namespace}.svc")
}

/// URL of the control API of the installation in `namespace`.
pub fn control_url(namespace: &str) -> String {
    format!("https://{}:{CONTROL_PORT}", control_host(namespace))
}

/// `spec.providerID` of the tenant Node `name` where the host node has none.
pub fn provider_id(name: &str) -> String {
    format!("nestling://{name}")
}
