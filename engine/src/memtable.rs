//! Sorted writes in memory.
//!
//! A memtable takes batches from one thread and is read by any number of others at the same time,
//! without a lock. Every change is a cell of its own: nothing is overwritten, so a reader at an
//! index sees exactly the cells up to that index, and a batch becomes visible when the engine moves
//! its `applied` pointer past the batch's index, not before.
//!
//! The order is kept by a skip list, which stays behind this module: nobody else names it. What one
//! batch writes lies in one allocation that all its cells share, so that a batch costs one
//! allocation and each of its cells one node, whatever the count of keys and values. The price: a
//! value that was read keeps the whole batch's bytes alive.
//!
//! A memtable is *active* until it is sealed, and then never written again.

use std::borrow::Borrow;
use std::cmp::Ordering as Order;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry;

use crate::iter::Cursor;
use crate::key::{Cell, CellKind, KEYSPACE_LEN, compare};
use crate::{BATCH_LEN_MAX, Index, KeyspaceId, Op, Result, Value};

/// What a cell costs in memory beside its key and value: the node with its tower and its share of
/// the batch's allocation. An estimate; it keeps the memory of tiny values within bounds.
const CELL_OVERHEAD: usize = 96;

/// One version of one key, in memory.
///
/// Invariant: `start + key_len + value_len` is within `bytes`.
struct MemCell {
    /// What the batch wrote, shared by its cells.
    bytes: Arc<[u8]>,
    /// The entry that wrote it.
    index: Index,
    /// Where the full key starts; the value follows it.
    start: u32,
    /// Length of the full key in bytes.
    key_len: u32,
    /// Length of the value in bytes.
    value_len: u32,
    /// What it says.
    kind: CellKind,
}

impl MemCell {
    fn key(&self) -> &[u8] {
        let start = to_usize(self.start);
        &self.bytes[start..start + to_usize(self.key_len)]
    }

    fn value_range(&self) -> std::ops::Range<usize> {
        let start = to_usize(self.start) + to_usize(self.key_len);
        start..start + to_usize(self.value_len)
    }

    fn value(&self) -> Value {
        Value::new(Arc::new(Arc::clone(&self.bytes)), self.value_range())
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).expect("this program needs pointers of 32 bits or more")
}

/// Something with a place in the engine's order. Lets the skip list be searched by a borrowed key,
/// without building a cell.
trait Placed {
    fn place(&self) -> (&[u8], Index);
}

impl Placed for MemCell {
    fn place(&self) -> (&[u8], Index) {
        (self.key(), self.index)
    }
}

impl Placed for (&[u8], Index) {
    fn place(&self) -> (&[u8], Index) {
        *self
    }
}

impl<'a> Borrow<dyn Placed + 'a> for MemCell {
    fn borrow(&self) -> &(dyn Placed + 'a) {
        self
    }
}

impl Ord for dyn Placed + '_ {
    fn cmp(&self, other: &Self) -> Order {
        compare(self.place(), other.place())
    }
}

impl PartialOrd for dyn Placed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Placed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for dyn Placed + '_ {}

impl Ord for MemCell {
    fn cmp(&self, other: &Self) -> Order {
        compare(self.place(), other.place())
    }
}

impl PartialOrd for MemCell {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for MemCell {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for MemCell {}

/// Sorted writes of a range of entries.
pub(crate) struct Memtable {
    cells: SkipMap<MemCell, ()>,
    /// Estimated memory, in bytes.
    size: AtomicUsize,
}

/// What a lookup found.
#[derive(Debug)]
pub(crate) struct Newest {
    /// The entry that wrote it.
    pub index: Index,
    /// What it says.
    pub kind: CellKind,
    /// The value; empty for a tombstone.
    pub value: Value,
}

impl Memtable {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { cells: SkipMap::new(), size: AtomicUsize::new(0) }
    }

    /// Inserts what one entry changes; of several changes of one key the last one stays. `scratch`
    /// is memory that the caller keeps for the next call. One caller at a time; what is inserted
    /// must be invisible to readers until this returns, because `index` is above theirs.
    pub(crate) fn insert<'b>(
        &self,
        index: Index,
        ops: impl Iterator<Item = Op<'b>>,
        scratch: &mut Scratch,
    ) {
        scratch.bytes.clear();
        scratch.ops.clear();
        for op in ops {
            let start = scratch.bytes.len();
            let prefix = [24, 16, 8, 0].map(|shift| (op.keyspace.0 >> shift).to_le_bytes()[0]);
            scratch.bytes.extend_from_slice(&prefix);
            scratch.bytes.extend_from_slice(op.key);
            let (kind, value) = match op.value {
                Some(value) => (CellKind::Put, value),
                None => (CellKind::Delete, &[][..]),
            };
            scratch.bytes.extend_from_slice(value);
            scratch.ops.push((start, KEYSPACE_LEN + op.key.len(), value.len(), kind));
        }
        if scratch.ops.is_empty() {
            return;
        }
        let bytes: Arc<[u8]> = Arc::from(scratch.bytes.as_slice());
        let mut size = bytes.len();
        for (start, key_len, value_len, kind) in scratch.ops.drain(..) {
            let bytes = Arc::clone(&bytes);
            let [start, key_len, value_len] = [start, key_len, value_len]
                .map(|number| u32::try_from(number).expect("a batch is bounded by BATCH_LEN_MAX"));
            self.cells.insert(MemCell { bytes, index, start, key_len, value_len, kind }, ());
            size += CELL_OVERHEAD;
        }
        self.size.fetch_add(size, Ordering::Relaxed);
        scratch.shrink();
    }

