//! `kubectl nestling describe`: the spec, status and events of a tenant cluster as text.

use crate::events::{self, ClusterEvent};
use crate::host::{Host, HostArgs};
use crate::table;
use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt;
use nestling_crds::v1alpha1::{Expose, NodeSelector, Topology, VirtualCluster, VirtualClusterSpec, VirtualClusterStatus};

const NONE: &str = "<none>";

#[derive(Args)]
pub(crate) struct DescribeArgs {
    /// Name of the VirtualCluster
    name: String,
}

pub(crate) async fn run(host: &HostArgs, args: &DescribeArgs) -> Result<()> {
    let host = Host::connect(host).await?;
    let cluster = host.virtual_cluster(&args.name).await?;
    // Someone who may not read events still gets the rest.
    let events = events::of(&host, &cluster).await;
    print!("{}", describe(&cluster, events.as_deref().map_err(|error| format!("{error:#}")), Timestamp::now()));
    Ok(())
}

/// The text, in the manner of `kubectl describe`. `events` is an error if they cannot be read.
fn describe(cluster: &VirtualCluster, events: Result<&[ClusterEvent], String>, now: Timestamp) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let events = match events {
        Ok(events) => section("Events", &event_rows(events, now)),
        Err(error) => format!("Events:  <unknown> ({error})\n"),
    };
    [
        table::render("", &summary(cluster, &status, now)),
        section("Conditions", &conditions(&status, now)),
        section("Components", &components(&status)),
        section("Etcd Members", &members(&status)),
        events,
    ]
    .concat()
}

fn summary(cluster: &VirtualCluster, status: &VirtualClusterStatus, now: Timestamp) -> Vec<Vec<String>> {
    let VirtualClusterSpec {
        version,
        topology,
        control_plane,
        etcd,
        network,
        expose,
        nodes,
        addons,
        images: _,
        isolation,
        kubeconfig: _,
        paused,
        hibernate,
        hibernated_pods,
        deletion_policy,
    } = &cluster.spec;
    let created = cluster.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let kubeconfig = status.kubeconfig_ref.as_ref().map(|reference| format!("Secret {} (key {})", reference.name, reference.key));
    let storage = match etcd.storage.medium {
        Some(medium) => format!("{medium:?}, at most {}", etcd.storage.size().0),
        None => {
            format!("{} of {}", etcd.storage.size().0, etcd.storage.storage_class_name.as_deref().unwrap_or("the default StorageClass"))
        }
    };
    let mut rows = vec![
        ("Name", cluster.name_any()),
        ("Namespace", cluster.namespace().unwrap_or_default()),
        ("Created", created.map_or_else(|| NONE.to_owned(), |time| format!("{time} ({} ago)", table::age(created, now)))),
        ("Phase", status.phase.map_or_else(|| NONE.to_owned(), |phase| format!("{phase:?}"))),
        ("Version", version_text(status.version.as_deref(), version.as_deref())),
        ("Topology", format!("{topology:?}")),
        ("Replicas", control_plane.replicas.to_string()),
        ("Endpoint", status.endpoint.clone().unwrap_or_else(|| NONE.to_owned())),
        ("Exposed As", exposed(expose)),
        ("Kubeconfig", kubeconfig.unwrap_or_else(|| NONE.to_owned())),
        ("Nodes", format!("{} ready of {}, on host nodes with {}", status.nodes.ready, status.nodes.total, labels(&nodes.selector))),
        ("Workload Namespace", status.workload_namespace.clone().unwrap_or_else(|| NONE.to_owned())),
        ("Service CIDRs", first_of([&status.service_cidrs, &network.service_cidrs])),
        ("CoreDNS", format!("{:?}", addons.core_dns.mode)),
        ("Cluster Domain", network.cluster_domain.clone()),
        ("Pod Security", format!("{:?}", isolation.pod_security).to_lowercase()),
        ("Network Policy", isolation.network_policy.to_string()),
        ("Etcd Storage", storage),
        ("Deletion Policy", format!("{deletion_policy:?}")),
    ];
    if *topology == Topology::External {
        rows.push(("Etcd Replicas", etcd.replicas.unwrap_or(1).to_string()));
    }
    if *paused {
        rows.push(("Paused", "true (changes of the spec are not carried out)".to_owned()));
    }
    if *hibernate {
        rows.push(("Hibernate", format!("true ({hibernated_pods:?} pods)")));
    }
    rows.into_iter().map(|(name, value)| vec![format!("{name}:"), value]).collect()
}

fn exposed(expose: &Expose) -> String {
    if expose.hostname.is_empty() { format!("{:?}", expose.type_) } else { format!("{:?}, {}", expose.type_, expose.hostname) }
}

