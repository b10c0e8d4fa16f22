//! The `nft` program. It is spawned for each transaction (4–10 ms); text is the one interface of nft 1.0.6 that can say
//! everything the rules need.

use super::listing::{self, Listing};
use super::objects::{AffinityEntry, Map, TABLE, TenantMap, Transaction};
use super::{Netfilter, NetfilterError};
use crate::proxy::table::{Family, TenantKey};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Thirty thousand Services load in about a second; a kernel that takes longer than this has stopped.
const LIMIT: Duration = Duration::from_secs(30);
/// Of nft's message: it repeats the offending line, which can be megabytes long.
const STDERR_CHARS: usize = 2_000;

#[derive(Clone, Debug)]
pub(crate) struct Nft {
    /// Looked up in `PATH`.
    program: String,
}

impl Default for Nft {
    fn default() -> Self {
        Self { program: "nft".to_owned() }
    }
}

impl Nft {
    async fn run(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>, NetfilterError> {
        let program = || self.program.clone();
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| NetfilterError::Start { program: program(), source })?;
        let stdin = child.stdin.take();
        let feeding = async {
            if let Some(mut stdin) = stdin {
                // nft may end before it has read everything; its exit status says why, a broken pipe does not.
                match stdin.write_all(input.as_bytes()).await {
                    Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
                    _ => drop(stdin),
                }
            }
            Ok(())
        };
        let (fed, output) = tokio::time::timeout(LIMIT, async { tokio::join!(feeding, child.wait_with_output()) })
            .await
            .map_err(|_| NetfilterError::Timeout { program: program(), limit: LIMIT })?;
        fed.map_err(|source| NetfilterError::Io { program: program(), source })?;
        let output = output.map_err(|source| NetfilterError::Io { program: program(), source })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr: String = String::from_utf8_lossy(&output.stderr).chars().take(STDERR_CHARS).collect();
        Err(NetfilterError::Refused { status: output.status, stderr: stderr.trim().to_owned() })
    }

    async fn list_json(&self, arguments: &[&str]) -> Result<Vec<u8>, NetfilterError> {
        self.run(&[&["--json", "--numeric"], arguments].concat(), "").await
    }
}

#[async_trait::async_trait]
impl Netfilter for Nft {
    async fn apply(&self, transaction: &Transaction) -> Result<(), NetfilterError> {
        self.run(&["--file", "-"], &transaction.to_string()).await.map(drop)
    }

    async fn list(&self, family: Family) -> Result<Listing, NetfilterError> {
        if !self.is_present(family).await? {
            return Ok(Listing::Absent);
        }
        // Terse: without elements. The proxy's table only, because a host tool's table may hold what this nft cannot print.
        let objects = self.list_json(&["--terse", "list", "table", family.word(), TABLE]).await?;
        let sources = self.list_json(&["list", "map", family.word(), TABLE, &Map::Sources.name()]).await;
        Ok(listing::read(&objects, sources.ok().as_deref())?)
    }

    async fn is_present(&self, family: Family) -> Result<bool, NetfilterError> {
        Ok(listing::has_table(&self.list_json(&["list", "tables", family.word()]).await?)?)
    }

    async fn affinity(&self, family: Family, tenant: &TenantKey) -> Result<Vec<AffinityEntry>, NetfilterError> {
        let map = TenantMap::Affinity.of(tenant).name();
        Ok(listing::affinity(&self.list_json(&["list", "map", family.word(), TABLE, &map]).await?)?)
    }
}
