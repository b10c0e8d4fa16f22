//! The one layer of an image: a tar whose bytes depend on the entries alone.

use std::fs::File;
use std::io::{Read, Write};

use tar::{Builder, EntryType, Header};

use super::spec::{Capability, Entry, ImageSpec, Source};

pub fn write(image: &ImageSpec, out: impl Write) -> std::io::Result<()> {
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
    use crate::hostcluster::image::spec::Process;

    #[test]
    fn same_entries_same_bytes_in_whatever_order_they_came() {
        let build = |paths: [&str; 2]| {
            let mut image = ImageSpec::new("example/x:1", Process::default());
            for path in paths {
                image.text(path, path);
            }
            let mut bytes = Vec::new();
            write(&image, &mut bytes).unwrap();
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
        write(&image, &mut bytes).unwrap();
        let names: Vec<String> = tar::Archive::new(bytes.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        let at = |name: &str| names.iter().position(|have| have == name).unwrap();
        assert!(at("a/") < at("a/b/") && at("a/b/") < at("a/b/c"), "{names:?}");
    }
}
