//! Sorted writes in memory.
//!
//! A memtable takes batches from one thread and is read by any number of others at the same time.
//! Every change is a cell of its own: nothing is overwritten, so a reader at an index sees exactly the
//! cells up to that index, and a batch becomes visible when the engine moves its `applied` pointer
//! past the batch's index, not before.
//!
//! ```text
//! bounds      [ m ........ | t ........ | ... ]      one level of separators, few and hot
//!            /             |            |
//! leaves  [a c f k]   [m n p s]    [t u z]          sorted, up to LEAF_CELLS_MAX cells each
//! ```
//!
//! It is a B-tree of two levels (Bayer and McCreight, 1972). What a search costs is the cache lines
//! that it misses: a skip list misses one at nearly every step, this structure a few in one leaf. The
//! directory is locked for writing only when a leaf is split; a leaf only while one cell goes in.
//!
//! A memtable is *active* until it is sealed, and then never written again.

mod leaf;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::iter::Cursor;
use crate::key::{Cell, CellKind, KEYSPACE_LEN, compare};
use crate::{BATCH_LEN_MAX, Index, KeyspaceId, Op, Result, Value};
use leaf::{Cells, Leaf, NewCell, Sought};

/// What a cell costs in memory beside its key and value: its places in the leaf, which is not always
/// full. An estimate; it keeps the memory of tiny values within bounds.
const CELL_OVERHEAD: usize = 112;

/// Sorted writes of a range of entries.
pub(crate) struct Memtable {
    directory: RwLock<Directory>,
    /// Estimated memory, in bytes.
    size: AtomicUsize,
}

/// The leaves in order, and what separates them.
///
/// Invariant: there is one leaf more than there are bounds, and leaf `n` holds the cells from
/// `bounds[n - 1]` on and before `bounds[n]`.
struct Directory {
    bounds: Leaf,
    leaves: Vec<RwLock<Leaf>>,
}

impl Directory {
    /// The leaf in which a place lies.
    fn leaf_of(&self, sought: &Sought<'_>) -> usize {
        self.bounds.count_up_to(sought)
    }

    fn read_leaf(&self, number: usize) -> RwLockReadGuard<'_, Leaf> {
        self.leaves[number].read().unwrap_or_else(PoisonError::into_inner)
    }
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
        let leaves = vec![RwLock::new(Leaf::default())];
        let directory = RwLock::new(Directory { bounds: Leaf::default(), leaves });
        Self { directory, size: AtomicUsize::new(0) }
    }

    /// A panic elsewhere cannot leave the directory half changed: it is changed by what cannot panic.
    fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
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
        let mut size = 0;
        for op in ops {
            let prefix = [24, 16, 8, 0].map(|shift| (op.keyspace.0 >> shift).to_le_bytes()[0]);
            scratch.key.clear();
            scratch.key.extend_from_slice(&prefix);
            scratch.key.extend_from_slice(op.key);
            let (kind, value) = match op.value {
                Some(value) => (CellKind::Put, value),
                None => (CellKind::Delete, &[][..]),
            };
            self.insert_cell(&NewCell { key: &scratch.key, index, kind, value });
            // A leaf's memory grows by half: a quarter of it is idle.
            let len = scratch.key.len() + value.len();
            size += len + len / 4 + CELL_OVERHEAD;
        }
        self.size.fetch_add(size, Ordering::Relaxed);
    }

    fn insert_cell(&self, cell: &NewCell<'_>) {
        let place = cell.place();
        let number = {
            let directory = self.directory();
            let number = directory.leaf_of(&place);
            let mut leaf = directory.leaves[number].write().unwrap_or_else(PoisonError::into_inner);
            if leaf.insert(&place, cell) {
                return;
            }
            number
        };
        // The leaf is full. Nobody else splits it: there is one writer.
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        let Directory { bounds, leaves } = &mut *directory;
        let is_last = number + 1 == leaves.len();
        let leaf = leaves[number].get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut upper = leaf.split(&place, is_last);
        let goes_up = upper.first().is_none_or(|(key, index)| {
            compare((key, index), (cell.key, cell.index)) != std::cmp::Ordering::Greater
        });
        let taken = if goes_up { upper.insert(&place, cell) } else { leaf.insert(&place, cell) };
        assert!(taken, "half a leaf has room");
        let (key, index) = upper.first().expect("a split leaves something on both sides");
        let bound = NewCell { key, index, kind: CellKind::Delete, value: &[] };
        bounds.insert_at(number, &bound.place(), &bound);
        leaves.insert(number + 1, RwLock::new(upper));
    }

    /// The newest version of `full_key` at or below `at`.
    pub(crate) fn get(&self, full_key: &[u8], at: Index) -> Option<Newest> {
        let sought = Sought::new(full_key, at);
        let directory = self.directory();
        let mut number = directory.leaf_of(&sought);
        // The first cell at or after the place may be the first one of the next leaf.
        while number < directory.leaves.len() {
            let leaf = directory.read_leaf(number);
            let position = leaf.count_before(&sought);
            if position < leaf.len() {
                let (cells, number) = (leaf.cells(), leaf.number(position));
                if cells.key(number) != full_key {
                    return None;
                }
                let (index, kind) = cells.index_and_kind(number);
                return Some(Newest { index, kind, value: cells.value(number) });
            }
            number += 1;
        }
        None
    }

    /// A cursor over all cells, of any index.
    pub(crate) fn cursor(&self) -> MemtableCursor<'_> {
        MemtableCursor {
            memtable: self,
            run: Cells::default(),
            spare: Cells::default(),
            at: 0,
            run_len: RUN_LEN_MIN,
        }
    }

    /// Estimated memory, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }
}

