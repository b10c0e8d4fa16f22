//! Walks a log file and, when it is followed, waits for more: through rotation, until the container has ended.

use super::record::Format;
use super::select::{Emitter, LogOptions};
use super::source::{LogFile, LogRoots, SourceError};
use crate::cri::{Cri, v1};
use bytes::{Bytes, BytesMut};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tonic::Code;

/// Read at once, and about what goes out at once.
const CHUNK: usize = 64 * 1024;
/// A record is held whole up to here; what comes after goes out as it is read. Runtimes cut at 16 KiB unless told not to.
const MAX_RECORD: usize = 1024 * 1024;
/// How often a followed file is looked at: soon after it grew, then ever more rarely.
const SOONEST: Duration = Duration::from_millis(10);
const LATEST: Duration = Duration::from_millis(200);
/// How often the runtime is asked whether the container still runs.
const STATE_PERIOD: Duration = Duration::from_millis(500);

/// How far the reading of a log has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// More may be written.
    Following,
    /// What is in the file is all: nothing is followed, or the container has ended.
    Ending,
    Done,
}

pub(super) struct LogReader {
    path: PathBuf,
    inode: u64,
    file: File,
    roots: LogRoots,
    cri: Arc<dyn Cri>,
    container_id: String,
    emitter: Emitter,
    format: Option<Format>,
    /// Read but not yet a whole record.
    pending: BytesMut,
    /// The record that `pending` continues was too long and its beginning went out.
    in_long_record: bool,
    phase: Phase,
    pause: Duration,
    next_state_check: Instant,
}

impl LogReader {
    pub(super) fn new(source: LogFile, options: LogOptions, roots: LogRoots, cri: Arc<dyn Cri>, container_id: String) -> Self {
        Self {
            path: source.path,
            inode: source.inode,
            file: File::from_std(source.file),
            roots,
            cri,
            container_id,
            phase: if options.follow { Phase::Following } else { Phase::Ending },
            emitter: Emitter::new(options),
            format: None,
            pending: BytesMut::new(),
            in_long_record: false,
            pause: SOONEST,
            next_state_check: Instant::now(),
        }
    }

