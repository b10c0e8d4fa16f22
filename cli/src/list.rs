//! `kubectl nestling list`.

use crate::{
    host::{Host, HostArgs, NOT_INSTALLED, is_api_missing},
    table,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::Timestamp;
use kube::{Api, ResourceExt, api::ListParams};
use nestling_crds::v1alpha1::{VirtualCluster, conditions};

#[derive(Args)]
pub(crate) struct ListArgs {
    /// List those of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

pub(crate) async fn run(host: &HostArgs, args: &ListArgs) -> Result<()> {
    let host = Host::connect(host).await?;
    let api: Api<VirtualCluster> =
        if args.all_namespaces { Api::all(host.client.clone()) } else { Api::namespaced(host.client.clone(), &host.namespace) };
    let clusters = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) if is_api_missing(&error) => bail!(NOT_INSTALLED),
        Err(error) => return Err(error).context("cannot list VirtualClusters"),
    };
    if clusters.is_empty() {
        let place = if args.all_namespaces { String::new() } else { format!(" in {} namespace", host.namespace) };
        eprintln!("No VirtualClusters found{place}.");
    } else {
        print!("{}", render(&clusters, args.all_namespaces, Timestamp::now()));
    }
    Ok(())
}

fn render(clusters: &[VirtualCluster], namespaces: bool, now: Timestamp) -> String {
    let head = table::row(["NAMESPACE", "NAME", "VERSION", "TOPOLOGY", "READY", "NODES", "ENDPOINT", "AGE"]);
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(clusters.iter().map(|cluster| columns(cluster, now)))
        .map(|row| if namespaces { row } else { row.into_iter().skip(1).collect() })
        .collect();
    table::render("", &rows)
}

fn columns(cluster: &VirtualCluster, now: Timestamp) -> Vec<String> {
    let status = cluster.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.type_ == conditions::READY);
    let created = cluster.metadata.creation_timestamp.as_ref().map(|time| time.0);
    vec![
        cluster.namespace().unwrap_or_default(),
        cluster.name_any(),
        status.version.unwrap_or_else(none),
        format!("{:?}", cluster.spec.topology),
        ready.map_or_else(|| "Unknown".to_owned(), |condition| condition.status.clone()),
        format!("{}/{}", status.nodes.ready, status.nodes.total),
        status.endpoint.unwrap_or_else(none),
        table::age(created, now),
    ]
}

fn none() -> String {
    "<none>".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cluster(object: serde_json::Value) -> VirtualCluster {
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_list_reads_like_kubectls() {
        let clusters = [
            cluster(json!({
                "apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster",
                "metadata": {"name": "dev", "namespace": "team-a", "creationTimestamp": "2026-11-23T06:00:00Z"},
                "spec": {},
                "status": {
                    "version": "v1.37.2", "endpoint": "https://10.96.3.7:443", "nodes": {"ready": 3, "total": 3},
                    "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-11-23T06:00:06Z"}],
                },
            })),
            cluster(json!({
                "apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster",
                "metadata": {"name": "ci-throw-away", "namespace": "team-b", "creationTimestamp": "2026-11-23T06:04:58Z"},
                "spec": {"topology": "SingleNode"},
            })),
        ];
        let now: Timestamp = "2026-11-23T06:05:00Z".parse().unwrap();
        insta::assert_snapshot!(render(&clusters, true, now), @r"
        NAMESPACE   NAME            VERSION   TOPOLOGY     READY     NODES   ENDPOINT                AGE
        team-a      dev             v1.37.2   Stacked      True      3/3     https://10.96.3.7:443   5m
        team-b      ci-throw-away   <none>    SingleNode   Unknown   0/0     <none>                  2s
        ");
        insta::assert_snapshot!(render(&clusters[..1], false, now), @r"
        NAME   VERSION   TOPOLOGY   READY   NODES   ENDPOINT                AGE
        dev    v1.37.2   Stacked    True    3/3     https://10.96.3.7:443   5m
        ");
    }
}
