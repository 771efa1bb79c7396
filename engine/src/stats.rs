//! Counters of the engine, and the picture of it that they are read as.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the engine has done since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub flushes: AtomicU64,
    pub flushed_bytes: AtomicU64,
    pub compactions: AtomicU64,
    pub compaction_read_bytes: AtomicU64,
    pub compaction_written_bytes: AtomicU64,
    pub moves: AtomicU64,
    pub tables_removed: AtomicU64,
}

impl Counters {
    /// Adds to one of the counters.
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Reads one of the counters.
    pub(crate) fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// One level of tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// How many tables.
    pub tables: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

/// What the engine holds, and what it has done since it was opened. Sizes are in bytes.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// The levels, from 0.
    pub levels: Vec<LevelStats>,
    /// Memory of the active memtable.
    pub active_bytes: u64,
    /// How many sealed memtables wait for their flush.
    pub sealed: usize,
    /// Memory of the sealed memtables.
    pub sealed_bytes: u64,
    /// Memory of the block cache.
    pub block_cache_bytes: u64,
    /// Views that are held.
    pub views: usize,
    /// Tables that were replaced and are still read.
    pub obsolete_tables: usize,
    /// Flushes that were installed.
    pub flushes: u64,
    /// What they wrote.
    pub flushed_bytes: u64,
    /// Compactions that were installed.
    pub compactions: u64,
    /// What they read.
    pub compaction_read_bytes: u64,
    /// What they wrote.
    pub compaction_written_bytes: u64,
    /// Tables that went to the next level without being rewritten.
    pub moves: u64,
    /// Table files that were removed.
    pub tables_removed: u64,
    /// The number of the manifest in use.
    pub manifest: u64,
    /// The damage that ended compaction, if any.
    pub compaction_error: Option<String>,
}
