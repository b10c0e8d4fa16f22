//! What the node agent and the operator may do on the host.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{Kubectl, Namespace, eventually, shared};
use serde_json::Value;
use std::time::Duration;

const AGENT: &str = "--as=system:serviceaccount:nestling-system:nestling-agent";

fn may(verb: &str, resource: &str, extra: &[&str]) -> Result<bool> {
    may_as(AGENT, verb, resource, extra)
}

fn may_as(user: &str, verb: &str, resource: &str, extra: &[&str]) -> Result<bool> {
    // kubectl reads `nodes/proxy` as the node named proxy.
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let subresource = format!("--subresource={subresource}");
    let answer = Kubectl::host().output(&[&["auth", "can-i", verb, resource, &subresource, user], extra].concat())?;
    Ok(answer.stdout.trim() == "yes")
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn the_agent_has_no_cluster_wide_rights() -> Result<()> {
    for (verb, resource) in [
        ("get", "secrets"),
        ("list", "secrets"),
        ("get", "nodes/proxy"),
        ("create", "nodes/proxy"),
        ("list", "pods"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("update", "nodes"),
        ("create", "serviceaccounts/token"),
        ("impersonate", "users"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("get", "virtualclusters.nestling.dev"),
    ] {
        ensure!(!may(verb, resource, &["--all-namespaces"])?, "the agent may {verb} {resource} everywhere");
    }
    let tenant = shared()?;
    ensure!(!may("get", "secrets", &["-n", tenant.host().name()])?, "the agent may read the control plane's secrets");
    ensure!(!may("get", "secrets", &["-n", "nestling-system"])?, "the agent may read the installation's keys");
    let workload = tenant.workload_namespace()?;
    ensure!(may("create", "pods", &["-n", &workload])? && may("create", "secrets", &["-n", &workload])?);
    Ok(())
}

/// The complete list: a right that is added must be added here too, where a reviewer sees it.
#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn the_agents_cluster_wide_rights_are_these() -> Result<()> {
    let host = Kubectl::host();
    let mut granted = Vec::new();
    for kind in ["clusterrolebindings", "rolebindings"] {
        let bindings = host.json(&["get", kind, "-A"])?;
        for binding in bindings["items"].as_array().into_iter().flatten() {
            let ours = |s: &Value| s["kind"] == "ServiceAccount" && s["name"] == "nestling-agent" && s["namespace"] == "nestling-system";
            if binding["subjects"].as_array().into_iter().flatten().any(ours) {
                let (role, name) =
                    (binding["roleRef"]["kind"].as_str().unwrap_or_default(), binding["roleRef"]["name"].as_str().unwrap_or_default());
                let namespace = binding["metadata"]["namespace"].as_str();
                if namespace.is_some() && name == "nestling-agent-workload" {
                    continue;
                }
                let args = [role, name, "-n", namespace.unwrap_or("default")];
                let rules = host.json(&[&["get"], &args[..]].concat())?["rules"].clone();
                for rule in rules.as_array().into_iter().flatten() {
                    let text =
                        |key: &str| rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
                    granted.push(format!(
                        "{} {} {} [{}]",
                        namespace.unwrap_or("*"),
                        text("verbs"),
                        text("resources"),
                        text("resourceNames")
                    ));
                }
            }
        }
    }
    granted.sort();
    ensure!(
        granted == ["* get,list,watch nodes []", "nestling-system get configmaps [nestling-installation-ca]"],
        "the agent's rights are {granted:#?}"
    );
    Ok(())
}

/// What an agent writes is tied to its own node by an admission policy, even where RBAC would let it.
#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn an_agent_cannot_write_for_another_node() -> Result<()> {
    let workload = Kubectl::host().in_namespace(&shared()?.workload_namespace()?);
    let pod = |node: &str| {
        format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: probe-{node}, labels: {{nestling.dev/node: {node}}}}}}}")
    };
    let attempt = |node: &str| {
        let args = ["create", "--dry-run=server", "-f", "-", AGENT, "--as-user-extra=authentication.kubernetes.io/node-name=node-1"];
        nestling_e2e::suite::run(&mut workload.command(&args), Some(&pod(node)), Duration::from_secs(30))
    };
    let other = attempt("node-2")?;
    ensure!(!other.status.success() && other.stderr.contains("ValidatingAdmissionPolicy"), "{other:?}");
    attempt("node-1")?.ok("an object for its own node").map(drop)
}

const OPERATOR: &str = "--as=system:serviceaccount:nestling-system:nestling-operator";

/// Something that the operator's service account tries; nothing is stored.
fn operator_tries(namespace: &str, args: &[&str], manifest: &str) -> Result<nestling_e2e::suite::Finished> {
    let args = [args, &["--dry-run=server", OPERATOR]].concat();
    let mut command = Kubectl::host().in_namespace(namespace).command(&args);
    nestling_e2e::suite::run(&mut command, Some(manifest), Duration::from_secs(30))
}

fn refused(namespace: &str, args: &[&str], manifest: &str, reason: &str) -> Result<()> {
    let attempt = operator_tries(namespace, args, manifest)?;
    ensure!(!attempt.status.success() && attempt.stderr.contains(reason), "should be refused in {namespace}: {reason}\n{attempt:?}");
    Ok(())
}

