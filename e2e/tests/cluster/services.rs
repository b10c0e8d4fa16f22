//! Services and names, from any pod on any node.

use anyhow::{Context, Result, ensure};
use nestling_e2e::suite::{AGNHOST, Namespace, eventually, shared};
use std::collections::BTreeSet;
use std::time::Duration;

/// An agnhost on every node, answering on TCP and UDP 8080 behind Service `web`; the pods' names.
fn pod_on_every_node(ns: &Namespace) -> Result<Vec<String>> {
    ns.apply(&format!(
        "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: web}}, spec: {{selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{AGNHOST}', args: [netexec, --http-port=8080, --udp-port=8080], readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}}}]}}}}}}}}"
    ))?;
    ns.apply("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080, protocol: TCP}, {name: udp, port: 90, targetPort: 8080, protocol: UDP}]}}")?;
    ns.rolled_out("daemonset/web")?;
    ns.names(&["pods", "-l", "app=web"])
}

/// Makes the agnhost in pod `from` dial, and returns its report of all tries. The request goes through the apiserver's pod proxy.
fn dial(ns: &Namespace, from: &str, host: &str, port: u16, protocol: &str) -> Result<String> {
    ns.run(&[
        "get",
        "--raw",
        &format!(
            "/api/v1/namespaces/{}/pods/{from}:8080/proxy/dial?request=hostname&protocol={protocol}&host={host}&port={port}&tries=12",
            ns.name()
        ),
    ])
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn service_names_resolve_and_answer_from_every_node() -> Result<()> {
    let tenant = shared()?;
    let ns = tenant.namespace("services")?;
    let pods = pod_on_every_node(&ns)?;
    ensure!(pods.len() == tenant.kubectl().names(&["nodes"])?.len());
    let full = format!("web.{}.svc.cluster.local", ns.name());
    for from in &pods {
        for name in ["web", &format!("web.{}", ns.name()), &full] {
            for (protocol, port) in [("http", 80), ("udp", 90)] {
                let answers: BTreeSet<String> = eventually(&format!("{protocol} {name} answers {from}"), Duration::from_secs(30), || {
                    let raw = dial(&ns, from, name, port, protocol)?;
                    let reply: serde_json::Value = serde_json::from_str(&raw).with_context(|| raw.clone())?;
                    ensure!(reply["errors"].is_null(), "{raw}");
                    Ok(reply["responses"].as_array().into_iter().flatten().filter_map(|r| r.as_str().map(str::to_owned)).collect())
                })?;
                ensure!(
                    answers.is_subset(&pods.iter().cloned().collect()) && answers.len() > 1,
                    "{from} reached {answers:?} through {protocol} {name}"
                );
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_service_without_endpoints_refuses_and_heals() -> Result<()> {
    let ns = shared()?.namespace("no-endpoints")?;
    ns.run(&["run", "client", "--image", AGNHOST, "--command", "--", "/agnhost", "netexec"])?;
    ns.run(&["create", "service", "clusterip", "web", "--tcp=80:8080"])?;
    ns.wait_for("pod/client", "condition=Ready", 60)?;
    eventually("the connection is refused", Duration::from_secs(20), || {
        let refused = ns.output(&["exec", "client", "--", "/agnhost", "connect", "--timeout=3s", "web:80"])?;
        ensure!(!refused.status.success() && (refused.stderr.contains("REFUSED") || refused.stdout.contains("REFUSED")), "{refused:?}");
        Ok(())
    })?;
    ns.run(&["run", "web", "--image", AGNHOST, "-l", "app=web", "--command", "--", "/agnhost", "netexec"])?;
    eventually("the service answers", Duration::from_secs(60), || {
        ns.run(&["exec", "client", "--", "/agnhost", "connect", "--timeout=3s", "web:80"])
    })
    .map(drop)
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn pods_reach_the_api_with_their_service_account() -> Result<()> {
    let ns = shared()?.namespace("in-cluster")?;
    ns.run(&["run", "client", "--image", AGNHOST, "--command", "--", "/agnhost", "inclusterclient", "--poll-interval=1"])?;
    ns.wait_for("pod/client", "condition=Ready", 60)?;
    eventually("the API answers the pod", Duration::from_secs(30), || {
        let text = ns.run(&["logs", "client"])?;
        ensure!(text.contains("/healthz") && !text.contains("err:"), "{text}");
        Ok(())
    })
}
