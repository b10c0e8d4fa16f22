//! Two tenants with the same ranges, namespaces and names do not see each other.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{AGNHOST, Namespace, Tenant, eventually, hold};
use std::time::Duration;

const SPEC: &str = "{etcd: {storage: {medium: Memory}}, network: {serviceCIDRs: [10.66.0.0/20]}}";

fn web(tenant: &Tenant) -> Result<Namespace> {
    let ns = tenant.namespace("same")?;
    ns.apply(&format!(
        "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: web}}, spec: {{selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{AGNHOST}', args: [netexec], env: [{{name: OWNER, value: {}}}]}}]}}}}}}}}",
        tenant.name()
    ))?;
    ns.apply("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.66.0.99, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}")?;
    ns.rolled_out("daemonset/web")?;
    Ok(ns)
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn equal_tenants_do_not_see_each_other() -> Result<()> {
    let tenants = [Tenant::create("twin-a", SPEC)?, Tenant::create("twin-b", SPEC)?];
    let spaces = [web(&tenants[0])?, web(&tenants[1])?];
    for (tenant, ns) in tenants.iter().zip(&spaces) {
        let own = ns.names(&["pods", "-l", "app=web"])?;
        for from in &own {
            let path =
                format!("/api/v1/namespaces/same/pods/{from}:8080/proxy/dial?request=hostname&protocol=http&host=web&port=80&tries=12");
            eventually("the service answers", Duration::from_secs(30), || {
                let raw = ns.run(&["get", "--raw", &path])?;
                ensure!(raw.contains("responses") && !raw.contains("errors"), "{raw}");
                Ok(())
            })?;
            let reply: serde_json::Value = serde_json::from_str(&ns.run(&["get", "--raw", &path])?)?;
            for answer in reply["responses"].as_array().into_iter().flatten() {
                ensure!(
                    own.iter().any(|pod| answer == pod.as_str()),
                    "{} was answered by {answer}, its own pods are {own:?}",
                    tenant.name()
                );
            }
        }
    }
    // Deleting in one leaves the other alone.
    spaces[0].run(&["delete", "daemonset", "web", "--timeout=60s"])?;
    hold("the twin's pods run", Duration::from_secs(5), || {
        ensure!(spaces[1].names(&["pods", "-l", "app=web", "--field-selector=status.phase=Running"])?.len() > 1);
        Ok(())
    })?;
    // Credentials of one tenant mean nothing in the other.
    let mut stranger = spaces[1].command(&["get", "pods", "--server", &server_of(&tenants[0])?, "--insecure-skip-tls-verify=true"]);
    let refused = nestling_e2e::suite::run(&mut stranger, None, Duration::from_secs(30))?;
    ensure!(!refused.status.success(), "twin-b's admin can read twin-a");
    Ok(())
}

fn server_of(tenant: &Tenant) -> Result<String> {
    tenant.host().field(&format!("virtualcluster/{}", tenant.name()), ".status.endpoint")
}
