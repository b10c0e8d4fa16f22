//! What the node agent may do on the host.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{Kubectl, shared};
use serde_json::Value;

const AGENT: &str = "--as=system:serviceaccount:nestling-system:nestling-agent";

fn may(verb: &str, resource: &str, extra: &[&str]) -> Result<bool> {
    // kubectl reads `nodes/proxy` as the node named proxy.
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let subresource = format!("--subresource={subresource}");
    let answer = Kubectl::host().output(&[&["auth", "can-i", verb, resource, &subresource, AGENT], extra].concat())?;
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
        nestling_e2e::suite::run(&mut workload.command(&args), Some(&pod(node)), std::time::Duration::from_secs(30))
    };
    let other = attempt("node-2")?;
    ensure!(!other.status.success() && other.stderr.contains("ValidatingAdmissionPolicy"), "{other:?}");
    attempt("node-1")?.ok("an object for its own node").map(drop)
}
