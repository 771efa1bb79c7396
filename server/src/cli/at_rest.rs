//! A store that is not running, for the verbs that verify and mend one: its disk and its locks.
//!
//! Nothing is created or written by opening it. Shared locks keep nodes out as long as it is held. The log of a
//! store may have a spare directory, of which the store's own directory does not know the name: it comes from
//! the flag, the environment or the file of settings that the store is started with, the first of these that
//! is there, as it does for `serve`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustix::fs::FlockOperation;
use strandline_engine::{log_dir, state_dir};
use strandline_wal::disk::Disk;
use strandline_wal::{SpareDirectory, with_spare};

use super::error::{Error, Result};
use super::inspect::reading_disk;
use crate::config::{Config, ConfigError};

/// The file that a log is locked by.
const LOCK_FILE: &str = "LOCK";

/// Which store.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// The spare directory of its log, if it has one.
    #[arg(long, value_name = "DIR", env = "STRANDLINE_LOG_SPARE_DIR")]
    pub(crate) log_spare_dir: Option<PathBuf>,
    /// File with the settings that it is started with: for its log-spare-dir.
    #[arg(long, value_name = "FILE", env = "STRANDLINE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

impl StoreArgs {
    fn spare(&self) -> Result<Option<PathBuf>> {
        let spare = match (&self.log_spare_dir, &self.config) {
            (Some(spare), _) => spare.clone(),
            (None, Some(path)) => {
                let config = Config::load(Some(path), std::iter::empty());
                config.map_err(not_understood)?.get("log-spare-dir").into()
            }
            (None, None) => PathBuf::new(),
        };
        Ok((!spare.as_os_str().is_empty()).then_some(spare))
    }
}

fn not_understood(error: ConfigError) -> Error {
    match error {
        ConfigError::Unreadable { path, source } => Error::Path { operation: "read", path, source },
        error => Error::Usage { reason: error.to_string() },
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct StoreAtRest {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// The directory of its log.
    pub(crate) log: PathBuf,
    /// The disk, and that of its log's spare directory with it.
    pub(crate) disk: Arc<dyn Disk>,
    /// Keeps nodes out of the log.
    lock: Option<fs::File>,
    /// Keeps logs out of the spare directory.
    _spare_lock: Option<fs::File>,
}

impl StoreAtRest {
    /// Finds the store and locks it.
    ///
    /// # Errors
    ///
    /// If there is none, if a node has it open, or if the spare directory is another log's or is missing.
    pub(crate) fn open(args: &StoreArgs) -> Result<StoreAtRest> {
        let spare = args.spare()?;
        let dir = args.dir.clone();
        let log = find_log(&dir)?;
        let disk = reading_disk(&dir)?;
        let lock = lock(&log)?;
        let Some(spare) = spare else {
            return Ok(StoreAtRest { dir, log, disk, lock, _spare_lock: None });
        };
        let _spare_lock = self::lock(&spare)?;
        let spare = SpareDirectory { disk: reading_disk(&spare)?, dir: spare };
        let disk = with_spare(disk, &log, &spare)?;
        Ok(StoreAtRest { dir, log, disk, lock, _spare_lock })
    }

    /// Lets go of the log, for whoever mends it takes its lock alone. Its spare directory stays locked.
    pub(crate) fn release_log(&mut self) {
        self.lock = None;
    }
}

/// The log of the store in `dir`.
fn find_log(dir: &Path) -> Result<PathBuf> {
    let log = log_dir(dir);
    match log.is_dir() || state_dir(dir).is_dir() {
        true => Ok(log),
        false => Err(Error::Path {
            operation: "find a store in",
            path: dir.to_path_buf(),
            source: std::io::ErrorKind::NotFound.into(),
        }),
    }
}

/// Keeps nodes out as long as the result lives. A copy of a directory may have no lock file; then
/// nobody has it open, and nothing is created.
fn lock(log: &Path) -> Result<Option<fs::File>> {
    let path = log.join(LOCK_FILE);
    let refused = |operation| {
        let path = path.clone();
        move |source| Error::Path { operation, path, source }
    };
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused("open")(error)),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::Log(strandline_wal::Error::Locked { path }))
        }
        Err(error) => Err(refused("lock")(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::scratch::Scratch;

    fn args(spare: Option<&str>, config: Option<PathBuf>) -> StoreArgs {
        StoreArgs { dir: PathBuf::new(), log_spare_dir: spare.map(PathBuf::from), config }
    }

    #[test]
    fn the_flag_goes_over_the_file() {
        let scratch = Scratch::create(None, "test").expect("there is a temporary directory");
        let path = scratch.path().join("strandline.toml");
        fs::write(&path, "port = 7000\nlog-spare-dir = \"/of/the/file\"\n").expect("it is ours");
        let file = Some(path.clone());
        let spare = |args: StoreArgs| args.spare().expect("they are understood");
        assert_eq!(spare(args(None, None)), None);
        assert_eq!(spare(args(Some("/a"), file.clone())), Some("/a".into()));
        assert_eq!(spare(args(None, file.clone())), Some("/of/the/file".into()));
        assert_eq!(
            spare(args(Some(""), file.clone())),
            None,
            "without one, whatever the file says"
        );
        fs::write(&path, "log-spare-directory = \"/a\"\n").expect("it is ours");
        let error = args(None, file).spare().expect_err("there is no such setting");
        assert!(matches!(error, Error::Usage { .. }), "{error}");
        let error = args(None, Some("/nowhere".into())).spare().expect_err("there is no such file");
        assert!(matches!(error, Error::Path { .. }), "{error}");
    }
}
