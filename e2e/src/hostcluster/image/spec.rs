//! What an image holds: entries by absolute path, and how its process starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::libraries::{self, LibraryError};

#[derive(Debug, Clone)]
pub enum Entry {
    Directory { mode: u32 },
    Symlink { target: String },
    File { source: Source, mode: u32, capability: Option<Capability> },
}

#[derive(Debug, Clone)]
pub enum Source {
    Path(PathBuf),
    Bytes(Vec<u8>),
}

/// File capabilities that upstream sets on programs.
#[derive(Debug, Clone, Copy)]
pub enum Capability {
    /// `cap_net_bind_service=+ep`. A container that drops it from its bounding set cannot execute such a file (EPERM).
    NetBindService,
}

/// The image config's `config` object.
#[derive(Debug, Clone, Default)]
pub struct Process {
    pub entrypoint: Vec<String>,
    pub arguments: Vec<String>,
    pub user: String,
    pub working_dir: String,
}

#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// Full reference with registry and tag.
    pub name: String,
    pub process: Process,
    entries: BTreeMap<String, Entry>,
}

impl ImageSpec {
    /// An image with what every program may expect: `/tmp`, users root, nobody and nonroot (65532), names from `/etc/hosts` and DNS.
    pub fn new(name: &str, process: Process) -> Self {
        let mut image = Self { name: name.to_owned(), process, entries: BTreeMap::new() };
        image.entry("/tmp", Entry::Directory { mode: 0o1777 });
        image.text(
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nnonroot:x:65532:65532:nonroot:/:/bin/false\n",
        );
        image.text("/etc/group", "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n");
        image.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
        image
    }

    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Adds an entry and the directories above it.
    pub fn entry(&mut self, path: &str, entry: Entry) {
        let parents: Vec<&str> = path.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| &path[..at]).collect();
        for parent in parents {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    pub fn text(&mut self, path: &str, text: &str) {
        self.entry(path, Entry::File { source: Source::Bytes(text.as_bytes().to_vec()), mode: 0o644, capability: None });
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, Entry::Symlink { target: target.to_owned() });
    }

    pub fn program(&mut self, path: &str, source: &Path, capability: Option<Capability>) {
        self.entry(path, Entry::File { source: Source::Path(source.to_owned()), mode: 0o755, capability });
    }

    /// A program of this machine with the shared libraries it loads, each at the path where the loader looks for it.
    pub async fn linked_program(&mut self, path: &str, source: &Path) -> Result<(), LibraryError> {
        for library in libraries::of(source).await? {
            let target = library.display().to_string();
            self.program(&target, &library, None);
        }
        self.program(path, source, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_with_an_entry_and_keep_their_mode() {
        let mut image = ImageSpec::new("example/x:1", Process::default());
        image.text("/tmp/a/b", "");
        assert!(matches!(image.entries()["/tmp"], Entry::Directory { mode: 0o1777 }));
        assert!(matches!(image.entries()["/tmp/a"], Entry::Directory { mode: 0o755 }));
    }
}
