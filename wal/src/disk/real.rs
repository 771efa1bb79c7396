//! The real disk: files of the operating system, and a rung of the ladder for durable writes.
//!
//! The rung and what goes with it are settled once, when the disk is opened: see
//! [`probe`](mod@super::probe) for how, and `verdicts.rs` for how that is remembered. Everything else is spread over files of one noun each: open
//! files, directories, the lock file, maps, and one queue for each way of writing durably. For event
//! loops io_uring signals its completions itself; the other rungs are put behind writer threads.
//!
//! ```
//! use strandline_wal::disk::{Disk, OpenMode, RealDisk};
//!
//! # let dir = std::env::temp_dir().join(format!("strandline-doc-{}", std::process::id()));
//! let disk = RealDisk::open(&dir, None)?;
//! println!("{}: {}", disk.profile().rung, disk.why());
//! let path = dir.join("greeting");
//! let file = disk.open(&path, OpenMode::Create)?;
//! file.write_at(b"hello", 0)?;
//! file.sync()?;
//! disk.sync_dir(&dir)?;
//! assert_eq!(&*disk.map(&path)?, b"hello");
//! # disk.remove(&path)?;
//! # std::fs::remove_dir(&dir).ok();
//! # Ok::<(), strandline_wal::Error>(())
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bell::Bell;
use super::fdatasync::SyncQueue;
use super::mixed::MixedQueue;
use super::pwritev2::Pwritev2Queue;
use super::real_file::Access;
use super::trial::SECTOR;
use super::uring::UringQueue;
use super::verdicts::{Settled, VERDICTS};
use super::writer_threads::WriterThreads;
use super::{
    Disk, File, Lock, Map, OpenMode, Profile, Rung, WriteQueue, directory, fdatasync, io_error,
    lock_file, mapped_file, probe, pwritev2, real_file, uring,
};
use crate::{Error, Result};

/// How many threads read at once: more gained nothing, with small reads of many files and large ones of one.
const READERS_MAX: usize = 4;

/// The disk of the operating system. It holds no descriptors; any number may be open at once.
#[derive(Clone, Debug)]
pub struct RealDisk {
    /// Where it was opened, for errors that concern no file.
    dir: PathBuf,
    /// How durable writes are made.
    rung: Rung,
    /// How files are opened.
    access: Access,
    /// Why this rung.
    why: String,
    /// Whether the rung was found by probing, not asked for.
    is_probed: bool,
}

impl RealDisk {
    /// The disk under `dir`, which is created, durably, if it does not exist. `None` tries the
    /// rungs there, quickly, and takes the best one; what was found is kept in the file
    /// [`VERDICT_FILE`](super::VERDICT_FILE), and while the machine runs it is only proven again, by a single
    /// write. `Some` takes that one, after a single trial write. [`Rung::PortableFsync`] needs no trial, so that with it nothing is created or
    /// written: this is how tools open what they only read.
    ///
    /// A full disk, where nothing can be tried, is opened nevertheless.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the wanted rung does not work there, saying why; [`Error::Io`]
    /// if the directory cannot be created or no file can be written in it.
    pub fn open(dir: &Path, wanted: Option<Rung>) -> Result<RealDisk> {
        let (rung, alignment, why) = match wanted {
            Some(Rung::PortableFsync) => (Rung::PortableFsync, SECTOR, "it was asked for".into()),
            Some(rung) => {
                directory::create_all(dir)?;
                (rung, probe::demand(dir, rung)?, "it was asked for".into())
            }
            None => {
                directory::create_all(dir)?;
                let Settled { rung, alignment, mut why, is_remembered } = VERDICTS.settle(dir)?;
                if is_remembered {
                    why += "; found earlier, since the machine was started, and proven now";
                }
                (rung, alignment.unwrap_or(SECTOR), why)
            }
        };
        let access = Access::of(rung, alignment);
        Ok(RealDisk { dir: dir.to_path_buf(), rung, access, why, is_probed: wanted.is_none() })
    }

    /// Why this rung was taken, in words for people.
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// The queue of a rung. `dir` is for errors.
///
/// # Errors
///
/// [`Error::Io`] if the kernel refuses what the rung needs; [`Error::InvalidOption`] if the rung is
/// not one of the real disk.
pub(super) fn queue_of(rung: Rung, dir: &Path) -> Result<Box<dyn WriteQueue>> {
    match rung {
        Rung::IoUring => Ok(Box::new(UringQueue::new(dir)?)),
        Rung::Pwritev2 => Ok(Box::new(Pwritev2Queue)),
        Rung::DirectFdatasync | Rung::BufferedFdatasync | Rung::PortableFsync => {
            Ok(Box::new(SyncQueue::default()))
        }
        Rung::Simulated => Err(Error::InvalidOption {
            reason: format!("the rung {rung} is not one of the real disk"),
        }),
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        directory::create_all(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        directory::list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        real_file::open(path, mode, self.access)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        directory::exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|error| io_error("rename", from, 0, error))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|error| io_error("remove", path, 0, error))
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        fs::hard_link(from, to).map_err(|error| io_error("link", to, 0, error))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        directory::sync(dir)
    }

    fn map_front(&self, path: &Path, len: u64) -> Result<Map> {
        mapped_file::map_front(path, len)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        lock_file::lock(path)
    }

    fn write_queue(&self) -> Result<Box<dyn WriteQueue>> {
        queue_of(self.rung, &self.dir)
    }

    fn event_queue(&self) -> Result<Box<dyn WriteQueue>> {
        if self.rung == Rung::IoUring {
            return Ok(Box::new(UringQueue::with_bell(Bell::new(&self.dir)?, &self.dir)?));
        }
        let inner = queue_of(self.rung, &self.dir)?;
        let writers_max = self.profile().depth_max;
        if self.rung == Rung::Pwritev2 && self.is_probed {
            // Where the ring is forbidden threads do it all.
            if let Ok(mixed) =
                MixedQueue::new(queue_of(self.rung, &self.dir)?, writers_max, &self.dir)
            {
                return Ok(Box::new(mixed));
            }
        }
        Ok(Box::new(WriterThreads::new(inner, writers_max, &self.dir)?))
    }

    fn profile(&self) -> Profile {
        let depth_max = match self.rung {
            Rung::IoUring => uring::DEPTH_MAX,
            Rung::Pwritev2 => pwritev2::DEPTH_MAX,
            _ => fdatasync::DEPTH_MAX,
        };
        Profile { rung: self.rung, alignment: self.access.alignment, depth_max }
    }

    fn readers_max(&self) -> usize {
        READERS_MAX
    }
}
