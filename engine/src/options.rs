//! The engine's settings.

use crate::table::{Compression, TableOptions};
use crate::{Error, Result};

/// Settings of an [`Engine`](crate::Engine). The defaults suit a machine with some gigabytes of
/// memory; all sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// A memtable is sealed when it takes about this much memory. 64 MiB: large enough that a flush
    /// is one long sequential write, small enough that a replay after a crash takes about a second.
    pub memtable_size: usize,
    /// How many sealed memtables may wait for their flush before writers have to wait. 4.
    pub sealed_max: usize,
    /// Memory for blocks of tables. 256 MiB.
    pub block_cache_size: usize,
    /// The unit of reading in a table. 4 KiB.
    pub block_size: usize,
    /// How blocks are compressed.
    pub compression: Compression,
    /// Bits of filter per key: 10 make one useless lookup in a hundred.
    pub filter_bits_per_key: usize,
    /// Compaction begins a new table at this size. 32 MiB: what a compaction has to rewrite grows
    /// with it, the count of files shrinks.
    pub table_size: u64,
    /// At this many tables level 0 is compacted. 4.
    pub level_0_trigger: usize,
    /// At this many tables of level 0 writers have to wait. 24.
    pub level_0_max: usize,
    /// Target size of level 1; each next one is ten times as large. 256 MiB.
    pub level_1_size: u64,
}

impl Default for Options {
    fn default() -> Self {
        let table = TableOptions::default();
        Self {
            memtable_size: 64 << 20,
            sealed_max: 4,
            block_cache_size: 256 << 20,
            block_size: table.block_size,
            compression: table.compression,
            filter_bits_per_key: table.filter_bits_per_key,
            table_size: 32 << 20,
            level_0_trigger: 4,
            level_0_max: 24,
            level_1_size: 256 << 20,
        }
    }
}

/// The largest size that makes sense for a memtable or a table: offsets in them stay below 2^32.
const SIZE_MAX: u64 = 2 << 30;

impl Options {
    /// Whether these settings can work.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] names the first that cannot.
    pub fn validate(&self) -> Result<()> {
        let memtable_size = u64::try_from(self.memtable_size).unwrap_or(u64::MAX);
        let checks = [
            (memtable_size > 0 && memtable_size <= SIZE_MAX, "memtable_size is 1 byte to 2 GiB"),
            (self.table_size > 0 && self.table_size <= SIZE_MAX, "table_size is 1 byte to 2 GiB"),
            (self.sealed_max >= 1, "sealed_max is 1 or more"),
            (self.block_size >= 64 && self.block_size <= 1 << 20, "block_size is 64 B to 1 MiB"),
            (self.filter_bits_per_key <= 64, "filter_bits_per_key is 64 or less"),
            (self.level_0_trigger >= 1, "level_0_trigger is 1 or more"),
            (self.level_0_max > 2 * self.level_0_trigger, "level_0_max is over twice the trigger"),
            (self.level_1_size > 0, "level_1_size is 1 byte or more"),
        ];
        match checks.iter().find(|(is_fine, _)| !is_fine) {
            Some((_, reason)) => Err(Error::InvalidOption { reason: (*reason).to_owned() }),
            None => Ok(()),
        }
    }

    /// How tables are written.
    pub(crate) fn table(&self) -> TableOptions {
        TableOptions {
            block_size: self.block_size,
            compression: self.compression,
            filter_bits_per_key: self.filter_bits_per_key,
            filters: self.filter_bits_per_key > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_work_and_a_limit_that_never_lets_go_cannot() {
        Options::default().validate().unwrap();
        let options = Options { level_0_max: 4, ..Options::default() };
        assert!(matches!(options.validate(), Err(Error::InvalidOption { .. })));
    }
}