/// A Deployment as the operator labels them.
fn deployment(account: &str) -> String {
    let pod = format!("serviceAccountName: {account}, automountServiceAccountToken: false");
    let container = "{name: c, image: i, securityContext: {allowPrivilegeEscalation: false}}";
    let labels = "nestling.dev/tenant: x, nestling.dev/cluster: dev, app.kubernetes.io/managed-by: nestling-operator";
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: forged, labels: {{{labels}}}}}, spec: {{selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {{{pod}, containers: [{container}]}}}}}}}}"
    )
}

/// With it, the operator would have its rights in a namespace.
fn binding(namespace: &str) -> String {
    let labels = "nestling.dev/tenant: x, nestling.dev/cluster: dev, app.kubernetes.io/managed-by: nestling-operator";
    let role = "{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nestling-operator-cluster}";
    let subject = "{kind: ServiceAccount, name: nestling-operator, namespace: nestling-system}";
    format!(
        "{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: forged, namespace: {namespace}, labels: {{{labels}}}}}, roleRef: {role}, subjects: [{subject}]}}"
    )
}

/// The operator is not the administrator of the host: what it may not write is refused, with the reason. Its policies are tried one by
/// one on a kube-apiserver without nodes (`control_plane_smoke`); here they are in force in an installed chart.
#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn the_operator_writes_for_tenants_only() -> Result<()> {
    let tenant = shared()?;
    let namespace = tenant.host().name();
    let create = ["create", "-f", "-"];
    operator_tries(namespace, &create, &deployment("default"))?.ok("a Deployment beside a VirtualCluster")?;
    refused("kube-system", &create, &deployment("default"), "cannot create resource \"deployments\"")?;
    // Without the label by which one policy selects it, so that the other alone judges it.
    let unlabelled = binding("kube-system").replace("app.kubernetes.io/managed-by: nestling-operator", "a: b");
    refused("kube-system", &create, &unlabelled, "may not write in namespace kube-system")?;
    refused("default", &create, &binding("default"), "namespace-needs-a-virtualcluster")?;
    refused(namespace, &create, &deployment("foreign"), "may not use service account foreign")?;
    let foreign = "{apiVersion: v1, kind: ConfigMap, metadata: {name: forged}}";
    refused(namespace, &create, foreign, "only objects with the label nestling.dev/tenant")?;
    let cluster = format!("virtualcluster/{}", tenant.name());
    let patch = ["patch", &cluster, "--type=merge", "-p", r#"{"spec": {"isolation": {"podSecurity": "privileged"}}}"#];
    refused(namespace, &patch, "", "may not create, change or delete VirtualClusters")
}

/// The rights come with a VirtualCluster and go with the last one of its namespace.
#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn the_operator_reads_secrets_beside_virtualclusters_only() -> Result<()> {
    let tenant = shared()?;
    ensure!(may_as(OPERATOR, "get", "secrets", &["-n", tenant.host().name()])?, "the operator may not read its own Secrets");
    for namespace in ["default", "kube-system", &tenant.workload_namespace()?] {
        for verb in ["get", "list", "watch", "create"] {
            ensure!(!may_as(OPERATOR, verb, "secrets", &["-n", namespace])?, "the operator may {verb} Secrets in {namespace}");
        }
    }
    let short_lived = Namespace::create(&Kubectl::host(), "rights")?;
    let manifest = nestling_e2e::suite::manifest("gone", "{etcd: {storage: {medium: Memory}}}");
    short_lived.apply(&manifest)?;
    let may_read = || may_as(OPERATOR, "get", "secrets", &["-n", short_lived.name()]);
    eventually("the operator gets its rights", Duration::from_secs(30), || {
        ensure!(may_read()?);
        Ok(())
    })?;
    // The right is revoked by hand: the operator takes it again.
    short_lived.run(&["delete", "rolebinding", "gone-operator"])?;
    eventually("the operator gets its rights again", Duration::from_secs(30), || {
        ensure!(may_read()?);
        Ok(())
    })?;
    // As Argo CD and others delete.
    short_lived.run(&["delete", "virtualcluster", "gone", "--cascade=foreground", "--timeout=110s"])?;
    eventually("the rights are gone", Duration::from_secs(30), || {
        ensure!(!may_read()?);
        Ok(())
    })
}

const CONTROL_API: &str = "--as=system:serviceaccount:nestling-system:nestling-control-api";

/// Agents and tenants reach the control API. Whoever takes it over can read tenants' authorities, and change nothing on the host.
#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn the_control_api_reads_what_it_serves_and_writes_nothing() -> Result<()> {
    let tenant = shared()?;
    let own = ["-n", tenant.host().name()];
    let ca = format!("{}-ca", tenant.name());
    let read = |name: &str| {
        let args = ["auth", "can-i", "get", &format!("secrets/{name}"), "-n", tenant.host().name(), CONTROL_API];
        Kubectl::host().output(&args).map(|answer| answer.stdout.trim() == "yes")
    };
    ensure!(read(&ca)? && !read("any-other")?);
    ensure!(!may_as(CONTROL_API, "list", "secrets", &own)? && !may_as(CONTROL_API, "watch", "secrets", &own)?);
    for resource in [
        "virtualclusters.nestling.dev",
        "secrets",
        "deployments.apps",
        "statefulsets.apps",
        "rolebindings.rbac.authorization.k8s.io",
        "pods",
    ] {
        for verb in ["create", "update", "patch", "delete"] {
            ensure!(!may_as(CONTROL_API, verb, resource, &own)?, "the control API may {verb} {resource}");
        }
    }
    Ok(())
}
