//! The summary document (`stats/v1alpha1`), made of the runtime's figures. Pure.
//!
//! Left out are the figures that the runtime interface does not carry: volumes, logs and the node's file systems.

use crate::cri::v1;
use crate::server::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use std::ops::Deref;

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) node: NodeStats,
    pub(super) pods: Vec<PodStats>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeStats {
    pub(super) node_name: String,
    pub(super) start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Memory>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStats {
    pub(super) pod_ref: PodReference,
    pub(super) start_time: Option<Timestamp>,
    pub(super) containers: Vec<ContainerStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<Network>,
    #[serde(rename = "process_stats", skip_serializing_if = "Option::is_none")]
    pub(super) process_stats: Option<Processes>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct PodReference {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerStats {
    pub(super) name: String,
    pub(super) start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap: Option<Swap>,
}

/// Use of the processor: nanoseconds of one core's time, in all and per second lately.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cpu {
    pub(super) time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage_nano_cores: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage_core_nano_seconds: Option<u64>,
}

/// In bytes, faults in pages.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Memory {
    pub(super) time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) working_set_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) page_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) major_page_faults: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Swap {
    pub(super) time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap_available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap_usage_bytes: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Network {
    pub(super) time: Timestamp,
    #[serde(flatten)]
    pub(super) default: Interface,
    pub(super) interfaces: Vec<Interface>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Interface {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rx_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tx_errors: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Processes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process_count: Option<u64>,
}

impl Summary {
    /// `measured`: the tenant's pods with their sandboxes' figures.
    pub(super) fn new<P: Deref<Target = Pod>>(node: &str, measured: &[(P, v1::PodSandboxStats)]) -> Self {
        let mut pods: Vec<PodStats> = measured.iter().map(|(pod, stats)| PodStats::new(pod, stats)).collect();
        pods.sort_by(|a, b| (&a.pod_ref.namespace, &a.pod_ref.name).cmp(&(&b.pod_ref.namespace, &b.pod_ref.name)));
        let node = NodeStats {
            node_name: node.to_owned(),
            start_time: pods.iter().filter_map(|pod| pod.start_time).min(),
            cpu: sum_cpu(pods.iter().filter_map(|pod| pod.cpu.as_ref())),
            memory: sum_memory(pods.iter().filter_map(|pod| pod.memory.as_ref())),
        };
        Self { node, pods }
    }
}

impl PodStats {
    fn new(pod: &Pod, stats: &v1::PodSandboxStats) -> Self {
        let linux = stats.linux.as_ref();
        let metadata = &pod.metadata;
        let containers = linux.map_or(&[][..], |linux| &linux.containers);
        Self {
            pod_ref: PodReference {
                name: metadata.name.clone().unwrap_or_default(),
                namespace: metadata.namespace.clone().unwrap_or_default(),
                uid: metadata.uid.clone().unwrap_or_default(),
            },
            start_time: pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            containers: containers.iter().filter_map(|container| ContainerStats::new(pod, container)).collect(),
            cpu: linux.and_then(|linux| linux.cpu.as_ref()).map(cpu),
            memory: linux.and_then(|linux| linux.memory.as_ref()).map(memory),
            network: linux.and_then(|linux| linux.network.as_ref()).map(network),
            process_stats: linux
                .and_then(|linux| linux.process.as_ref())
                .map(|process| Processes { process_count: value(process.process_count.as_ref()) }),
        }
    }
}

impl ContainerStats {
    /// None for a container that the pod does not name.
    fn new(pod: &Pod, stats: &v1::ContainerStats) -> Option<Self> {
        let name = &stats.attributes.as_ref()?.metadata.as_ref()?.name;
        pods::has_tty(pod, name)?;
        let running = pods::container_status(pod, name).and_then(|status| status.state.as_ref()?.running.as_ref()?.started_at.as_ref());
        Some(Self {
            name: name.clone(),
            start_time: running.map(|time| time.0),
            cpu: stats.cpu.as_ref().map(cpu),
            memory: stats.memory.as_ref().map(memory),
            swap: stats.swap.as_ref().map(|swap| Swap {
                time: time(swap.timestamp),
                swap_available_bytes: value(swap.swap_available_bytes.as_ref()),
                swap_usage_bytes: value(swap.swap_usage_bytes.as_ref()),
            }),
        })
    }
}

/// `nanoseconds` since 1970, as the runtime counts time.
fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn value(value: Option<&v1::UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}

fn cpu(cpu: &v1::CpuUsage) -> Cpu {
    Cpu {
        time: time(cpu.timestamp),
        usage_nano_cores: value(cpu.usage_nano_cores.as_ref()),
        usage_core_nano_seconds: value(cpu.usage_core_nano_seconds.as_ref()),
    }
}

fn memory(memory: &v1::MemoryUsage) -> Memory {
    Memory {
        time: time(memory.timestamp),
        available_bytes: value(memory.available_bytes.as_ref()),
        usage_bytes: value(memory.usage_bytes.as_ref()),
        working_set_bytes: value(memory.working_set_bytes.as_ref()),
        rss_bytes: value(memory.rss_bytes.as_ref()),
        page_faults: value(memory.page_faults.as_ref()),
        major_page_faults: value(memory.major_page_faults.as_ref()),
    }
}

fn network(network: &v1::NetworkUsage) -> Network {
    let interface = |interface: &v1::NetworkInterfaceUsage| Interface {
        name: interface.name.clone(),
        rx_bytes: value(interface.rx_bytes.as_ref()),
        rx_errors: value(interface.rx_errors.as_ref()),
        tx_bytes: value(interface.tx_bytes.as_ref()),
        tx_errors: value(interface.tx_errors.as_ref()),
    };
    Network {
        time: time(network.timestamp),
        default: network.default_interface.as_ref().map(interface).unwrap_or_default(),
        interfaces: network.interfaces.iter().map(interface).collect(),
    }
}

/// The sum of the figures that are there; None when none is.
fn sum<T>(parts: &[&T], figure: impl Fn(&T) -> Option<u64>) -> Option<u64> {
    parts.iter().filter_map(|part| figure(part)).reduce(u64::saturating_add)
}

fn sum_cpu<'a>(parts: impl Iterator<Item = &'a Cpu>) -> Option<Cpu> {
    let parts: Vec<&Cpu> = parts.collect();
    Some(Cpu {
        time: parts.iter().map(|part| part.time).max()?,
        usage_nano_cores: sum(&parts, |part| part.usage_nano_cores),
        usage_core_nano_seconds: sum(&parts, |part| part.usage_core_nano_seconds),
    })
}

/// What is available to one pod says nothing of the node, so that figure is left out.
fn sum_memory<'a>(parts: impl Iterator<Item = &'a Memory>) -> Option<Memory> {
    let parts: Vec<&Memory> = parts.collect();
    Some(Memory {
        time: parts.iter().map(|part| part.time).max()?,
        available_bytes: None,
        usage_bytes: sum(&parts, |part| part.usage_bytes),
        working_set_bytes: sum(&parts, |part| part.working_set_bytes),
        rss_bytes: sum(&parts, |part| part.rss_bytes),
        page_faults: sum(&parts, |part| part.page_faults),
        major_page_faults: sum(&parts, |part| part.major_page_faults),
    })
}
