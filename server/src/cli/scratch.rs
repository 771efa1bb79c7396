//! A directory of our own that is gone when we are, and the wish to be gone early.
//!
//! [`Scratch`] removes its directory when it is dropped. That does not happen when a signal ends the
//! process, so [`watch_for_interrupts`] turns SIGINT and SIGTERM into a flag which the verbs look at
//! in every loop: they end with [`Error::Interrupted`] and everything is dropped in order. Against
//! SIGKILL there is no defence; the directory's name says whose it was.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{Error, Result};

/// How many names are tried before giving up on finding a free one.
const NAMES_MAX: u32 = 1000;

/// Whether the process has been asked to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A temporary directory, removed on drop.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a new directory, readable by this user only, in `parent` or where the system keeps
    /// temporary files.
    ///
    /// # Errors
    ///
    /// If no directory can be made there.
    pub(crate) fn create(parent: Option<&Path>, purpose: &str) -> Result<Scratch> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        for attempt in 0..NAMES_MAX {
            let name = format!("strandline-{purpose}-{}-{attempt}", std::process::id());
            let path = parent.join(name);
            // Never a directory that is there already: somebody else may have laid it out for us.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Scratch { path }),
                Err(source) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(Error::Path { operation: "create directory", path, source });
                }
            }
        }
        Err(Error::Path {
            operation: "create directory",
            path: parent,
            source: std::io::ErrorKind::AlreadyExists.into(),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // There is nobody to tell, and a leftover in a temporary directory harms nobody.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// From now on SIGINT and SIGTERM do not end the process but make [`check`] fail.
///
/// # Errors
///
/// If the system refuses.
pub(crate) fn watch_for_interrupts() -> Result<()> {
    let refused = |source| Error::System { what: "how to catch signals", source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(refused)?;
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt()).map_err(refused)?,
            signal(SignalKind::terminate()).map_err(refused)?,
        )
    };
    // Nobody joins this thread: it ends with the process.
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            INTERRUPTED.store(true, Ordering::Relaxed);
        });
    });
    Ok(())
}

/// Goes on, unless the process has been asked to end.
///
/// # Errors
///
/// [`Error::Interrupted`].
pub(crate) fn check() -> Result<()> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        true => Err(Error::Interrupted),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_distinct_and_removed() {
        let one = Scratch::create(None, "test").expect("there is a temporary directory");
        let other = Scratch::create(None, "test").expect("there is a temporary directory");
        assert_ne!(one.path(), other.path());
        fs::write(one.path().join("file"), b"x").expect("it is ours");
        let path = one.path().to_path_buf();
        drop(one);
        assert!(!path.exists(), "removed with what was in it");
        assert!(other.path().exists(), "the other one is untouched");
    }

    #[test]
    fn a_missing_parent_is_named() {
        let error =
            Scratch::create(Some(Path::new("/nowhere/at/all")), "test").expect_err("missing");
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