fn version_text(running: Option<&str>, asked: Option<&str>) -> String {
    match (running, asked) {
        (Some(running), Some(asked)) if !running.starts_with(asked) => format!("{running} (asked for {asked})"),
        (Some(running), _) => running.to_owned(),
        (None, Some(asked)) => format!("{NONE} (asked for {asked})"),
        (None, None) => NONE.to_owned(),
    }
}

fn labels(selector: &NodeSelector) -> String {
    if selector.is_empty() { "any labels".to_owned() } else { selector.to_string() }
}

/// The first list that is not empty.
fn first_of(lists: [&Vec<String>; 2]) -> String {
    lists.into_iter().find(|list| !list.is_empty()).map_or_else(|| NONE.to_owned(), |list| list.join(", "))
}

fn conditions(status: &VirtualClusterStatus, now: Timestamp) -> Vec<Vec<String>> {
    let head =
        vec![table::row(["Type", "Status", "Since", "Reason", "Message"]), table::row(["----", "------", "-----", "------", "-------"])];
    let rows = status.conditions.iter().map(|condition| {
        let since = table::age(Some(condition.last_transition_time.0), now);
        table::row([&condition.type_, &condition.status, &since, &condition.reason, &condition.message])
    });
    with_head(head, rows)
}

fn components(status: &VirtualClusterStatus) -> Vec<Vec<String>> {
    let head = vec![table::row(["Name", "Version", "Ready", "Up To Date"]), table::row(["----", "-------", "-----", "----------"])];
    let rows = status.components.iter().map(|part| {
        let ready = format!("{}/{}", part.ready_replicas, part.replicas);
        table::row([&part.name, &part.version, &ready, &part.updated_replicas.to_string()])
    });
    with_head(head, rows)
}

fn members(status: &VirtualClusterStatus) -> Vec<Vec<String>> {
    let head = vec![table::row(["Name", "Ready"]), table::row(["----", "-----"])];
    with_head(head, status.etcd.members.iter().map(|member| table::row([&member.name, &member.ready.to_string()])))
}

fn event_rows(events: &[ClusterEvent], now: Timestamp) -> Vec<Vec<String>> {
    let head = vec![table::row(["Type", "Reason", "Age", "From", "Message"]), table::row(["----", "------", "---", "----", "-------"])];
    let rows = events.iter().map(|event| {
        let age = table::age(event.last, now);
        let age = if event.count > 1 { format!("{age} (x{})", event.count) } else { age };
        table::row([&event.kind, &event.reason, &age, &event.source, event.message.trim()])
    });
    with_head(head, rows)
}

fn with_head(head: Vec<Vec<String>>, rows: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() { rows } else { head.into_iter().chain(rows).collect() }
}

fn section(name: &str, rows: &[Vec<String>]) -> String {
    if rows.is_empty() { format!("{name}:  {NONE}\n") } else { format!("{name}:\n{}", table::render("  ", rows)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cluster(spec: &Value, status: &Value) -> VirtualCluster {
        let object = json!({
            "apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster",
            "metadata": {"name": "dev", "namespace": "team-a", "creationTimestamp": "2026-11-23T06:00:00Z"},
            "spec": spec, "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_running_cluster() {
        let status = json!({
            "phase": "Ready", "version": "v1.37.2", "endpoint": "https://10.96.3.7:443", "workloadNamespace": "team-a-dev-abc",
            "serviceCIDRs": ["10.128.0.0/20"], "kubeconfigRef": {"name": "dev-admin-kubeconfig", "key": "kubeconfig"}, "nodes": {"ready": 3, "total": 3},
            "conditions": [
                {"type": "EtcdReady", "status": "True", "reason": "Ready", "message": "1 of 1 members", "lastTransitionTime": "2026-11-23T06:00:03Z"},
                {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-11-23T06:00:06Z"},
            ],
            "components": [{"name": "kube-apiserver", "version": "v1.37.2", "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}],
            "etcd": {"members": [{"name": "dev-control-plane-0", "ready": true}]},
        });
        let events = [ClusterEvent {
            kind: "Normal".into(),
            reason: "Ready".into(),
            source: "nestling-operator".into(),
            message: "the cluster is ready".into(),
            count: 2,
            last: Some("2026-11-23T06:00:06Z".parse().unwrap()),
        }];
        let now = "2026-11-23T06:05:00Z".parse().unwrap();
        insta::assert_snapshot!(describe(
            &cluster(&json!({"version": "v1.37", "nodes": {"selector": {"matchLabels": {"pool": "a"}}}}), &status),
            Ok(&events),
            now
        ));
    }

    #[test]
    fn a_cluster_without_a_status() {
        let now = "2026-11-23T06:00:01Z".parse().unwrap();
        let spec = json!({"topology": "External", "paused": true, "etcd": {"storage": {"medium": "Memory"}}});
        insta::assert_snapshot!(describe(&cluster(&spec, &json!({})), Err("cannot list events: forbidden".into()), now));
    }
}