/// Memory that the applier keeps between batches.
#[derive(Default)]
pub(crate) struct Scratch {
    /// A full key.
    key: Vec<u8>,
}

// Places within a leaf are kept in 32 bits: a leaf is bounded, and one batch may write one key often.
const _: () = assert!(BATCH_LEN_MAX < 1 << 31);

/// A cursor takes so many cells at first: whoever seeks often wants one or two.
const RUN_LEN_MIN: usize = 4;
/// And so many at the most, when it has gone on for a while: a few leaves' worth of pointers.
const RUN_LEN_MAX: usize = 256;

/// A cursor over a memtable. Cells that are inserted meanwhile may or may not be met.
///
/// It holds no lock between calls: it copies a run of cells and fetches the next run from where that
/// ends.
pub(crate) struct MemtableCursor<'a> {
    memtable: &'a Memtable,
    /// Neighbouring cells, in the engine's order.
    run: Cells,
    /// Memory for the next run.
    spare: Cells,
    /// The cell under the cursor; off the end if there is none.
    at: usize,
    /// How many cells to take next time.
    run_len: usize,
}

/// Where a run of cells lies.
enum From<'s> {
    /// At the place or after it.
    AtOrAfter(&'s Sought<'s>),
    /// Strictly after the place.
    After(&'s Sought<'s>),
    /// Strictly before the place: the run ends there.
    Before(&'s Sought<'s>),
    /// At the very end.
    Last,
}

impl MemtableCursor<'_> {
    /// Takes a run of cells and stands on the one nearest to `from`.
    fn take(&mut self, from: From<'_>) {
        self.run.clear();
        let directory = self.memtable.directory();
        match from {
            From::AtOrAfter(sought) | From::After(sought) => {
                let mut number = directory.leaf_of(sought);
                let leaf = directory.read_leaf(number);
                let mut start = match from {
                    From::After(_) => leaf.count_up_to(sought),
                    _ => leaf.count_before(sought),
                };
                leaf.copy(start, self.run_len, &mut self.run);
                drop(leaf);
                while self.run.len() < self.run_len && number + 1 < directory.leaves.len() {
                    (number, start) = (number + 1, 0);
                    let missing = self.run_len - self.run.len();
                    directory.read_leaf(number).copy(start, missing, &mut self.run);
                }
                self.at = 0;
            }
            From::Before(_) | From::Last => {
                let mut number = match from {
                    From::Before(sought) => directory.leaf_of(sought),
                    _ => directory.leaves.len() - 1,
                };
                // Counted and copied under one lock: a cell that goes in between would move those at
                // the end out of what is copied, and a backward reader would miss them.
                let mut leaf = directory.read_leaf(number);
                let mut end = match from {
                    From::Before(sought) => leaf.count_before(sought),
                    _ => leaf.len(),
                };
                loop {
                    let start = end.saturating_sub(self.run_len);
                    leaf.copy(start, end - start, &mut self.run);
                    if self.run.len() > 0 || number == 0 {
                        break;
                    }
                    number -= 1;
                    leaf = directory.read_leaf(number);
                    end = leaf.len();
                }
                self.at = self.run.len().saturating_sub(1);
            }
        }
        self.run_len = (self.run_len * 2).min(RUN_LEN_MAX);
    }

    /// The run that has ended; its successor gets other memory.
    fn exchange_run(&mut self) -> Cells {
        let next = std::mem::take(&mut self.spare);
        std::mem::replace(&mut self.run, next)
    }

    fn restart(&mut self) {
        self.run_len = RUN_LEN_MIN;
    }
}

