//! The bare disk as one more contestant: what a log could reach at the most if it wrote each append by itself.
//!
//! The threads write whole blocks, `O_DIRECT` and `O_DSYNC`, each at the next place of one file that was written
//! before, round and round: the same as fio with `--direct=1 --sync=dsync` and as many jobs. A log
//! that puts many appends into one write may be faster than that.
//!
//! The file is as large as a log's segments together. A virtual disk answers sooner if the same few blocks are
//! written again and again, which no log does: 1 MiB in 0.45 ms within 4 MiB, and in 0.54 ms within 64 MiB or more.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::workload::{KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

const NAME: &str = "disk";
/// What writes are rounded up to.
const BLOCK_LEN: usize = 4096;
/// Bytes of the file that all threads go round in.
const FILE_LEN: usize = 256 << 20;

/// The bare disk.
pub const OPENER: Opener = Opener { name: NAME, open };

struct Disk {
    file: OwnedFd,
    is_direct: bool,
    /// Where the next write goes, counted on over all rounds.
    next: AtomicUsize,
    /// Writes made, each of them synced.
    writes: AtomicU64,
}

fn open(dir: &Path) -> Result<Box<dyn Store>> {
    let path = dir.join("blocks");
    std::fs::write(&path, vec![1; FILE_LEN]).map_err(Error::io("write", &path))?;
    let written = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
    written.sync_all().map_err(Error::io("sync", &path))?;
    let flags = OFlags::WRONLY | OFlags::DSYNC | OFlags::CLOEXEC;
    let direct = rustix::fs::open(&path, flags | OFlags::DIRECT, Mode::empty());
    let is_direct = direct.is_ok();
    let file = match direct {
        Err(Errno::INVAL) => rustix::fs::open(&path, flags, Mode::empty()),
        opened => opened,
    };
    let file = file.map_err(std::io::Error::from).map_err(Error::io("open", &path))?;
    Ok(Box::new(Disk { file, is_direct, next: AtomicUsize::new(0), writes: AtomicU64::new(0) }))
}

impl Store for Disk {
    fn durable_by(&self) -> String {
        match self.is_direct {
            true => "pwrite(O_DSYNC, O_DIRECT)".into(),
            false => "pwrite(O_DSYNC)".into(),
        }
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.writes.load(Ordering::Relaxed))
    }

    fn writer(&self, _: usize) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(Blocks { disk: self, bytes: Vec::new() }))
    }
}

struct Blocks<'a> {
    disk: &'a Disk,
    /// Room for one aligned write.
    bytes: Vec<u8>,
}

impl Writer for Blocks<'_> {
    fn write(&mut self, _: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        let len = value.len().next_multiple_of(BLOCK_LEN);
        if self.bytes.len() < len + BLOCK_LEN {
            self.bytes = vec![2; len + BLOCK_LEN];
        }
        let at = self.bytes.as_ptr().align_offset(BLOCK_LEN);
        let bytes = &mut self.bytes[at..at + len];
        bytes[..value.len()].copy_from_slice(value);
        // In whole places, so that none reaches beyond the end.
        let place = self.disk.next.fetch_add(1, Ordering::Relaxed) % (FILE_LEN / len);
        let offset = u64::try_from(place * len).expect("the file is small");
        let path = Path::new("blocks");
        let written = rustix::io::pwrite(&self.disk.file, bytes, offset)
            .map_err(std::io::Error::from)
            .map_err(Error::io("write", path))?;
        self.disk.writes.fetch_add(1, Ordering::Relaxed);
        assert_eq!(written, len, "whole blocks are never written in part");
        Ok(())
    }
}
