//! Replacing a small file as a whole: after a crash it has the old content or the new.
//!
//! The order is what makes it so. The new content goes to a second file beside the first, and is
//! synced *before* the rename, or the name could survive a power cut without the bytes. The
//! directory is synced *after* it, or a replacement that was reported could be undone.
//!
//! **Who opens such a file syncs its directory before relying on what it says**: a process that was killed
//! between the rename and the sync has left the new name in the cache, and a power cut brings the old
//! content back.
//!
//! Works on any [`Disk`]. After an error either content may be there, and the second file may be
//! left over; the next replacement removes it first. Two replacements of one file at the same time
//! are not meant: whoever owns the file takes them in turn.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::directory::parent_of;
use super::{Disk, OpenMode};
use crate::{Result, canary};

/// What is added to the name of the file while its new content is being written.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Replaces the content of `path` by `bytes`, or creates it, atomically and durably.
///
/// # Errors
///
/// Whatever the disk refuses; the file then has its old content or the new one.
pub fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_of(path);
    match disk.remove(&temporary) {
        Err(error) if error.is_not_found() => {}
        other => other?,
    }
    let file = disk.open(&temporary, OpenMode::Create)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    if !canary::is_on(canary::NO_DIRECTORY_SYNC_AFTER_RENAME) {
        disk.sync_dir(parent_of(path))?;
    }
    Ok(())
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}
