//! The bare disk as one more contestant: what a log could reach at the most if it wrote each append by itself.
//!
//! Each thread writes whole blocks, `O_DIRECT` and `O_DSYNC`, round and round through a part of one file
//! that was written before: the same as fio with `--direct=1 --sync=dsync` and as many jobs. A log that puts
//! many appends into one write may be faster than that.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::workload::{KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

const NAME: &str = "disk";
/// What writes are rounded up to.
const BLOCK_LEN: usize = 4096;
/// Bytes that one thread goes round in.
const PART_LEN: usize = 4 << 20;
/// Parts of the file; threads beyond share them.
const PARTS: usize = 64;

/// The bare disk.
pub const OPENER: Opener = Opener { name: NAME, open };

struct Disk {
    file: OwnedFd,
    is_direct: bool,
    /// Writes made, each of them synced.
    writes: AtomicU64,
}

fn open(dir: &Path) -> Result<Box<dyn Store>> {
    let path = dir.join("blocks");
    std::fs::write(&path, vec![1; PART_LEN * PARTS]).map_err(Error::io("write", &path))?;
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
    Ok(Box::new(Disk { file, is_direct, writes: AtomicU64::new(0) }))
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

    fn writer(&self, thread: usize) -> Result<Box<dyn Writer + '_>> {
        let start = thread % PARTS * PART_LEN;
        Ok(Box::new(Blocks { disk: self, start, offset: 0, bytes: Vec::new() }))
    }
}

struct Blocks<'a> {
    disk: &'a Disk,
    /// Where this thread's part begins, and where in it the next write goes.
    start: usize,
    offset: usize,
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
        if self.offset + len > PART_LEN {
            self.offset = 0;
        }
        let offset = u64::try_from(self.start + self.offset).expect("the file is small");
        self.offset += len;
        let path = Path::new("blocks");
        let written = rustix::io::pwrite(&self.disk.file, bytes, offset)
            .map_err(std::io::Error::from)
            .map_err(Error::io("write", path))?;
        self.disk.writes.fetch_add(1, Ordering::Relaxed);
        assert_eq!(written, len, "whole blocks are never written in part");
        Ok(())
    }
}
