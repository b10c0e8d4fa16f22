//! What there is of the cluster, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::fault;
use super::health;
use super::state::{Phase, State};
use super::topology::CONTROL;
use super::unit;
use super::workdir::WorkDir;

/// A text of a line per unit, and whether all is well.
pub async fn report(work: &WorkDir) -> (String, bool) {
    let Some(state) = State::read(work) else { return (format!("no host cluster in {}\n", work.root().display()), false) };
    let nodes = fault::nodes(work).unwrap_or_default();
    let mut text =
        format!("host cluster in {}{}\n", work.root().display(), if state.phase == Phase::Up { "" } else { " (never came up whole)" });
    let mut well = state.phase == Phase::Up;
    let (ready, lacking) = match health::client(&work.kubeconfig()).await {
        Ok(client) => (health::nodes(&client).await.unwrap_or_default(), health::lacking(&client, &nodes).await),
        Err(error) => (BTreeMap::new(), vec![error.to_string()]),
    };
    for name in std::iter::once(CONTROL.to_owned()).chain(nodes.iter().map(|node| node.name())) {
        let running = unit::holder(work, &name).is_some();
        well &= running;
        let services = if running { unit::services(work, &name) } else { BTreeMap::new() };
        let services: Vec<String> = services.into_iter().map(|(service, now)| format!("{service}({})", now.starts)).collect();
        let readiness = match ready.get(&name) {
            Some(true) => "Ready",
            Some(false) => "NotReady",
            None => "",
        };
        let _ = writeln!(text, "{name:<10} {:<8} {readiness:<9} {}", if running { "running" } else { "down" }, services.join(" "));
    }
    if !lacking.is_empty() {
        well = false;
        let _ = writeln!(text, "waiting for: {}", lacking.join(", "));
    }
    (text, well)
}
