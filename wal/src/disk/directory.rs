//! Directories of the real disk: names in them, and making changes of names durable.
//!
//! A new name survives a power cut only once its directory was synced. [`create_all`] does so for
//! each directory it makes before it makes the next one below, so whatever a crash leaves is a
//! chain of durable directories of which only the last one's name may be in doubt. That one is why
//! the parent of the deepest directory found is synced too.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::io_error;
use crate::{Error, Result};

/// The directory that holds this name.
pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        // A bare name lies in the working directory; the root is its own parent.
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Makes earlier changes of the names in `dir` durable.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be opened or synced.
pub(super) fn sync(dir: &Path) -> Result<()> {
    let file = fs::File::open(dir).map_err(|error| io_error("open directory", dir, 0, error))?;
    rustix::fs::fsync(&file).map_err(|error| io_error("sync directory", dir, 0, error.into()))
}

/// Creates `dir` and its missing parents, each durable before the next.
///
/// # Errors
///
/// [`Error::Io`] if one cannot be created or synced.
pub(super) fn create_all(dir: &Path) -> Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut deepest = dir.to_path_buf();
    while !exists(&deepest)? {
        let parent = parent_of(&deepest).to_path_buf();
        missing.push(std::mem::replace(&mut deepest, parent));
    }
    match sync(parent_of(&deepest)) {
        // A directory above ours that we may not read was not made by us and needs no sync.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
        other => other?,
    }
    for dir in missing.iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => {}
            // Someone else was faster; a file of this name fails at its first use.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("create directory", dir, 0, error)),
        }
        sync(parent_of(dir))?;
    }
    if dir.is_dir() {
        return Ok(());
    }
    Err(io_error("create directory", dir, 0, io::ErrorKind::NotADirectory.into()))
}

/// Whether a file or directory of this name exists.
///
/// # Errors
///
/// [`Error::Io`] if that cannot be told.
pub(super) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|error| io_error("stat", path, 0, error))
}

/// The names in `dir`, sorted.
///
/// # Errors
///
/// [`Error::Io`] if it cannot be read, [`Error::Foreign`] if a name is not UTF-8, as ours all are.
pub(super) fn list(dir: &Path) -> Result<Vec<String>> {
    let failed = |error| io_error("list", dir, 0, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        names.push(entry.file_name().into_string().map_err(|name: OsString| Error::Foreign {
            path: entry.path(),
            expected: "a name in UTF-8".into(),
            found: format!("{name:?}"),
        })?);
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_directory_to_sync() {
        assert_eq!(parent_of(Path::new("a/b")), Path::new("a"));
        assert_eq!(parent_of(Path::new("a")), Path::new("."));
        assert_eq!(parent_of(Path::new("/a")), Path::new("/"));
        assert_eq!(parent_of(Path::new("/")), Path::new("/"));
    }
}