impl Cursor for MemtableCursor<'_> {
    fn seek(&mut self, key: &[u8], index: Index) -> Result<()> {
        self.restart();
        self.take(From::AtOrAfter(&Sought::new(key, index)));
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8], index: Index) -> Result<()> {
        self.restart();
        self.take(From::Before(&Sought::new(key, index)));
        Ok(())
    }

    fn first(&mut self) -> Result<()> {
        self.restart();
        // Nothing is before the empty key at the highest index.
        self.take(From::AtOrAfter(&Sought::new(&[], Index(u64::MAX))));
        Ok(())
    }

    fn last(&mut self) -> Result<()> {
        self.restart();
        self.take(From::Last);
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        if self.at + 1 < self.run.len() {
            self.at += 1;
        } else if self.at < self.run.len() {
            let run = self.exchange_run();
            self.take(From::After(&run.place(self.at)));
            self.spare = run;
        }
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        if self.at > 0 {
            self.at -= 1;
        } else if self.run.len() > 0 {
            let run = self.exchange_run();
            self.take(From::Before(&run.place(0)));
            self.spare = run;
        }
        Ok(())
    }

    fn cell(&self) -> Option<Cell<'_>> {
        if self.at >= self.run.len() {
            return None;
        }
        let (index, kind) = self.run.index_and_kind(self.at);
        let (key, value) = (self.run.key(self.at), self.run.payload(self.at));
        Some(Cell { key, index, kind, value })
    }

    fn value(&self) -> Value {
        assert!(self.at < self.run.len(), "a cursor off the end has no value");
        self.run.value(self.at)
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

    #[test]
    fn many_leaves_hold_what_a_sorted_map_holds() {
        let mut random = strandline_wal::disk::simulated::Random::new(7);
        for ascending in [false, true] {
            let memtable = Memtable::new();
            let mut scratch = Scratch::default();
            let mut model = std::collections::BTreeMap::new();
            for index in 1..=5_000_u64 {
                let number = if ascending { index } else { random.below(900) };
                // Short keys are zero-padded in a prefix, long ones go beyond it.
                let text = format!("{number:04}");
                let long = text.repeat(5);
                let key = if number % 2 == 0 { text.as_bytes() } else { long.as_bytes() };
                let mut batch = Batch::new();
                batch.put(KeyspaceId::DEFAULT, key, &index.to_le_bytes()).unwrap();
                memtable.insert(Index(index), batch.ops(), &mut scratch);
                model.insert((key.to_vec(), u64::MAX - index), index);
            }
            let expected: Vec<(Vec<u8>, u64)> =
                model.iter().map(|((key, _), index)| (key.clone(), *index)).collect();
            let mut cursor = memtable.cursor();
            let mut found = Vec::new();
            cursor.first().unwrap();
            while let Some(cell) = cursor.cell() {
                found.push((cell.key[KEYSPACE_LEN..].to_vec(), cell.index.0));
                cursor.next().unwrap();
            }
            assert!(found == expected, "forward");
            found.clear();
            cursor.last().unwrap();
            while let Some(cell) = cursor.cell() {
                found.push((cell.key[KEYSPACE_LEN..].to_vec(), cell.index.0));
                cursor.prev().unwrap();
            }
            found.reverse();
            assert!(found == expected, "backward");
            for (key, index) in &expected {
                let key = full_key(KeyspaceId::DEFAULT, key);
                assert_eq!(memtable.get(&key, Index(*index)).unwrap().index, Index(*index));
                cursor.seek_before(&key, Index(*index)).unwrap();
                let before = cursor.cell().map(|cell| (cell.key.to_vec(), cell.index));
                cursor.seek(&key, Index(*index)).unwrap();
                assert_eq!(cursor.cell().map(|cell| cell.index), Some(Index(*index)));
                cursor.prev().unwrap();
                assert!(cursor.cell().map(|cell| (cell.key.to_vec(), cell.index)) == before);
            }
        }
    }
}
