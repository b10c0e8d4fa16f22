//! `kubectl nestling describe`: what the cluster is, what state it is in, what it waits for. `render.rs` is pure.

mod events;
mod render;

use crate::host::{Host, HostArgs};
use anyhow::Result;
use clap::Args;
use jiff::Timestamp;

#[derive(Args)]
pub struct DescribeArgs {
    /// Name of the VirtualCluster
    name: String,
}

pub async fn run(host: &HostArgs, args: &DescribeArgs) -> Result<()> {
    let host = Host::connect(host).await?;
    let cluster = host.virtual_cluster(&args.name).await?;
    // Events are extra: who may not read them still gets the rest.
    let events = events::of(&host, &cluster).await;
    print!("{}", render::describe(&cluster, events.as_deref().map_err(|error| format!("{error:#}")), Timestamp::now()));
    Ok(())
}
