//! The content of an OCI image: entries by absolute path, and how its process starts. A program of this machine comes with the shared
//! libraries that `ldd` lists for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::command::{CommandError, Run};
use crate::files::{self, FileError};

#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Directory { mode: u32 },
    Symlink { target: String },
    File { source: Source, mode: u32, capability: Option<Capability> },
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    Path(PathBuf),
    Bytes(Vec<u8>),
}

/// File capabilities that upstream sets on programs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Capability {
    /// `cap_net_bind_service=+ep`. A container that drops it from its bounding set cannot execute such a file (EPERM).
    NetBindService,
}

/// The image config's `config` object.
#[derive(Debug, Clone, Default)]
pub struct Process {
    pub entrypoint: Vec<String>,
    pub arguments: Vec<String>,
    pub user: String,
}

#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// Full reference with registry and tag.
    pub name: String,
    pub process: Process,
    entries: BTreeMap<String, Entry>,
}

impl ImageSpec {
    /// An image with what programs expect: `/tmp`, users root, nobody and nonroot (65532), names from `/etc/hosts` and DNS.
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

    pub(crate) fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Key over process and content, whatever the name: equal keys are equal images.
    pub fn key(&self) -> Result<String, FileError> {
        let process = &self.process;
        let mut parts = vec![format!("{:?} {:?} {}", process.entrypoint, process.arguments, process.user)];
        for (path, entry) in &self.entries {
            let content = match entry {
                Entry::Directory { mode } => format!("folder {mode:o}"),
                Entry::Symlink { target } => format!("link {target}"),
                Entry::File { source: Source::Bytes(bytes), mode, .. } => format!("file {mode:o} {}", files::key([bytes.as_slice()])),
                Entry::File { source: Source::Path(path), mode, .. } => {
                    let digest = File::open(path).and_then(files::sha256).map_err(|source| FileError::new("read", path, source))?;
                    format!("file {mode:o} {}", digest.0)
                }
            };
            parts.push(format!("{path} {content}"));
        }
        Ok(files::key(parts.iter().map(String::as_bytes)))
    }

    /// Adds an entry and the directories above it.
    pub(crate) fn entry(&mut self, path: &str, entry: Entry) {
        let parents: Vec<&str> = path.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| &path[..at]).collect();
        for parent in parents {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    pub(crate) fn text(&mut self, path: &str, text: &str) {
        self.entry(path, Entry::File { source: Source::Bytes(text.as_bytes().to_vec()), mode: 0o644, capability: None });
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, Entry::Symlink { target: target.to_owned() });
    }

    pub(crate) fn program(&mut self, path: &str, source: &Path, capability: Option<Capability>) {
        self.entry(path, Entry::File { source: Source::Path(source.to_owned()), mode: 0o755, capability });
    }

    /// A program of this machine with the shared libraries it loads, each at the path where the loader looks for it.
    pub async fn linked_program(&mut self, path: &str, source: &Path) -> Result<(), LibraryError> {
        for library in libraries_of(source).await? {
            let target = library.display().to_string();
            self.program(&target, &library, None);
        }
        self.program(path, source, None);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("cannot list the libraries of a program")]
    List(#[source] CommandError),
    #[error("{program} needs {library}, which this machine does not have")]
    Missing { program: String, library: String },
}

/// Absolute paths as the loader looks for them; empty for a static program.
async fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    match Run::new(["ldd".as_ref(), program.as_os_str()]).text().await {
        Ok(listing) => parse_ldd(&listing).map_err(|library| LibraryError::Missing { program: program.display().to_string(), library }),
        Err(CommandError::Failed { stderr, .. }) if stderr.contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(LibraryError::List(error)),
    }
}

/// The error is the name of a library that was not found.
fn parse_ldd(listing: &str) -> Result<Vec<PathBuf>, String> {
    let mut libraries = Vec::new();
    for line in listing.lines().map(str::trim) {
        let place = match line.split_once(" => ") {
            Some((name, "not found")) => return Err(name.to_owned()),
            Some((_, place)) => place,
            None => line,
        };
        let path = place.split(" (").next().unwrap_or(place);
        // Without a path: the kernel's own (linux-vdso), or the line for a static program.
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
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

    #[test]
    fn the_key_follows_content_and_not_the_name() {
        let key = |name: &str, text: &str| {
            let mut image = ImageSpec::new(name, Process::default());
            image.text("/a", text);
            image.key().unwrap()
        };
        assert_eq!(key("one", "x"), key("two", "x"));
        assert_ne!(key("one", "x"), key("one", "y"));
    }

    #[test]
    fn libraries_are_the_lines_with_a_path() {
        let listing =
            "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7e)\n\t/lib64/ld-linux-x86-64.so.2 (0x7d)\n";
        let expected: Vec<PathBuf> = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from).into();
        assert_eq!(parse_ldd(listing).unwrap(), expected);
    }

    #[test]
    fn static_programs_have_none() {
        assert_eq!(parse_ldd("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_missing_library_is_named() {
        assert_eq!(parse_ldd("\tlibx.so.1 => not found\n").unwrap_err(), "libx.so.1");
    }
}
