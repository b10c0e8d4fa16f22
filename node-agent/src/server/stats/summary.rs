//! The summary document (`stats/v1alpha1`), made of the runtime's figures. Pure.
//!
//! Left out are the figures that the runtime interface does not carry: volumes, logs and the node's file systems.

use crate::cri::v1;
use crate::server::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use std::collections::BTreeMap;
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
    pub(super) cpu: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Usage>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStats {
    pub(super) pod_ref: PodReference,
    pub(super) start_time: Option<Timestamp>,
    pub(super) containers: Vec<ContainerStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<Network>,
    #[serde(rename = "process_stats", skip_serializing_if = "Option::is_none")]
    pub(super) process_stats: Option<Figures>,
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
    pub(super) cpu: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap: Option<Usage>,
}

/// Figures of one kind under their names in the document, those that the runtime has.
pub(super) type Figures = BTreeMap<&'static str, u64>;

/// Figures, and when the runtime took them. Memory is in bytes and its faults in pages; the processor's figures are
/// nanoseconds of one core's time, in all and per second lately.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Usage {
    pub(super) time: Timestamp,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Network {
    pub(super) time: Timestamp,
    #[serde(flatten)]
    pub(super) default: Interface,
    pub(super) interfaces: Vec<Interface>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Interface {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

impl Summary {
    /// `measured`: the tenant's pods with their sandboxes' figures.
    pub(super) fn new<P: Deref<Target = Pod>>(node: &str, measured: &[(P, v1::PodSandboxStats)]) -> Self {
        let mut pods: Vec<PodStats> = measured.iter().map(|(pod, stats)| PodStats::new(pod, stats)).collect();
        pods.sort_by(|a, b| (&a.pod_ref.namespace, &a.pod_ref.name).cmp(&(&b.pod_ref.namespace, &b.pod_ref.name)));
        let node = NodeStats {
            node_name: node.to_owned(),
            start_time: pods.iter().filter_map(|pod| pod.start_time).min(),
            cpu: sum(pods.iter().filter_map(|pod| pod.cpu.as_ref())),
            memory: sum(pods.iter().filter_map(|pod| pod.memory.as_ref())),
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
                .map(|process| figures([("process_count", process.process_count.as_ref())])),
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
            swap: stats.swap.as_ref().map(swap),
        })
    }
}

/// `nanoseconds` since 1970, as the runtime counts time.
fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn figures<const N: usize>(all: [(&'static str, Option<&v1::UInt64Value>); N]) -> Figures {
    all.into_iter().filter_map(|(name, value)| Some((name, value?.value))).collect()
}

fn cpu(cpu: &v1::CpuUsage) -> Usage {
    let figures =
        figures([("usageNanoCores", cpu.usage_nano_cores.as_ref()), ("usageCoreNanoSeconds", cpu.usage_core_nano_seconds.as_ref())]);
    Usage { time: time(cpu.timestamp), figures }
}

/// What is available to one pod says nothing of the node, so this figure is left out of a sum.
const AVAILABLE_BYTES: &str = "availableBytes";

fn memory(memory: &v1::MemoryUsage) -> Usage {
    let figures = figures([
        (AVAILABLE_BYTES, memory.available_bytes.as_ref()),
        ("usageBytes", memory.usage_bytes.as_ref()),
        ("workingSetBytes", memory.working_set_bytes.as_ref()),
        ("rssBytes", memory.rss_bytes.as_ref()),
        ("pageFaults", memory.page_faults.as_ref()),
        ("majorPageFaults", memory.major_page_faults.as_ref()),
    ]);
    Usage { time: time(memory.timestamp), figures }
}

fn swap(swap: &v1::SwapUsage) -> Usage {
    let figures = figures([("swapAvailableBytes", swap.swap_available_bytes.as_ref()), ("swapUsageBytes", swap.swap_usage_bytes.as_ref())]);
    Usage { time: time(swap.timestamp), figures }
}

fn network(network: &v1::NetworkUsage) -> Network {
    let interface = |interface: &v1::NetworkInterfaceUsage| Interface {
        name: interface.name.clone(),
        figures: figures([
            ("rxBytes", interface.rx_bytes.as_ref()),
            ("rxErrors", interface.rx_errors.as_ref()),
            ("txBytes", interface.tx_bytes.as_ref()),
            ("txErrors", interface.tx_errors.as_ref()),
        ]),
    };
    Network {
        time: time(network.timestamp),
        default: network.default_interface.as_ref().map(interface).unwrap_or_default(),
        interfaces: network.interfaces.iter().map(interface).collect(),
    }
}

/// The sums of the figures that are there, with the newest time; None without parts.
fn sum<'a>(parts: impl Iterator<Item = &'a Usage>) -> Option<Usage> {
    parts.fold(None, |sum: Option<Usage>, part| {
        let mut sum = sum.unwrap_or_else(|| Usage { time: part.time, figures: Figures::new() });
        sum.time = sum.time.max(part.time);
        for (name, value) in part.figures.iter().filter(|(name, _)| **name != AVAILABLE_BYTES) {
            let total = sum.figures.entry(*name).or_default();
            *total = total.saturating_add(*value);
        }
        Some(sum)
    })
}
