//! Where a node's container runtime listens.

use super::CriError;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The sockets of containerd, CRI-O and cri-dockerd, as their packages set them.
pub const DEFAULT_SOCKETS: &[&str] = &["/run/containerd/containerd.sock", "/var/run/crio/crio.sock", "/run/cri-dockerd.sock"];

/// The first of `candidates` that is a socket. The first wins because containerd also runs under Docker, where it
/// serves the runtime interface unless that plugin is off.
pub fn find_socket<P: AsRef<Path>>(candidates: &[P]) -> Result<PathBuf, CriError> {
    candidates
        .iter()
        .map(AsRef::as_ref)
        .find(|path| path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket()))
        .map(Path::to_path_buf)
        .ok_or_else(|| CriError::NoSocket { candidates: candidates.iter().map(|path| path.as_ref().to_path_buf()).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_socket_and_names_what_it_tried() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let socket = dir.path().join("socket");
        std::fs::write(&file, "").unwrap();
        assert!(find_socket(&[&file, &socket]).unwrap_err().to_string().contains("socket"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(find_socket(&[&file, &socket]).unwrap(), socket);
    }
}
