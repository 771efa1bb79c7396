//! The order of everything the engine keeps: by full key, newest version first.

use crate::{Index, KeyspaceId};

/// Bytes of the keyspace in front of a full key.
pub(crate) const KEYSPACE_LEN: usize = 4;

/// A full key: the keyspace's number, most significant byte first so that keyspaces are ranges, then
/// the user's key.
pub(crate) fn full_key(keyspace: KeyspaceId, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(KEYSPACE_LEN + key.len());
    full.extend([24, 16, 8, 0].map(|shift| (keyspace.0 >> shift).to_le_bytes()[0]));
    full.extend_from_slice(key);
    full
}

/// What a cell says; the numbers are part of the table format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellKind {
    /// The key has this value.
    Put = 1,
    /// The key is gone (a tombstone).
    Delete = 2,
    /// The key's value lies in the log or a value file; reserved for design D5.
    Pointer = 3,
}

/// One version of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell<'a> {
    /// The full key.
    pub key: &'a [u8],
    /// The entry that wrote it.
    pub index: Index,
    /// What it says.
    pub kind: CellKind,
    /// The value; empty for a tombstone.
    pub value: &'a [u8],
}

/// Compares places in the engine's order: full key ascending, then index *descending*.
pub(crate) fn compare(a: (&[u8], Index), b: (&[u8], Index)) -> std::cmp::Ordering {
    a.0.cmp(b.0).then(b.1.cmp(&a.1))
}
