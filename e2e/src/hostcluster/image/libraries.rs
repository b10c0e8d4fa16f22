//! The shared libraries of a program, as `ldd` resolves them on this machine.

use std::path::{Path, PathBuf};

use crate::hostcluster::command::{CommandError, Run};

#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("cannot list the libraries of a program")]
    List(#[source] CommandError),
    #[error("{program} needs {library}, which this machine does not have")]
    Missing { program: String, library: String },
}

/// Absolute paths as the loader will ask for them; empty for a static program.
pub async fn of(program: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    match Run::new(["ldd".as_ref(), program.as_os_str()]).text().await {
        Ok(listing) => parse(&listing).map_err(|library| LibraryError::Missing { program: program.display().to_string(), library }),
        Err(CommandError::Failed { stderr, .. }) if stderr.contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(LibraryError::List(error)),
    }
}

/// Err carries the name of a library that was not found.
fn parse(listing: &str) -> Result<Vec<PathBuf>, String> {
    let mut libraries = Vec::new();
    for line in listing.lines().map(str::trim) {
        let place = match line.split_once(" => ") {
            Some((name, "not found")) => return Err(name.to_owned()),
            Some((_, place)) => place,
            None => line,
        };
        let path = place.split(" (").next().unwrap_or(place);
        // What has no path is the kernel's own (linux-vdso), or the line that says the program is static.
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
    fn paths_are_taken_and_the_kernels_own_is_not() {
        let listing =
            "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7e)\n\t/lib64/ld-linux-x86-64.so.2 (0x7d)\n";
        let expected: Vec<PathBuf> = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from).into();
        assert_eq!(parse(listing).unwrap(), expected);
    }

    #[test]
    fn static_programs_have_none() {
        assert_eq!(parse("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_missing_library_is_named() {
        assert_eq!(parse("\tlibx.so.1 => not found\n").unwrap_err(), "libx.so.1");
    }
}
