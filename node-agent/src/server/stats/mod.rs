//! `/stats/summary` and `/metrics/resource`: what the tenant's pods use, from the runtime's own figures.
//!
//! A tenant sees the node as its share of it: the node's figures are the sum over its own pods, since what others use
//! is not its to know. `summary` builds the document; [`render`] writes its figures
//! for scrapers such as metrics-server.

mod summary;

use super::pods;
use crate::cri::{Cri, CriError, labels, v1};
use crate::tenant::Tenant;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use summary::{Summary, Usage};

/// `/stats/summary`.
pub(super) async fn summary(State(cri): State<Arc<dyn Cri>>, Extension(tenant): Extension<Arc<Tenant>>) -> Response {
    match measure(&*cri, &tenant).await {
        Ok(summary) => Json(summary).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// `/metrics/resource`. A scrape that could not measure reports that as a metric, as a kubelet's does.
pub(super) async fn resource_metrics(State(cri): State<Arc<dyn Cri>>, Extension(tenant): Extension<Arc<Tenant>>) -> Response {
    let summary = match measure(&*cri, &tenant).await {
        Ok(summary) => Some(summary),
        Err(error) => {
            tracing::warn!(tenant = %tenant.spec.uid, error = &error as &dyn std::error::Error, "container runtime gave no stats");
            None
        }
    };
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(summary.as_ref())).into_response()
}

async fn measure(cri: &dyn Cri, tenant: &Tenant) -> Result<Summary, CriError> {
    let of_tenant = HashMap::from([(nestling_crds::labels::TENANT.to_owned(), tenant.spec.uid.to_string())]);
    let stats = cri.pod_sandbox_stats(v1::PodSandboxStatsFilter { label_selector: of_tenant, ..Default::default() }).await?;
    let mut stats_of: HashMap<String, v1::PodSandboxStats> = HashMap::new();
    for stats in stats {
        if let Some(uid) = stats.attributes.as_ref().and_then(|attributes| attributes.labels.get(labels::POD_UID)) {
            stats_of.insert(uid.clone(), stats);
        }
    }
    let measured: Vec<(Arc<Pod>, v1::PodSandboxStats)> = tenant
        .stores
        .tenant
        .state()
        .into_iter()
        .filter_map(|pod| {
            let host = pods::host_pod(tenant, &pod)?;
            let stats = stats_of.remove(host.metadata.uid.as_deref()?)?;
            Some((pod, stats))
        })
        .collect();
    Ok(Summary::new(tenant.node.as_str(), &measured))
}

const NANO: f64 = 1e9;

/// One metric's samples: labels, value, and the time it was taken where that is known.
type Samples = Vec<(String, f64, Option<Timestamp>)>;

/// The summary in Prometheus' text form, under the names of a kubelet's `/metrics/resource`. Written by hand because each
/// figure carries the time at which the runtime took it. Without a summary only the two error metrics are written.
fn render(summary: Option<&Summary>) -> String {
    let mut text = String::new();
    if let Some(summary) = summary {
        let node = &summary.node;
        let mut containers = Families::default();
        let mut pods = Families::default();
        for pod in &summary.pods {
            let of_pod = labels(&[("namespace", &pod.pod_ref.namespace), ("pod", &pod.pod_ref.name)]);
            pods.add(&of_pod, pod.cpu.as_ref(), pod.memory.as_ref(), None, None);
            for container in &pod.containers {
                let names = [("container", &container.name), ("namespace", &pod.pod_ref.namespace), ("pod", &pod.pod_ref.name)];
                let (cpu, memory, swap) = (container.cpu.as_ref(), container.memory.as_ref(), container.swap.as_ref());
                containers.add(&labels(&names), cpu, memory, swap, container.start_time);
            }
        }
        let mut of_node = Families::default();
        of_node.add("", node.cpu.as_ref(), node.memory.as_ref(), None, None);

        let (cpu, memory) = ("Cumulative cpu time consumed by the", "Current working set of the");
        let family = &mut |name: &str, help: &str, kind: &str, samples: &Samples| write_family(&mut text, name, help, kind, samples);
        family("container_cpu_usage_seconds_total", &format!("{cpu} container in core-seconds"), "counter", &containers.cpu);
        family("container_memory_working_set_bytes", &format!("{memory} container in bytes"), "gauge", &containers.memory);
        family("container_start_time_seconds", "Start time of the container since unix epoch in seconds", "gauge", &containers.start);
        family("container_swap_usage_bytes", "Current amount of the container swap usage in bytes", "gauge", &containers.swap);
        family("node_cpu_usage_seconds_total", &format!("{cpu} node in core-seconds"), "counter", &of_node.cpu);
        family("node_memory_working_set_bytes", &format!("{memory} node in bytes"), "gauge", &of_node.memory);
        family("pod_cpu_usage_seconds_total", &format!("{cpu} pod in core-seconds"), "counter", &pods.cpu);
        family("pod_memory_working_set_bytes", &format!("{memory} pod in bytes"), "gauge", &pods.memory);
    }
    let failed = vec![(String::new(), if summary.is_some() { 0.0 } else { 1.0 }, None)];
    for name in ["resource_scrape_error", "scrape_error"] {
        write_family(&mut text, name, "1 if there was an error while getting container metrics, 0 otherwise", "gauge", &failed);
    }
    text
}

#[derive(Default)]
struct Families {
    cpu: Samples,
    memory: Samples,
    swap: Samples,
    start: Samples,
}

impl Families {
    fn add(&mut self, labels: &str, cpu: Option<&Usage>, memory: Option<&Usage>, swap: Option<&Usage>, start: Option<Timestamp>) {
        let sample = |usage: Option<&Usage>, name: &str, unit: f64| {
            let usage = usage?;
            Some((labels.to_owned(), float(*usage.figures.get(name)?) / unit, Some(usage.time)))
        };
        self.cpu.extend(sample(cpu, "usageCoreNanoSeconds", NANO));
        self.memory.extend(sample(memory, "workingSetBytes", 1.0));
        self.swap.extend(sample(swap, "swapUsageBytes", 1.0));
        if let Some(start) = start {
            self.start.push((labels.to_owned(), start.as_duration().as_secs_f64(), None));
        }
    }
}

#[allow(clippy::cast_precision_loss)] // the text form holds floats; 2^53 bytes or nanoseconds lose less than is measured
fn float(value: u64) -> f64 {
    value as f64
}

fn labels(pairs: &[(&str, &String)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn write_family(text: &mut String, name: &str, help: &str, kind: &str, samples: &Samples) {
    if samples.is_empty() {
        return;
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value, at) in samples {
        let at = at.map(|at| format!(" {}", at.as_millisecond())).unwrap_or_default();
        let _ = writeln!(text, "{name}{labels} {value}{at}");
    }
}
