//! A deterministic, ordered key-value state, advanced by `apply`, kept in memtables and tables.

mod background;
mod batch;
mod changes;
mod checkpoint;
mod commit;
mod compaction;
mod db;
mod driving;
mod engine;
mod error;
mod flush;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hollow;
mod iter;
mod key;
mod keyspace;
mod keyspace_entry;
mod machine;
mod manifest;
mod memtable;
mod options;
mod read;
mod replicated;
mod scrub;
mod second_try;
mod stats;
mod table;
mod verify;
mod verify_state;
mod view;
mod work;

#[cfg(test)]
mod tests;

pub use batch::{Batch, Op};
pub use changes::Changes;
pub use checkpoint::{Adopted, Adoption, Checkpoint, CheckpointFile};
pub use compaction::pacing::PRESSURE_MAX;
pub use db::{Commit, Db, DbOptions, Durability, group_dir, log_dir, state_dir};
pub use engine::Engine;
pub use error::{Error, Result};
pub use keyspace::{KEYSPACE_DEFAULT_NAME, KEYSPACE_NAME_LEN_MAX};
pub use keyspace_entry::{create as keyspace_create_entry, drop as keyspace_drop_entry};
pub use machine::{ENTRY_HEADER_LEN, Entry, EntryHeader, EntryKind, Machine, Skipped};
pub use manifest::inspect_manifest;
pub use options::Options;
pub use read::{Direction, Pair, Range, Read, Value};
pub use stats::{LevelStats, Stats};
pub use table::{Compression, inspect as inspect_table};
pub use verify::VerifyReport;
pub use verify_state::verify_state;
pub use view::View;
pub use work::Worked;

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
