//! Tables: immutable sorted files of cells.
//!
//! A table holds cells in the engine's order (full key ascending, then index descending), the several
//! versions of a key side by side. It is written once, from the first byte to the last, synced, and
//! never changed; then the manifest makes it visible. `docs/format/table.md` is the format's page.
//!
//! ```text
//! | header | block | block | ... | filter | block index | properties | footer |
//! ```
//!
//! What is promised to a reader:
//!
//! - A read gives what was written, or an error that names file and offset: never anything else, and
//!   never a panic. Header, footer, filter, block index and properties are checked when the table is
//!   opened, each block when it is first touched. A checksum covers the table's number and the offset
//!   besides the bytes, so a block that was written to a wrong place is refused.
//! - What cannot be read is an error too, if it is met when it is read the first time, or to be decompressed. What
//!   was checked, was dropped from memory and cannot be read again ends the process; it is met as an error when
//!   the next one reads it. See [`Map`](strandline_wal::disk::Map).
//! - A lookup on cached blocks allocates nothing and hashes the key once, for the filters of all
//!   tables ([`hash`], [`Table::get_hashed`]).
//! - A value that was read shares the memory it was found in: the mapped file, or the decompressed
//!   block in the cache.
//!
//! What is left out: a table knows no keyspaces, no views and no visibility; it does not know whether
//! it is still part of a version, and it does not delete itself.
//!
//! What is assumed: the file does not change under the map. A raw block is checked once per opening
//! of the table; if its memory is dropped by the operating system and read again from a disk that has
//! decayed meanwhile, the lengths inside are checked as always and the values are not. `verify` checks
//! everything anew each time.
//!
//! The code in the order in which bytes move: [`writer`] fills a [`block`], puts a [`trailer`] behind
//! it, adds it to the [`index`](mod@index) and its keys to the [`filter`], and ends with
//! [`properties`] and [`footer`]. [`reader`] goes the other way, with the [`cache`] in between;
//! [`cursor`] walks, [`verify`] checks, [`dump`] shows.

mod block;
mod cache;
mod cursor;
mod damage;
mod dump;
mod filter;
mod findings;
mod footer;
mod index;
mod properties;
mod reader;
mod trailer;
mod verify;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod model_tests;

use crate::Index;

pub(crate) use cache::BlockCache;
pub(crate) use cursor::TableCursor;
pub use dump::inspect;
// One hash per lookup, for all tables that are asked: see `Table::get_hashed`.
pub(crate) use filter::hash;
#[cfg(feature = "fuzzing")]
pub(crate) use reader::meta_of;
pub(crate) use reader::{Found, Table};
pub use trailer::Compression;
pub(crate) use writer::TableWriter;

/// Names a table. Numbers are given by the manifest and never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TableId(pub u64);

impl std::fmt::Display for TableId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}

/// What the manifest keeps of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMeta {
    /// Its name.
    pub id: TableId,
    /// The number under which its file was written, which every checksum in it covers. That of its
    /// name, unless the file was taken over from another engine.
    pub written_as: TableId,
    /// Of its file, in bytes.
    pub size: u64,
    /// CRC-32 over the whole file.
    pub checksum: u32,
    /// The full key of its first cell.
    pub smallest: Vec<u8>,
    /// The full key of its last cell.
    pub largest: Vec<u8>,
    /// The lowest index of a cell.
    pub index_min: Index,
    /// The highest index of a cell.
    pub index_max: Index,
    /// How many cells it has.
    pub cells: u64,
    /// How many of them are tombstones.
    pub tombstones: u64,
}

impl TableMeta {
    /// A name for what is in the file, the same wherever the file lies and whatever it is called there.
    pub(crate) fn content_name(&self) -> String {
        format!("{:016}-{:08x}-{}.table", self.written_as.0, self.checksum, self.size)
    }
}

/// How a table is written; none of it has to be known to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableOptions {
    /// Up to how many bytes of cells are put in one block. A larger cell has a block to itself.
    pub block_size: usize,
    /// How blocks are stored if that makes them smaller by an eighth or more.
    pub compression: Compression,
    /// Bits that the filter has for each key.
    pub filter_bits_per_key: usize,
    /// Whether there is a filter.
    pub filters: bool,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            // What one read of a disk brings anyway.
            block_size: 4096,
            compression: Compression::Lz4,
            // One wrong "maybe" in a hundred.
            filter_bits_per_key: 10,
            filters: true,
        }
    }
}

/// The name of a table's file in its directory.
pub(crate) fn file_name(id: TableId) -> String {
    format!("{:016}.table", id.0)
}