    /// The next bytes to send, as soon as there are any; None at the end. Cancel-safe between calls only.
    pub(super) async fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let mut out = BytesMut::new();
        loop {
            self.take_records(&mut out)?;
            if self.emitter.is_done() {
                self.phase = Phase::Done;
            }
            if out.len() >= CHUNK || (self.phase == Phase::Done && !out.is_empty()) {
                return Ok(Some(out.freeze()));
            }
            if self.phase == Phase::Done {
                return Ok(None);
            }
            self.pending.reserve(CHUNK);
            if self.file.read_buf(&mut self.pending).await? > 0 {
                self.pause = SOONEST;
                continue;
            }
            // What is there goes out before anything is waited for.
            if !out.is_empty() {
                return Ok(Some(out.freeze()));
            }
            if self.phase == Phase::Following {
                self.wait().await?;
            } else {
                self.take_unfinished_record(&mut out)?;
                self.phase = Phase::Done;
            }
        }
    }

    /// Moves whole records from `pending` to `out`.
    fn take_records(&mut self, out: &mut BytesMut) -> io::Result<()> {
        while out.len() < CHUNK && !self.emitter.is_done() {
            match self.pending.iter().position(|byte| *byte == b'\n') {
                Some(newline) => {
                    let line = self.pending.split_to(newline + 1);
                    self.take_record(&line, out)?;
                    self.in_long_record = false;
                }
                None if self.pending.len() >= MAX_RECORD => {
                    let line = self.pending.split();
                    self.take_record(&line, out)?;
                    self.in_long_record = true;
                }
                None => break,
            }
        }
        Ok(())
    }

    fn take_record(&mut self, line: &[u8], out: &mut BytesMut) -> io::Result<()> {
        if self.in_long_record {
            // Docker's form cannot be read in pieces; its daemon never writes records of that length.
            if self.format == Some(Format::Cri) {
                self.emitter.continuation(line, out);
            }
            return Ok(());
        }
        let unsupported = || io::Error::new(io::ErrorKind::InvalidData, "unsupported log format");
        let format = self.format.or_else(|| Format::of(line)).ok_or_else(unsupported)?;
        self.format = Some(format);
        if let Some(record) = format.parse(line) {
            self.emitter.record(&record, out);
        }
        Ok(())
    }

    /// A record at the very end without its newline: nothing will complete it.
    fn take_unfinished_record(&mut self, out: &mut BytesMut) -> io::Result<()> {
        let line = self.pending.split();
        if line.is_empty() { Ok(()) } else { self.take_record(&line, out) }
    }

    /// Waits until there may be more to read, or nothing more will come.
    async fn wait(&mut self) -> io::Result<()> {
        if Instant::now() >= self.next_state_check {
            self.next_state_check = Instant::now() + STATE_PERIOD;
            if !self.is_running().await {
                // What was written before the end is still to be read.
                self.phase = Phase::Ending;
                return Ok(());
            }
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LATEST);
        self.reopen_if_rotated().await
    }

    async fn is_running(&self) -> bool {
        match self.cri.container_status(&self.container_id).await {
            Ok(status) => status.state() == v1::ContainerState::ContainerRunning,
            // Containers outlive their runtime's restart.
            Err(error) => matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded),
        }
    }

    /// Goes over to the new file once the host's kubelet has rotated the log and the runtime has begun a new one.
    async fn reopen_if_rotated(&mut self) -> io::Result<()> {
        match tokio::fs::metadata(&self.path).await {
            Ok(metadata) if metadata.ino() != self.inode => {}
            // Renamed, and the new file not made yet: the runtime still writes the old one.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
        // The runtime may have written a last record to the old file after making the new one.
        self.pending.reserve(CHUNK);
        if self.file.read_buf(&mut self.pending).await? > 0 {
            return Ok(());
        }
        match self.roots.open(self.path.clone(), None).await {
            Ok(source) => {
                self.inode = source.inode;
                self.file = File::from_std(source.file);
                // A fragment that the old file ends with is never completed.
                self.pending.clear();
                self.in_long_record = false;
                Ok(())
            }
            Err(SourceError::Open(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::fake::FakeCri;
    use jiff::Timestamp;
    use std::fs::OpenOptions;
    use std::io::Write;

    struct Container {
        dir: tempfile::TempDir,
        cri: Arc<FakeCri>,
    }

    impl Container {
        fn running() -> Self {
            let container = Self { dir: tempfile::tempdir().unwrap(), cri: Arc::default() };
            container.set_state(v1::ContainerState::ContainerRunning);
            container
        }

        fn set_state(&self, state: v1::ContainerState) {
            let status = v1::ContainerStatus { id: "c".into(), state: state.into(), ..Default::default() };
            self.cri.with(|held| held.statuses.insert("c".into(), status));
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("0.log")
        }

        fn write(&self, text: &str) {
            let mut file = OpenOptions::new().append(true).create(true).open(self.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn line(&self, payload: &str) {
            self.write(&format!("2026-01-01T00:00:00Z stdout F {payload}\n"));
        }

        async fn reader(&self, query: &str) -> LogReader {
            let options = LogOptions::from_query(query, Timestamp::now()).unwrap();
            let roots = LogRoots::new([self.dir.path().to_path_buf()]);
            let file = roots.open(self.path(), options.tail).await.unwrap();
            LogReader::new(file, options, roots, self.cri.clone(), "c".into())
        }
    }

    /// The next `length` bytes, waiting for them.
    async fn read(reader: &mut LogReader, length: usize) -> String {
        let mut text = Vec::new();
        while text.len() < length {
            let chunk = tokio::time::timeout(Duration::from_secs(5), reader.next_chunk()).await.expect("in time").unwrap();
            text.extend_from_slice(&chunk.expect("not at the end"));
        }
        String::from_utf8(text).unwrap()
    }

    async fn rest(reader: &mut LogReader) -> String {
        let mut text = Vec::new();
        while let Some(chunk) = tokio::time::timeout(Duration::from_secs(5), reader.next_chunk()).await.expect("in time").unwrap() {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_log_is_read_to_its_end_with_the_unfinished_record() {
        let container = Container::running();
        container.line("one");
        container.write("no record\n");
        container.line("two");
        container.write("2026-01-01T00:00:00Z stderr F three");
        assert_eq!(rest(&mut container.reader("").await).await, "one\ntwo\nthree");
        assert_eq!(rest(&mut container.reader("tailLines=1").await).await, "two\n");
        assert_eq!(rest(&mut container.reader("tailLines=0").await).await, "");
        assert_eq!(rest(&mut container.reader("limitBytes=2").await).await, "on");
    }

    #[tokio::test]
    async fn a_file_that_is_no_log_is_an_error() {
        let container = Container::running();
        container.write("hello\n");
        assert!(container.reader("").await.next_chunk().await.is_err());
    }

    #[tokio::test]
    async fn a_long_log_arrives_in_chunks_and_is_complete() {
        let container = Container::running();
        let payload = "x".repeat(1000);
        let count = 2000;
        container.write(&format!("2026-01-01T00:00:00Z stdout F {payload}\n").repeat(count));
        let mut reader = container.reader("").await;
        assert!(reader.next_chunk().await.unwrap().unwrap().len() < 2 * CHUNK);
        drop(reader);
        assert_eq!(rest(&mut container.reader("").await).await, format!("{payload}\n").repeat(count));
    }

    #[tokio::test]
    async fn a_record_of_any_length_is_read_in_bounded_memory() {
        let container = Container::running();
        let payload = "y".repeat(3 * MAX_RECORD);
        container.line(&payload);
        container.line("after");
        let mut reader = container.reader("").await;
        let mut length = 0;
        let mut last = Bytes::new();
        while let Some(chunk) = reader.next_chunk().await.unwrap() {
            assert!(reader.pending.len() <= MAX_RECORD + CHUNK);
            length += chunk.len();
            last = chunk;
        }
        assert_eq!(length, payload.len() + 1 + "after\n".len());
        assert!(last.ends_with(b"y\nafter\n"));
    }

    #[tokio::test]
    async fn a_log_is_followed_until_the_container_has_ended() {
        let container = Container::running();
        container.line("one");
        let mut reader = container.reader("follow=true").await;
        assert_eq!(read(&mut reader, 4).await, "one\n");
        container.write("2026-01-01T00:00:00Z stdout F tw");
        let waited = tokio::time::timeout(Duration::from_millis(100), reader.next_chunk()).await;
        assert!(waited.is_err(), "an unfinished record waits for its end");
        container.write("o\n");
        assert_eq!(read(&mut reader, 4).await, "two\n");

        container.cri.with(|state| state.down = true);
        container.line("three");
        assert_eq!(read(&mut reader, 6).await, "three\n");
        tokio::time::timeout(STATE_PERIOD * 2, reader.next_chunk()).await.expect_err("a runtime that is down ends nothing");
        container.cri.with(|state| state.down = false);

        container.line("last");
        container.set_state(v1::ContainerState::ContainerExited);
        assert_eq!(rest(&mut reader).await, "last\n");
    }

    #[tokio::test]
    async fn following_the_log_of_an_ended_container_ends_after_its_tail() {
        let container = Container::running();
        container.line("one");
        container.line("two");
        container.set_state(v1::ContainerState::ContainerExited);
        assert_eq!(rest(&mut container.reader("follow=true&tailLines=1").await).await, "two\n");
        assert_eq!(rest(&mut container.reader("follow=true&tailLines=0").await).await, "");
    }

    #[tokio::test]
    async fn following_a_log_loses_nothing_when_it_is_rotated() {
        let container = Container::running();
        container.line("one");
        let mut reader = container.reader("follow=true").await;
        assert_eq!(read(&mut reader, 4).await, "one\n");

        let rotated = container.dir.path().join("0.log.20260101-000000");
        std::fs::rename(container.path(), &rotated).unwrap();
        // Until the runtime reopens its log, it writes on to the file it has.
        let mut old = OpenOptions::new().append(true).open(&rotated).unwrap();
        old.write_all(b"2026-01-01T00:00:00Z stdout F two\n").unwrap();
        assert_eq!(read(&mut reader, 4).await, "two\n");
        old.write_all(b"2026-01-01T00:00:00Z stdout F three\n").unwrap();
        container.line("four");
        assert_eq!(read(&mut reader, 11).await, "three\nfour\n");
        container.set_state(v1::ContainerState::ContainerExited);
        assert_eq!(rest(&mut reader).await, "");
    }
}
