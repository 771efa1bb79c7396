//! A deterministic, ordered key-value state, advanced by `apply`, kept in memtables and tables.

mod batch;
mod changes;
mod error;
mod iter;
mod key;
mod machine;
mod read;
// The store's core is the caller; until it is here, nothing outside the tests is.
#[allow(dead_code, unused_imports)]
mod table;

pub use batch::{Batch, Op};
pub use changes::Changes;
pub use error::{Error, Result};
pub use machine::{ENTRY_HEADER_LEN, Entry, EntryHeader, EntryKind, Machine};
pub use read::{Direction, Pair, Range, Read, Value};
pub use table::inspect as inspect_table;

/// Place of an entry in the log; also the version number of what the entry wrote. Counted from 1;
/// 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

impl std::fmt::Display for Index {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}

/// Names a keyspace. Numbers are given by the engine and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u32);

impl KeyspaceId {
    /// The keyspace that is always there, called `default`.
    pub const DEFAULT: KeyspaceId = KeyspaceId(0);
}

/// The longest key, in bytes.
pub const KEY_LEN_MAX: usize = 64 << 10;

/// The longest value, in bytes.
pub const VALUE_LEN_MAX: usize = 32 << 20;

/// The largest batch, in encoded bytes.
pub const BATCH_LEN_MAX: usize = 48 << 20;
