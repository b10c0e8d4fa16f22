//! From a container's name to its log: the container whose log is meant, its file, and the offset of the last records.

use crate::cri::CriError;
use crate::server::pods;
use k8s_openapi::api::core::v1::Pod;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why there is no log, in the words of a kubelet (`validateContainerLogStatus`), on which clients and tests depend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoLog {
    #[error("container {container:?} in pod {pod:?} is not available")]
    NotAvailable { pod: String, container: String },
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious { pod: String, container: String },
    #[error("container {container:?} in pod {pod:?} is terminated")]
    Terminated { pod: String, container: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    Waiting { pod: String, container: String, reason: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start - no logs yet")]
    NoState { pod: String, container: String },
}

/// `<runtime>://<id>`, as a pod's status has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerId(String);

impl ContainerId {
    /// The runtime's own name of the container.
    pub(super) fn bare(&self) -> &str {
        self.0.split_once("://").map_or(self.0.as_str(), |(_, id)| id)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The container whose log is meant by a name. `pod_name` is the tenant's.
pub(super) fn container_id(pod: &Pod, pod_name: &str, container: &str, previous: bool) -> Result<ContainerId, NoLog> {
    let names = || (pod_name.to_owned(), container.to_owned());
    let not_available = || {
        let (pod, container) = names();
        NoLog::NotAvailable { pod, container }
    };
    let terminated = || {
        let (pod, container) = names();
        NoLog::Terminated { pod, container }
    };
    let filled = |id: Option<&String>| id.filter(|id| !id.is_empty()).cloned();

    let status = pods::container_status(pod, container).ok_or_else(not_available)?;
    let state = status.state.as_ref();
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let last_id = last.and_then(|last| filled(last.container_id.as_ref()));

    let id = if previous {
        last_id.ok_or_else(|| {
            let (pod, container) = names();
            NoLog::NoPrevious { pod, container }
        })?
    } else if state.is_some_and(|state| state.running.is_some()) {
        filled(status.container_id.as_ref()).ok_or_else(not_available)?
    } else if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        // No ID when the next container never came to be.
        filled(ended.container_id.as_ref()).or(last_id).ok_or_else(terminated)?
    } else if last.is_some() {
        last_id.ok_or_else(terminated)?
    } else {
        let (pod, container) = names();
        return Err(match state.and_then(|state| state.waiting.as_ref()) {
            Some(waiting) => {
                let reason = match waiting.reason.as_deref().unwrap_or_default() {
                    "ErrImagePull" => "image can't be pulled",
                    "ImagePullBackOff" => "trying and failing to pull image",
                    reason => reason,
                };
                NoLog::Waiting { pod, container, reason: reason.to_owned() }
            }
            None => NoLog::NoState { pod, container },
        });
    };
    Ok(ContainerId(id))
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("unable to retrieve container logs for {id}")]
    Status {
        id: String,
        #[source]
        source: CriError,
    },
    #[error("failed to open log file")]
    Open(#[source] io::Error),
    /// The runtime named a file that is none of its container logs.
    #[error("the log file is not among the container logs of this node")]
    Outside { path: PathBuf },
    #[error("failed to tail {records} lines of log file")]
    Tail {
        records: u64,
        #[source]
        source: io::Error,
    },
    #[error("the task that opens the log file ended")]
    Task(#[source] tokio::task::JoinError),
}

/// The directories below which container logs lie, symlinks resolved: `/var/log/pods`, and Docker's own where
/// cri-dockerd links there.
#[derive(Clone, Debug)]
pub(in crate::server) struct LogRoots(Arc<[PathBuf]>);

/// An open log file and which file it is.
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) inode: u64,
}

impl LogRoots {
    pub(in crate::server) fn new(roots: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(roots.into_iter().collect())
    }

    /// Opens the file, placed at its last `tail` records or at its start.
    pub(super) async fn open(&self, path: PathBuf, tail: Option<u64>) -> Result<LogFile, SourceError> {
        let roots = self.clone();
        tokio::task::spawn_blocking(move || roots.open_blocking(&path, tail)).await.map_err(SourceError::Task)?
    }

    /// Links are resolved first, so that none of them leads to a file that is not a container's log.
    fn open_blocking(&self, path: &Path, tail: Option<u64>) -> Result<LogFile, SourceError> {
        let resolved = path.canonicalize().map_err(SourceError::Open)?;
        if !self.0.iter().filter_map(|root| root.canonicalize().ok()).any(|root| resolved.starts_with(root)) {
            return Err(SourceError::Outside { path: resolved });
        }
        // Neither a link nor a pipe put there meanwhile is followed or waited for.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let mut file = File::options().read(true).custom_flags(flags).open(&resolved).map_err(SourceError::Open)?;
        let metadata = file.metadata().map_err(SourceError::Open)?;
        if !metadata.is_file() {
            return Err(SourceError::Outside { path: resolved });
        }
        if let Some(records) = tail {
            let failed = |source| SourceError::Tail { records, source };
            let start = start_of_last(&mut file, records).map_err(failed)?;
            file.seek(SeekFrom::Start(start)).map_err(failed)?;
        }
        Ok(LogFile { path: resolved, file, inode: metadata.ino() })
    }
}

/// Bytes read at once when looking for the last records.
const BLOCK: u64 = 64 * 1024;

/// Offset at which the last `records` records begin. A record at the end without its newline does not count, and comes
/// after those that do. Blocking: reads backwards through the file, in blocks.
fn start_of_last(file: &mut (impl Read + Seek), records: u64) -> io::Result<u64> {
    let mut right = file.seek(SeekFrom::End(0))?;
    let mut newlines = 0;
    let mut block = Vec::new();
    while right > 0 {
        let left = right.saturating_sub(BLOCK);
        block.clear();
        file.seek(SeekFrom::Start(left))?;
        // Another process may cut the file short meanwhile; less is read then.
        file.by_ref().take(right - left).read_to_end(&mut block)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            if newlines == records {
                return Ok(left + index as u64 + 1);
            }
            newlines += 1;
        }
        right = left;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};
    use std::io::Cursor;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "host"}, "status": {"containerStatuses": [status]}})).unwrap()
    }

    fn status(state: &Value, last: &Value) -> Value {
        json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "containerID": "containerd://now", "state": state, "lastState": last})
    }

    #[rstest]
    #[case(json!({"running": {}}), json!({}), false, Ok("now"))]
    #[case(json!({"running": {}}), json!({"terminated": {"exitCode": 1, "containerID": "containerd://old"}}), true, Ok("old"))]
    #[case(json!({"running": {}}), json!({}), true, Err("previous terminated container \"c\" in pod \"p\" not found"))]
    #[case(json!({"terminated": {"exitCode": 0, "containerID": "containerd://done"}}), json!({}), false, Ok("done"))]
    #[case(json!({"terminated": {"exitCode": 0}}), json!({"terminated": {"exitCode": 1, "containerID": "containerd://old"}}), false, Ok("old"))]
    #[case(json!({"terminated": {"exitCode": 0}}), json!({}), false, Err("container \"c\" in pod \"p\" is terminated"))]
    #[case(json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"terminated": {"exitCode": 1, "containerID": "containerd://old"}}), false, Ok("old"))]
    #[case(json!({"waiting": {"reason": "ContainerCreating"}}), json!({}), false, Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"))]
    #[case(json!({"waiting": {"reason": "ErrImagePull"}}), json!({}), false, Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"))]
    #[case(json!({"waiting": {"reason": "ImagePullBackOff"}}), json!({}), false, Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"))]
    #[case(json!({}), json!({}), false, Err("container \"c\" in pod \"p\" is waiting to start - no logs yet"))]
    fn the_log_is_of_the_current_or_the_previous_container(
        #[case] state: Value,
        #[case] last: Value,
        #[case] previous: bool,
        #[case] expected: Result<&str, &str>,
    ) {
        let found = container_id(&pod(&status(&state, &last)), "p", "c", previous);
        assert_eq!(found.as_ref().map(ContainerId::bare).map_err(ToString::to_string), expected.map_err(ToOwned::to_owned));
    }

    #[test]
    fn a_container_without_status_has_no_log() {
        let error = container_id(&pod(&status(&json!({}), &json!({}))), "p", "other", false).unwrap_err();
        assert_eq!(error.to_string(), "container \"other\" in pod \"p\" is not available");
    }

    #[tokio::test]
    async fn files_outside_the_roots_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let pods = dir.path().join("pods");
        std::fs::create_dir(&pods).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::write(pods.join("0.log"), "a\nb\n").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), pods.join("link.log")).unwrap();
        std::os::unix::fs::symlink("0.log", pods.join("inner.log")).unwrap();
        let roots = LogRoots::new([pods.clone()]);

        for path in [pods.join("link.log"), pods.join("../secret"), pods.clone()] {
            assert!(matches!(roots.open(path.clone(), None).await, Err(SourceError::Outside { .. })), "{path:?}");
        }
        assert!(matches!(roots.open(pods.join("none.log"), None).await, Err(SourceError::Open(_))));
        let mut text = String::new();
        roots.open(pods.join("inner.log"), Some(1)).await.unwrap().file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "b\n");
    }

    #[rstest]
    #[case("", 3, "")]
    #[case("a\nb\nc\n", 0, "")]
    #[case("a\nb\nc\n", 1, "c\n")]
    #[case("a\nb\nc\n", 2, "b\nc\n")]
    #[case("a\nb\nc\n", 3, "a\nb\nc\n")]
    #[case("a\nb\nc\n", 9, "a\nb\nc\n")]
    #[case("a\nb\nc", 0, "c")]
    #[case("a\nb\nc", 1, "b\nc")]
    #[case("no newline", 1, "no newline")]
    fn the_start_of_the_last_records_is_found(#[case] content: &str, #[case] records: u64, #[case] expected: &str) {
        let start = start_of_last(&mut Cursor::new(content), records).unwrap();
        assert_eq!(&content[usize::try_from(start).unwrap()..], expected);
    }

    proptest::proptest! {
        #[test]
        fn reading_backwards_finds_what_reading_everything_finds(lines in proptest::collection::vec(0usize..100_000, 0..8), records in 0u64..10, open in proptest::bool::ANY) {
            let mut content = lines.iter().map(|length| "x".repeat(*length)).collect::<Vec<_>>().join("\n");
            if !open {
                content.push('\n');
            }
            let start = usize::try_from(start_of_last(&mut Cursor::new(&content), records).unwrap()).unwrap();
            let ended = content.matches('\n').count() as u64;
            let skipped = content[..start].matches('\n').count() as u64;
            proptest::prop_assert_eq!(skipped, ended.saturating_sub(records));
            proptest::prop_assert!(start == 0 || content.as_bytes()[start - 1] == b'\n');
        }
    }
}
