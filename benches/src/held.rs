//! The rows of a log that is held by a process and killed: opening it again, what that reads, and what its index
//! takes in memory.
//!
//! A log is filled by a process that is killed with -9. In each turn another one opens it, and is killed after it has
//! appended a little: so every opening is one after a kill. Nothing is dropped from the page cache: a kill does
//! not, either.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::holder::{self, Held, Log};
use crate::rounds::{Contestant, Turn};
use crate::{Error, Result};

/// Records that are appended in each turn, after the log was opened.
const A_FEW: u64 = 640;

/// A log that is opened in each turn.
pub struct Reopened {
    log: Log,
    below: PathBuf,
    /// Records that are there at the first opening, and bytes of each.
    records: u64,
    len: usize,
    dir: Option<TempDir>,
}

impl Reopened {
    /// A log of so many records of `len` bytes, in a directory of its own below `below`.
    pub fn new(log: Log, records: u64, len: usize, below: &Path) -> Reopened {
        Reopened { log, below: below.to_path_buf(), records, len, dir: None }
    }
}

impl Contestant for Reopened {
    fn name(&self) -> &'static str {
        self.log.name()
    }

    fn turn(&mut self) -> Result<Turn> {
        let dir = match &self.dir {
            Some(dir) => dir,
            None => {
                let dir = directory(self.log, &self.below)?;
                holder::hold(self.log, dir.path(), self.records, self.len)?;
                self.dir.insert(dir)
            }
        };
        crate::workload::sync_file_system(&self.below)?;
        let held = holder::hold(self.log, dir.path(), A_FEW, self.len)?;
        Ok(Turn {
            ops_per_s: 1e6 / held.open_us.max(1.0),
            p99_us: held.open_us,
            durable_by: "no write: opening after kill -9".into(),
            counted: Some(held.bytes_read),
            counted_max: held.bytes_promised,
            ..Turn::default()
        })
    }
}

/// A new log in each turn, whose index is looked at.
pub struct Indexed {
    log: Log,
    below: PathBuf,
    records: u64,
    len: usize,
}

impl Indexed {
    /// A log of so many records of `len` bytes, in a directory of its own below `below`.
    pub fn new(log: Log, records: u64, len: usize, below: &Path) -> Indexed {
        Indexed { log, below: below.to_path_buf(), records, len }
    }
}

impl Contestant for Indexed {
    fn name(&self) -> &'static str {
        self.log.name()
    }

    fn turn(&mut self) -> Result<Turn> {
        let dir = directory(self.log, &self.below)?;
        let Held { memory_per_record, .. } =
            holder::hold(self.log, dir.path(), self.records, self.len)?;
        // Memory may shrink where the allocator gives some back: that is nothing for a record.
        Ok(Turn { counted: Some(memory_per_record.max(0.0)), ..Turn::default() })
    }
}

fn directory(log: Log, below: &Path) -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix(log.name()).tempdir_in(below);
    dir.map_err(Error::io("create a directory in", below))
}
