//! A pod field that is not handled is refused by name; nothing is dropped silently.

use anyhow::{Result, ensure};
use nestling_e2e::suite::images::BUSYBOX;
use nestling_e2e::suite::{eventually, shared};
use std::time::Duration;

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn an_unhandled_volume_type_is_refused_with_an_event_that_names_it() -> Result<()> {
    let ns = shared()?.namespace("unsupported")?;
    ns.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: nfs}}, spec: {{containers: [{{name: c, image: '{BUSYBOX}', command: ['true']}}], volumes: [{{name: far, nfs: {{server: example.invalid, path: /}}}}]}}}}"
    ))?;
    eventually("the refusal is an event", Duration::from_secs(30), || {
        let events =
            ns.run(&["get", "events", "--field-selector=involvedObject.name=nfs,type=Warning", "-o", "jsonpath={.items[*].message}"])?;
        ensure!(events.contains("nfs") && events.contains("volumes"), "{events}");
        Ok(())
    })?;
    ensure!(ns.field("pod/nfs", ".status.phase")? == "Pending");
    Ok(())
}
