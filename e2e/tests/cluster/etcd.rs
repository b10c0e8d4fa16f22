//! A tenant that fills its etcd harms itself only, is told so, and gets out of it by deleting objects.

use anyhow::{Result, ensure};
use nestling_e2e::suite::{Kubectl, Tenant, eventually};
use std::io::Write as _;
use std::time::Duration;

fn fill(tenant: &Kubectl, file: &str, index: usize) -> Result<String> {
    tenant.run(&["create", "configmap", &format!("large-{index}"), &format!("--from-file=text={file}")])
}

#[test]
#[ignore = "needs a host cluster with Nestling installed"]
fn a_full_etcd_is_named_and_room_is_made_for_new_objects() -> Result<()> {
    let tenant = Tenant::create("full", "{etcd: {storage: {medium: Memory, size: 256Mi}}}")?;
    let ns = tenant.namespace("large")?;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all("x".repeat(900_000).as_bytes())?;
    let path = file.path().to_string_lossy().into_owned();
    let condition =
        |field: &str| tenant.host().field("virtualcluster/full", &format!(".status.conditions[?(@.type==\"EtcdReady\")].{field}"));
    let mut created = 0;
    eventually("the status says that objects fill etcd", Duration::from_secs(200), || {
        // Room is made once or twice before objects fill all of it.
        while fill(&ns, &path, created).is_ok() {
            created += 1;
            ensure!(created < 100, "etcd has no quota");
        }
        let (reason, message) = (condition("reason")?, condition("message")?);
        ensure!(reason == "DatabaseFull" && message.contains("Delete objects"), "{reason}: {message}");
        Ok(())
    })?;
    ns.run(&["delete", "configmaps", "--all"])?;
    eventually("objects can be created again", Duration::from_secs(150), || fill(&ns, &path, created))?;
    tenant.host().wait_for("virtualcluster/full", "condition=Ready", 60)
}