    /// The newest version of `full_key` at or below `at`.
    pub(crate) fn get(&self, full_key: &[u8], at: Index) -> Option<Newest> {
        let place: &dyn Placed = &(full_key, at);
        let entry = self.cells.lower_bound(Bound::Included(place))?;
        let cell = entry.key();
        if cell.key() != full_key {
            return None;
        }
        Some(Newest { index: cell.index, kind: cell.kind, value: cell.value() })
    }

    /// A cursor over all cells, of any index.
    pub(crate) fn cursor(&self) -> MemtableCursor<'_> {
        MemtableCursor { memtable: self, entry: None }
    }

    /// Estimated memory, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }
}

/// Memory that the applier keeps between batches.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Full keys and values, one behind the other.
    bytes: Vec<u8>,
    /// Start, length of the full key, length of the value, kind.
    ops: Vec<(usize, usize, usize, CellKind)>,
}

/// Scratch memory beyond this is given back after the batch that needed it.
const SCRATCH_KEPT: usize = 1 << 20;

// Offsets within a batch's cells are kept in 32 bits. The full keys and values of a batch are no
// longer than its encoding, whose operations have larger headers.
const _: () = assert!(BATCH_LEN_MAX < 1 << 31);

impl Scratch {
    fn shrink(&mut self) {
        if self.bytes.capacity() > SCRATCH_KEPT {
            self.bytes = Vec::new();
            self.ops = Vec::new();
        }
    }
}

/// A cursor over a memtable. Cells that are inserted meanwhile may or may not be met.
pub(crate) struct MemtableCursor<'a> {
    memtable: &'a Memtable,
    entry: Option<Entry<'a, MemCell, ()>>,
}

impl Cursor for MemtableCursor<'_> {
    fn seek(&mut self, key: &[u8], index: Index) -> Result<()> {
        let place: &dyn Placed = &(key, index);
        self.entry = self.memtable.cells.lower_bound(Bound::Included(place));
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8], index: Index) -> Result<()> {
        let place: &dyn Placed = &(key, index);
        self.entry = self.memtable.cells.upper_bound(Bound::Excluded(place));
        Ok(())
    }

    fn first(&mut self) -> Result<()> {
        self.entry = self.memtable.cells.front();
        Ok(())
    }

    fn last(&mut self) -> Result<()> {
        self.entry = self.memtable.cells.back();
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.entry = self.entry.take().and_then(|entry| entry.next());
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.entry = self.entry.take().and_then(|entry| entry.prev());
        Ok(())
    }

    fn cell(&self) -> Option<Cell<'_>> {
        let cell = self.entry.as_ref()?.key();
        let value = &cell.bytes[cell.value_range()];
        Some(Cell { key: cell.key(), index: cell.index, kind: cell.kind, value })
    }

    fn value(&self) -> Value {
        self.entry.as_ref().expect("a cursor off the end has no value").key().value()
    }
}

/// The keyspace of a full key.
pub(crate) fn keyspace_of(full_key: &[u8]) -> KeyspaceId {
    let mut number = 0;
    for byte in &full_key[..KEYSPACE_LEN] {
        number = (number << 8) | u32::from(*byte);
    }
    KeyspaceId(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Batch;
    use crate::key::full_key;

    fn filled() -> Memtable {
        let memtable = Memtable::new();
        let mut scratch = Scratch::default();
        for index in 1..=3_u8 {
            let mut batch = Batch::new();
            batch.put(KeyspaceId::DEFAULT, b"b", b"lost").unwrap();
            batch.put(KeyspaceId::DEFAULT, b"b", &[index]).unwrap();
            batch.delete(KeyspaceId::DEFAULT, &[b'c', index]).unwrap();
            memtable.insert(Index(index.into()), batch.ops(), &mut scratch);
        }
        memtable
    }

    #[test]
    fn a_reader_at_an_index_gets_the_version_of_that_index() {
        let memtable = filled();
        let key = full_key(KeyspaceId::DEFAULT, b"b");
        assert!(memtable.get(&key, Index(0)).is_none());
        for index in 1..=3_u8 {
            let newest = memtable.get(&key, Index(index.into())).unwrap();
            assert_eq!((&*newest.value, newest.index), (&[index][..], Index(index.into())));
        }
        let deleted = memtable.get(&full_key(KeyspaceId::DEFAULT, b"c\x02"), Index(9)).unwrap();
        assert_eq!(deleted.kind, CellKind::Delete);
    }

    #[test]
    fn a_cursor_walks_both_ways_in_the_engines_order() {
        let memtable = filled();
        let mut cursor = memtable.cursor();
        let mut forward = Vec::new();
        cursor.first().unwrap();
        while let Some(cell) = cursor.cell() {
            forward.push((cell.key[KEYSPACE_LEN..].to_vec(), cell.index.0));
            cursor.next().unwrap();
        }
        let b = |index| (b"b".to_vec(), index);
        let c = |index: u8| (vec![b'c', index], u64::from(index));
        assert_eq!(forward, [b(3), b(2), b(1), c(1), c(2), c(3)]);
        let mut backward = Vec::new();
        cursor.seek_before(&full_key(KeyspaceId::DEFAULT, b"c\x03"), Index(9)).unwrap();
        while let Some(cell) = cursor.cell() {
            backward.push((cell.key[KEYSPACE_LEN..].to_vec(), cell.index.0));
            cursor.prev().unwrap();
        }
        assert_eq!(backward, [c(2), c(1), b(1), b(2), b(3)]);
    }

    #[test]
    fn a_full_key_names_its_keyspace() {
        let keyspace = KeyspaceId(0x0102_0304);
        assert_eq!(keyspace_of(&full_key(keyspace, b"k")), keyspace);
    }
}
