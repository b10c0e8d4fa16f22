//! Pod starts, host and tenant in turn.

use crate::figures::Sample;
use crate::suite::{AGNHOST, Kubectl, Namespace, Tenant, eventually};
use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

/// `rounds` single pods on each side, one after another.
pub(super) fn single(tenant: &Tenant, rounds: usize) -> Result<(Sample, Sample)> {
    let spaces = [Namespace::create(&Kubectl::host(), "bench-pods")?, tenant.namespace("bench-pods")?];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut samples = [Sample::default(), Sample::default()];
    runtime.block_on(async {
        let apis = [pods_api(&spaces[0]).await?, pods_api(&spaces[1]).await?];
        for round in 0..=rounds {
            for (api, sample) in apis.iter().zip(&mut samples) {
                let took = start_one(api, &format!("pod-{round}")).await?;
                // The first round warms connections and image layers on both sides.
                if round > 0 {
                    sample.push(took);
                }
            }
        }
        anyhow::Ok(())
    })?;
    Ok(samples.into())
}

pub(crate) async fn client(ns: &Namespace) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(ns.kubeconfig())?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?)
}

async fn pods_api(ns: &Namespace) -> Result<Api<Pod>> {
    Ok(Api::namespaced(client(ns).await?, ns.name()))
}

async fn start_one(api: &Api<Pod>, name: &str) -> Result<Duration> {
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": AGNHOST, "args": ["pause"]}]},
    }))?;
    let watch = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = api.watch(&watch, "0").await?.boxed();
    let begun = Instant::now();
    api.create(&PostParams::default(), &pod).await?;
    let ready = async {
        while let Some(event) = events.next().await {
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event?
                && is_ready(&pod)
            {
                return Ok(());
            }
        }
        anyhow::bail!("the watch ended before {name} was ready")
    };
    tokio::time::timeout(DEADLINE, ready).await.with_context(|| format!("{name} is not ready after {DEADLINE:?}"))??;
    let took = begun.elapsed();
    api.delete(name, &DeleteParams::default().grace_period(0)).await?;
    Ok(took)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A Deployment of `size` pods, until all are Ready; `rounds` times on each side.
pub(super) fn burst(tenant: &Tenant, size: usize, rounds: usize) -> Result<(Sample, Sample)> {
    let spaces = [Namespace::create(&Kubectl::host(), "bench-burst")?, tenant.namespace("bench-burst")?];
    let mut samples = [Sample::default(), Sample::default()];
    for ns in &spaces {
        ns.apply(&format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: many}}, spec: {{replicas: 0, selector: {{matchLabels: {{app: many}}}}, template: {{metadata: {{labels: {{app: many}}}}, spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{AGNHOST}', args: [pause]}}]}}}}}}}}"
        ))?;
    }
    for _ in 0..rounds {
        for (ns, sample) in spaces.iter().zip(&mut samples) {
            let begun = Instant::now();
            ns.run(&["scale", "deployment/many", &format!("--replicas={size}")])?;
            ns.run(&["wait", "deployment/many", &format!("--for=jsonpath={{.status.readyReplicas}}={size}"), "--timeout=110s"])?;
            sample.push(begun.elapsed());
            ns.run(&["scale", "deployment/many", "--replicas=0"])?;
            eventually("the pods are gone", Duration::from_secs(120), || {
                ensure!(ns.names(&["pods"])?.is_empty());
                Ok(())
            })?;
        }
    }
    Ok(samples.into())
}
