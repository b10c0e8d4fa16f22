//! Files that are written whole or not at all, and keys over contents.

use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

// Not sha2: images are hundreds of megabytes, and aws-lc-rs is fast in unoptimized builds too.
use aws_lc_rs::digest::{Context, SHA256};

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct FileError {
    action: &'static str,
    path: String,
    source: std::io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self { action, path: path.display().to_string(), source }
    }
}

/// Mode of a file: certificates are public (0644), keys secret (0600).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Public,
    Secret,
}

/// Writes through a temporary name, so that a reader or a crash never sees half a file.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>, access: Access) -> Result<(), FileError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_dir(parent)?;
    let temporary = parent.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let mode = if access == Access::Secret { 0o600 } else { 0o644 };
    let stored = std::fs::remove_file(&temporary)
        .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .and_then(|()| std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary))
        .and_then(|mut file| file.write_all(content.as_ref()))
        .and_then(|()| std::fs::rename(&temporary, path));
    stored.map_err(|source| FileError::new("write", path, source))
}

pub(crate) fn make_dir(path: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(path).map_err(|source| FileError::new("create directory", path, source))
}

pub(crate) fn make_executable(path: &Path) -> Result<(), FileError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(|source| FileError::new("make executable", path, source))
}

pub(crate) fn read(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(|source| FileError::new("read", path, source))
}

/// Hex SHA-256 of the parts, each with its length before it so that parts cannot run into each other.
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut hex = hex(context.finish().as_ref());
    hex.truncate(20);
    hex
}

/// Hex SHA-256 of a reader's bytes, and how many there were.
pub(crate) fn sha256(mut reader: impl Read) -> std::io::Result<(String, u64)> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok((hex(context.finish().as_ref()), total));
        }
        context.update(&buffer[..read]);
        total += read as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_where_parts_end() {
        assert_ne!(key([b"ab".as_slice(), b"c"]), key([b"a".as_slice(), b"bc"]));
    }

    #[test]
    fn sha256_is_the_known_one() {
        let (digest, size) = sha256(b"abc".as_slice()).unwrap();
        assert_eq!((digest.as_str(), size), ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3));
    }

    #[test]
    fn secrets_are_readable_by_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/key");
        write(&path, "one", Access::Public).unwrap();
        write(&path, "two", Access::Secret).unwrap();
        assert_eq!(read(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
