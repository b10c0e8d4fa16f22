//! Images of Nestling's own programs, as cargo has built them here: a program, the libraries it loads, the tools it runs.
//!
//! Tags name the content (`0.1.0-<key>`), so that a rebuilt program is rolled out and an unchanged one is not; `values.yaml` beside the
//! archives has them for the chart.

use nestling_hostcluster::FileError;
use nestling_hostcluster::archive::{self, ArchiveError};
use nestling_hostcluster::image::{ImageSpec, LibraryError, Process};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const REGISTRY: &str = "ghcr.io/nestling-dev";
const NONROOT: &str = "65532:65532";

#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    #[error("{program} is not built: no file {path}")]
    NotBuilt { program: &'static str, path: PathBuf },
    #[error("{program} is not installed on this machine: install package {package}")]
    NotInstalled { program: &'static str, package: &'static str },
    #[error("cannot find the libraries of a program")]
    Libraries(#[from] LibraryError),
    #[error("cannot read a file for an image")]
    File(#[from] FileError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("cannot render the chart's values")]
    Values(#[source] serde_saphyr::ser_error::Error),
    #[error("cannot write the chart's values")]
    WriteValues(#[source] std::io::Error),
}

/// One of our programs as an image.
struct Own {
    /// Of the image and its archive.
    name: &'static str,
    /// Key in the chart's values.
    value: &'static str,
    /// Of the binary that cargo makes.
    program: &'static str,
    user: &'static str,
    /// Programs of the machine that it runs, with the Debian package that has each.
    tools: &'static [(&'static str, &'static str)],
}

const OWN: [Own; 3] = [
    Own { name: "operator", value: "operator", program: "nestling-operator", user: NONROOT, tools: &[] },
    Own {
        name: "node-agent",
        value: "nodeAgent",
        program: "nestling-node-agent",
        // The runtime's socket and the logs belong to root.
        user: "0:0",
        tools: &[("nft", "nftables")],
    },
    Own { name: "cloud-controller", value: "cloudController", program: "cloud-controller-manager", user: NONROOT, tools: &[] },
];

/// An archive that was written.
#[derive(Debug)]
pub struct Written {
    pub image: String,
    pub path: PathBuf,
}

/// Writes `<name>.tar` for each program of `programs` (cargo's output folder) into `folder`, and `values.yaml`.
pub async fn write(programs: &Path, folder: &Path) -> Result<Vec<Written>, ImagesError> {
    let mut written = Vec::new();
    let mut values = serde_json::Map::new();
    for own in &OWN {
        let mut spec = spec(own, programs).await?;
        let tag = format!("{}-{}", env!("CARGO_PKG_VERSION"), spec.key()?);
        spec.name = format!("{REGISTRY}/{}:{tag}", own.name);
        let path = folder.join(format!("{}.tar", own.name));
        archive::write(&spec, &path)?;
        values.insert(own.value.to_owned(), json!({"image": {"tag": tag}}));
        written.push(Written { image: spec.name, path });
    }
    let values = serde_saphyr::to_string(&Value::Object(values)).map_err(ImagesError::Values)?;
    std::fs::write(folder.join("values.yaml"), values).map_err(ImagesError::WriteValues)?;
    Ok(written)
}

async fn spec(own: &Own, programs: &Path) -> Result<ImageSpec, ImagesError> {
    let path = programs.join(own.program);
    if !path.exists() {
        return Err(ImagesError::NotBuilt { program: own.program, path });
    }
    let inside = format!("/usr/local/bin/{}", own.program);
    let mut image = ImageSpec::new(own.name, Process { entrypoint: vec![inside.clone()], user: own.user.to_owned(), ..Process::default() });
    image.linked_program(&inside, &path).await?;
    for (program, package) in own.tools {
        let found =
            ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
        let found = found.ok_or(ImagesError::NotInstalled { program, package })?;
        image.linked_program(&format!("/usr/sbin/{program}"), &found).await?;
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_not_built_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(folder.path(), folder.path()).await.unwrap_err();
        assert!(error.to_string().contains("nestling-operator is not built"), "{error}");
    }

    #[tokio::test]
    async fn archives_and_values_name_the_same_tags() {
        let (programs, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for own in &OWN {
            std::fs::copy("/bin/true", programs.path().join(own.program)).unwrap();
        }
        let written = write(programs.path(), folder.path()).await.unwrap();
        let values = std::fs::read_to_string(folder.path().join("values.yaml")).unwrap();
        for image in written {
            let tag = image.image.rsplit_once(':').unwrap().1.to_owned();
            assert!(values.contains(&tag) && tag.len() <= 128, "{values}");
            assert!(image.path.exists());
        }
    }
}
