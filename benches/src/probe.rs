//! The bare disk: how long one synced write takes right now.
//!
//! Machines are shared, so before each round of a comparison the disk is asked without any store in
//! between: 4 KiB, `O_DIRECT` and `O_DSYNC`, into blocks that have been written before, one at a time.
//! A round whose probe is far off the others' says more about the neighbours than about the stores,
//! and is dropped by [`rounds`](crate::rounds).
//!
//! Where the file system refuses `O_DIRECT` (overlay, old tmpfs), the probe writes through the page
//! cache, still with `O_DSYNC`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// Bytes of one write: what one small group of a log costs at the least.
const WRITE_LEN: usize = 4096;
/// Blocks of the file. The writes go round, so that no block is written twice in a row.
const BLOCKS: usize = 256;
/// Writes of one probe: enough for a median, and over in 10 ms on a good disk.
const WRITES: usize = 100;

/// A file that is there to be written and synced.
#[derive(Debug)]
pub struct Probe {
    file: OwnedFd,
    path: PathBuf,
    /// Room for one aligned write.
    buffer: Vec<u8>,
    /// Where in `buffer` the aligned part begins.
    aligned_at: usize,
    /// The block that is written next.
    block: usize,
}

impl Probe {
    /// Makes a file in `dir`, fully written; it is removed with the probe.
    ///
    /// # Errors
    ///
    /// If it cannot be made or written.
    pub fn open(dir: &Path) -> Result<Probe> {
        let path = dir.join(format!("probe-{}", std::process::id()));
        let filler = vec![1; WRITE_LEN * BLOCKS];
        std::fs::write(&path, &filler).map_err(Error::io("write", &path))?;
        let written = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
        written.sync_all().map_err(Error::io("sync", &path))?;

        let flags = OFlags::WRONLY | OFlags::DSYNC | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags | OFlags::DIRECT, Mode::empty()) {
            Err(Errno::INVAL) => rustix::fs::open(&path, flags, Mode::empty()),
            opened => opened,
        }
        .map_err(std::io::Error::from)
        .map_err(Error::io("open", &path))?;

        let buffer = vec![2; WRITE_LEN * 2];
        let aligned_at = buffer.as_ptr().align_offset(WRITE_LEN);
        assert!(aligned_at < WRITE_LEN, "bytes can be aligned to anything");
        Ok(Probe { file, path, buffer, aligned_at, block: 0 })
    }

    /// The median time of one synced write.
    ///
    /// # Errors
    ///
    /// If a write fails.
    pub fn measure(&mut self) -> Result<Duration> {
        let mut times = Vec::with_capacity(WRITES);
        for _ in 0..WRITES {
            let offset = u64::try_from(self.block * WRITE_LEN).expect("the file is small");
            let bytes = &self.buffer[self.aligned_at..self.aligned_at + WRITE_LEN];
            let started = Instant::now();
            let written = rustix::io::pwrite(&self.file, bytes, offset)
                .map_err(std::io::Error::from)
                .map_err(Error::io("write", &self.path))?;
            times.push(started.elapsed());
            assert_eq!(written, WRITE_LEN, "one block is never written in part");
            self.block = (self.block + 1) % BLOCKS;
        }
        times.sort_unstable();
        Ok(times[WRITES / 2])
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // A file that stays behind is 1 MiB, and somebody else's to notice.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_takes_some_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut probe = Probe::open(dir.path()).unwrap();
        assert!(probe.measure().unwrap() > Duration::ZERO);
        // More than a whole turn around the file.
        for _ in 0..=BLOCKS / WRITES {
            probe.measure().unwrap();
        }
        drop(probe);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays behind");
    }
}
