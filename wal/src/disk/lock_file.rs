//! The lock that keeps two processes out of one directory.
//!
//! The lock is `flock`, exclusive and not waiting, on a file that stays when the lock is released:
//! to remove it would let two processes lock two files of the same name. The kernel releases it
//! when the process ends, however it ends, so no stale lock needs to be judged. Our process id is
//! written into it for whoever looks; nothing reads it back, and a disk too full to take it does
//! not keep the directory from being opened.
//!
//! What is left out: network file systems on which `flock` does not reach other machines.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FlockOperation;

use super::{Lock, io_error};
use crate::{Error, Result};

/// The held lock; closing the descriptor releases it.
#[derive(Debug)]
struct LockFile {
    _file: fs::File,
}

impl Lock for LockFile {}

/// Takes the lock.
///
/// # Errors
///
/// [`Error::Locked`] while someone holds it, [`Error::Io`] if the file cannot be opened or locked.
pub(super) fn lock(path: &Path) -> Result<Box<dyn Lock>> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).map_err(|error| io_error("open", path, 0, error))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Locked { path: path.to_path_buf() });
            }
            Err(error) => return Err(io_error("lock", path, 0, error.into())),
        }
    }
    // For humans only: see the head of the file for why failures do not matter.
    let text = format!("{}\n", std::process::id());
    let _ = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0));
    Ok(Box::new(LockFile { _file: file }))
}
