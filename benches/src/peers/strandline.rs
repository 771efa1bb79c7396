//! Ourselves: the log alone, and the store over it. Default settings, the rung that the probe chooses.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strandline_engine::{Db, DbOptions, KeyspaceId};
use strandline_wal::disk::{Disk, RealDisk, Rung};
use strandline_wal::{Lsn, Options, Wal};

use crate::workload::{KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

const NAME: &str = "strandline";
/// The log is trimmed each time it has grown by so many bytes, so that its segments are used again.
const TRIM_EVERY: usize = 16 << 20;

/// The log, on the rung that the probe chooses.
pub const LOG: Opener = Opener { name: NAME, open: |dir| open_log(dir, None) };

/// The log, on each rung that can be forced.
pub const LOG_BY_RUNG: [Opener; 4] = [
    Opener { name: "io_uring", open: |dir| open_log(dir, Some(Rung::IoUring)) },
    Opener { name: "pwritev2", open: |dir| open_log(dir, Some(Rung::Pwritev2)) },
    Opener { name: "direct-fdatasync", open: |dir| open_log(dir, Some(Rung::DirectFdatasync)) },
    Opener { name: "buffered-fdatasync", open: |dir| open_log(dir, Some(Rung::BufferedFdatasync)) },
];

fn open_log(dir: &Path, rung: Option<Rung>) -> Result<Box<dyn Store>> {
    let disk = RealDisk::open(dir, rung).map_err(Error::store(NAME, "open the disk"))?;
    let rung = disk.profile().rung;
    let (wal, _) = Wal::open(Arc::new(disk), dir, Options::default())
        .map_err(Error::store(NAME, "open the log"))?;
    Ok(Box::new(Log { wal, rung, trimmed: AtomicU64::new(0) }))
}

/// The store.
pub const ENGINE: Opener = Opener { name: NAME, open: open_engine };

fn open_engine(dir: &Path) -> Result<Box<dyn Store>> {
    // The store would probe for itself and not tell; so it is told what a probe has just chosen.
    let disk = RealDisk::open(dir, None).map_err(Error::store(NAME, "open the disk"))?;
    let rung = disk.profile().rung;
    drop(disk);
    let options = DbOptions { rung: Some(rung), ..DbOptions::default() };
    let db = Db::open(dir, options).map_err(Error::store(NAME, "open"))?;
    Ok(Box::new(Engine { db, rung }))
}

/// The system call behind a rung.
fn system_call(rung: Rung) -> &'static str {
    match rung {
        Rung::IoUring => "io_uring write(RWF_DSYNC, O_DIRECT)",
        Rung::Pwritev2 => "pwritev2(RWF_DSYNC, O_DIRECT)",
        Rung::DirectFdatasync => "pwrite(O_DIRECT) + fdatasync",
        Rung::BufferedFdatasync => "fdatasync",
        Rung::PortableFsync => "fsync",
        Rung::Simulated => "nothing (simulated)",
    }
}

/// The system call that makes a server's writes below `dir` durable, by a probe of our own: on a
/// disk where two rungs are close, the server's own probe may have chosen the other.
///
/// # Errors
///
/// If the disk cannot be probed.
pub fn durable_by(dir: &Path) -> Result<String> {
    let disk = RealDisk::open(dir, None).map_err(Error::store(NAME, "open the disk"))?;
    Ok(system_call(disk.profile().rung).into())
}

struct Log {
    wal: Wal,
    rung: Rung,
    /// Everything up to here has been trimmed.
    trimmed: AtomicU64,
}

impl Store for Log {
    fn durable_by(&self) -> String {
        system_call(self.rung).into()
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.wal.stats().syncs)
    }

    fn writer(&self, _: usize) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(self))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // An error would have shown in the writes.
        let _ = self.wal.close();
    }
}

impl Writer for &Log {
    fn write(&mut self, _: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        let lsn = self.wal.append(value).map_err(Error::store(NAME, "append"))?;
        self.wal.wait(lsn).map_err(Error::store(NAME, "sync"))?;
        let records = u64::try_from(TRIM_EVERY / value.len().max(1)).unwrap_or(u64::MAX);
        if lsn.0.is_multiple_of(records.max(1))
            && self.trimmed.fetch_max(lsn.0, Ordering::Relaxed) < lsn.0
        {
            self.wal.trim(Lsn(lsn.0));
        }
        Ok(())
    }
}

struct Engine {
    db: Db,
    rung: Rung,
}

impl Store for Engine {
    fn durable_by(&self) -> String {
        system_call(self.rung).into()
    }

    fn writer(&self, _: usize) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(&self.db))
    }
}

impl Writer for &Db {
    fn write(&mut self, key: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        self.put(KeyspaceId::DEFAULT, key, value).map_err(Error::store(NAME, "put"))?;
        Ok(())
    }
}
