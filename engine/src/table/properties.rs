//! What a table says of its own content; the manifest says the same, and both are compared.
//!
//! ```text
//! 0           8           16      24           32             36            40
//! +-----------+-----------+-------+------------+--------------+-------------+----------+---------+
//! | index min | index max | cells | tombstones | smallest len | largest len | smallest | largest |
//! +-----------+-----------+-------+------------+--------------+-------------+----------+---------+
//! ```

use super::damage::{Bytes, Damage};
use super::{TableId, TableMeta};
use crate::Index;

const INDEX_MIN_AT: usize = 0;
const INDEX_MAX_AT: usize = 8;
const CELLS_AT: usize = 16;
const TOMBSTONES_AT: usize = 24;
const SMALLEST_LEN_AT: usize = 32;
const LARGEST_LEN_AT: usize = 36;
const KEYS_AT: usize = 40;

/// The section that says `meta`.
pub(super) fn encode(meta: &TableMeta) -> Vec<u8> {
    let mut section = Vec::with_capacity(KEYS_AT + meta.smallest.len() + meta.largest.len());
    for number in [meta.index_min.0, meta.index_max.0, meta.cells, meta.tombstones] {
        section.extend_from_slice(&number.to_le_bytes());
    }
    for key in [&meta.smallest, &meta.largest] {
        let len = u32::try_from(key.len()).expect("bounded by KEY_LEN_MAX");
        section.extend_from_slice(&len.to_le_bytes());
    }
    section.extend_from_slice(&meta.smallest);
    section.extend_from_slice(&meta.largest);
    section
}

/// What the section at `offset` says of a table written as `id`, a file of `size` bytes. It does not
/// say the checksum of the file that it stands in.
///
/// # Errors
///
/// If it is not such a section.
pub(super) fn decode(
    section: &[u8],
    offset: u64,
    id: TableId,
    size: u64,
) -> Result<TableMeta, Damage> {
    let damage = || Damage::new(offset, "the properties of a table", "something else");
    let (fixed, keys) = section.split_at_checked(KEYS_AT).ok_or_else(damage)?;
    let fixed = Bytes(fixed);
    let smallest_len = usize::try_from(fixed.u32(SMALLEST_LEN_AT)).map_err(|_| damage())?;
    let largest_len = usize::try_from(fixed.u32(LARGEST_LEN_AT)).map_err(|_| damage())?;
    let (smallest, largest) = keys.split_at_checked(smallest_len).ok_or_else(damage)?;
    let meta = TableMeta {
        id,
        written_as: id,
        size,
        checksum: 0,
        smallest: smallest.to_vec(),
        largest: largest.to_vec(),
        index_min: Index(fixed.u64(INDEX_MIN_AT)),
        index_max: Index(fixed.u64(INDEX_MAX_AT)),
        cells: fixed.u64(CELLS_AT),
        tombstones: fixed.u64(TOMBSTONES_AT),
    };
    let sane = largest.len() == largest_len
        && meta.smallest <= meta.largest
        && meta.index_min <= meta.index_max
        && meta.tombstones <= meta.cells
        && meta.cells > 0;
    if sane { Ok(meta) } else { Err(damage()) }
}
