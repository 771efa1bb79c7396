//! A small store on a simulated disk, as several targets need one.

use std::path::Path;
use std::sync::Arc;

use strandline_engine::{Changes, Db, DbOptions, Entry, Machine, Options, Result};
use strandline_wal::disk::SimulatedDisk;

/// Where it lies.
pub(crate) const DIR: &str = "/store";

/// A machine that takes every command for a batch.
pub(crate) struct Batches;

impl Machine for Batches {
    fn apply(&mut self, entry: &Entry<'_>, changes: &mut Changes<'_>) -> Result<()> {
        changes.put_batch(entry.command)
    }

    fn state(&self) -> Vec<u8> {
        b"state".to_vec()
    }
}

/// Memtables, tables and levels so small that a few writes fill them; a log that is compressed or not.
fn options(compress: bool) -> DbOptions {
    DbOptions {
        wal: strandline_wal::Options {
            segment_size: 64 << 10,
            spares: 1,
            group_size_max: 8 << 10,
            pending_size_max: 32 << 10,
            new_log_id: 7,
            compress,
            ..strandline_wal::Options::default()
        },
        engine: Options {
            memtable_size: 8 << 10,
            block_cache_size: 64 << 10,
            block_size: 256,
            table_size: 4 << 10,
            level_0_trigger: 2,
            level_0_max: 8,
            level_1_size: 8 << 10,
            ..Options::default()
        },
        rung: None,
        background: false,
        ..DbOptions::default()
    }
}

/// Opens it.
pub(crate) fn open(disk: &Arc<SimulatedDisk>) -> Result<Db> {
    open_as(disk, false)
}

/// Opens it with a log that is compressed or not.
pub(crate) fn open_as(disk: &Arc<SimulatedDisk>, compress: bool) -> Result<Db> {
    Db::open_with(disk.mount(), Path::new(DIR), options(compress), Box::new(Batches))
}
