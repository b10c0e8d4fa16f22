//! Writes an image as a tar in the OCI image layout, as `ctr images import` reads it: one layer, config, manifest, index. Equal images
//! are equal bytes.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::Path;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::files::{self, FileError};
use crate::image::{Capability, Entry, ImageSpec, Source};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
#[error("cannot write image {image}")]
pub struct ArchiveError {
    image: String,
    source: FileError,
}

/// Writes the whole archive to `path`, or nothing. Layers stay uncompressed: they are imported here and now, not sent anywhere.
pub fn write(image: &ImageSpec, path: &Path) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError { image: image.name.clone(), source };
    let io = |source| failed(FileError::new("write", path, source));
    let parent = path.parent().unwrap_or(Path::new("/"));
    files::make_dir(parent).map_err(failed)?;

    let mut layer_file = tempfile::tempfile_in(parent).map_err(io)?;
    write_layer(image, BufWriter::with_capacity(1 << 20, &mut layer_file)).map_err(io)?;
    layer_file.rewind().map_err(io)?;
    let (layer_digest, layer_size) = files::sha256(&mut layer_file).map_err(io)?;
    layer_file.rewind().map_err(io)?;

    let config = config(image, &layer_digest).to_string();
    let (config_digest, config_size) = files::sha256(config.as_bytes()).map_err(io)?;
    let manifest = manifest((&config_digest, config_size), (&layer_digest, layer_size)).to_string();
    let (manifest_digest, manifest_size) = files::sha256(manifest.as_bytes()).map_err(io)?;
    let index = index(&image.name, &manifest_digest, manifest_size).to_string();

    let mut out = tempfile::NamedTempFile::new_in(parent).map_err(io)?;
    let mut tar = Builder::new(BufWriter::with_capacity(1 << 20, out.as_file_mut()));
    let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
    let written = add(&mut tar, "oci-layout", layout.len() as u64, layout.as_bytes())
        .and_then(|()| add(&mut tar, "index.json", index.len() as u64, index.as_bytes()))
        .and_then(|()| add(&mut tar, &blob(&manifest_digest), manifest_size, manifest.as_bytes()))
        .and_then(|()| add(&mut tar, &blob(&config_digest), config_size, config.as_bytes()))
        .and_then(|()| add(&mut tar, &blob(&layer_digest), layer_size, layer_file))
        .and_then(|()| tar.into_inner()?.flush());
    written.map_err(io)?;
    out.persist(path).map(|_: File| ()).map_err(|error| io(error.error))
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn add(tar: &mut Builder<impl Write>, name: &str, size: u64, content: impl Read) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content)
}

/// The architecture's name in Go and OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn config(image: &ImageSpec, layer: &str) -> Value {
    let process = &image.process;
    json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": process.entrypoint,
            "Cmd": process.arguments,
            "User": process.user,
            "WorkingDir": "/",
            "Env": [PATH],
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
    })
}

fn manifest(config: (&str, u64), layer: (&str, u64)) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{}", config.0), "size": config.1},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{}", layer.0), "size": layer.1}],
    })
}

fn index(name: &str, manifest: &str, size: u64) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest}"),
            "size": size,
            "platform": {"architecture": architecture(), "os": "linux"},
            // Without this containerd imports the content but no image of that name.
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag(name)},
        }],
    })
}

fn tag(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, last)| last).split_once(':').map_or("latest", |(_, tag)| tag)
}

/// The layer: its bytes depend on the entries alone.
fn write_layer(image: &ImageSpec, out: impl Write) -> std::io::Result<()> {
    let mut tar = Builder::new(out);
    for (path, entry) in image.entries() {
        let name = path.trim_start_matches('/');
        match entry {
            Entry::Directory { mode } => {
                let mut header = header(EntryType::Directory, *mode, 0);
                tar.append_data(&mut header, format!("{name}/"), std::io::empty())?;
            }
            Entry::Symlink { target } => {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                tar.append_link(&mut header, name, target)?;
            }
            Entry::File { source, mode, capability } => {
                if let Some(capability) = capability {
                    tar.append_pax_extensions([("SCHILY.xattr.security.capability", xattr(*capability).as_slice())])?;
                }
                let (size, content): (u64, Box<dyn Read + '_>) = match source {
                    Source::Bytes(bytes) => (bytes.len() as u64, Box::new(bytes.as_slice())),
                    Source::Path(path) => {
                        let file = File::open(path)?;
                        (file.metadata()?.len(), Box::new(file))
                    }
                };
                let mut header = header(EntryType::Regular, *mode, size);
                tar.append_data(&mut header, name, content)?;
            }
        }
    }
    tar.into_inner()?.flush()
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// `struct vfs_cap_data`, revision 2, effective bit set (linux/capability.h).
fn xattr(capability: Capability) -> Vec<u8> {
    let bit = match capability {
        Capability::NetBindService => 10,
    };
    let words: [u32; 5] = [0x0200_0001, 1 << bit, 0, 0, 0];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Process;

    #[test]
    fn archive_is_deterministic_and_names_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = ImageSpec::new("registry.example:5000/a/b:1.2", Process::default());
        image.text("/hello", "world");
        let [one, two] = ["one", "two"].map(|name| {
            let path = dir.path().join(name);
            write(&image, &path).unwrap();
            std::fs::read(path).unwrap()
        });
        assert_eq!(one, two);
        let mut archive = tar::Archive::new(one.as_slice());
        let mut index = String::new();
        archive.entries().unwrap().nth(1).unwrap().unwrap().read_to_string(&mut index).unwrap();
        let index: Value = serde_json::from_str(&index).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "registry.example:5000/a/b:1.2");
        assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1.2");
    }

    #[test]
    fn every_blob_is_named_by_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        write(&ImageSpec::new("example/x:1", Process::default()), &path).unwrap();
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let mut blobs = 0;
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(files::sha256(entry).unwrap().0, digest);
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }

    #[test]
    fn same_entries_same_bytes_in_whatever_order_they_came() {
        let build = |paths: [&str; 2]| {
            let mut image = ImageSpec::new("example/x:1", Process::default());
            for path in paths {
                image.text(path, path);
            }
            let mut bytes = Vec::new();
            write_layer(&image, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(build(["/b", "/a/c"]), build(["/a/c", "/b"]));
    }

    #[test]
    fn capability_is_what_setcap_writes() {
        assert_eq!(xattr(Capability::NetBindService), [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn parents_stand_before_children() {
        let mut image = ImageSpec::new("example/x:1", Process::default());
        image.text("/a/b/c", "x");
        let mut bytes = Vec::new();
        write_layer(&image, &mut bytes).unwrap();
        let names: Vec<String> = tar::Archive::new(bytes.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        let at = |name: &str| names.iter().position(|have| have == name).unwrap();
        assert!(at("a/") < at("a/b/") && at("a/b/") < at("a/b/c"), "{names:?}");
    }
}
