//! A summary's figures in Prometheus' text form, under the names of a kubelet's `/metrics/resource`. Pure.
//!
//! Written by hand because these are figures of others, each with the time at which the runtime took it.

use super::summary::{Cpu, Memory, Summary, Swap};
use jiff::Timestamp;
use std::fmt::Write;

const NANO: f64 = 1e9;

/// One metric's samples: labels, value, and the time it was taken where that is known.
type Samples = Vec<(String, f64, Option<Timestamp>)>;

/// None: the figures could not be had, which the last two metrics say.
pub fn render(summary: Option<&Summary>) -> String {
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
    fn add(&mut self, labels: &str, cpu: Option<&Cpu>, memory: Option<&Memory>, swap: Option<&Swap>, start: Option<Timestamp>) {
        if let Some((used, at)) = cpu.and_then(|cpu| Some((cpu.usage_core_nano_seconds?, cpu.time))) {
            self.cpu.push((labels.to_owned(), float(used) / NANO, Some(at)));
        }
        if let Some((used, at)) = memory.and_then(|memory| Some((memory.working_set_bytes?, memory.time))) {
            self.memory.push((labels.to_owned(), float(used), Some(at)));
        }
        if let Some((used, at)) = swap.and_then(|swap| Some((swap.swap_usage_bytes?, swap.time))) {
            self.swap.push((labels.to_owned(), float(used), Some(at)));
        }
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
