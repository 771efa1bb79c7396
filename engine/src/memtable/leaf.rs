//! A leaf of a memtable: a bounded number of cells in the engine's order.
//!
//! The beginnings of the keys lie side by side, apart from the cells, so that a search reads few cache
//! lines and follows a pointer only where keys begin alike. The cells stay where they were put; what
//! is kept sorted are their numbers.

use std::cmp::Ordering as Order;
use std::ops::Range;
use std::sync::Arc;

use crate::key::{CellKind, compare};
use crate::{Index, Value};

/// A leaf is split when it has so many cells. Larger leaves make a smaller directory, and more to move
/// at each insertion.
pub(super) const LEAF_CELLS_MAX: usize = 128;

/// One version of one key, in memory.
///
/// Invariant: `start + key_len + value_len` is within `bytes`.
#[derive(Clone)]
pub(super) struct MemCell {
    /// What the batch wrote, shared by its cells.
    pub(super) bytes: Arc<[u8]>,
    /// The entry that wrote it.
    pub(super) index: Index,
    /// Where the full key starts; the value follows it.
    pub(super) start: u32,
    /// Length of the full key in bytes.
    pub(super) key_len: u32,
    /// Length of the value in bytes.
    pub(super) value_len: u32,
    /// What it says.
    pub(super) kind: CellKind,
}

impl MemCell {
    pub(super) fn key(&self) -> &[u8] {
        let start = to_usize(self.start);
        &self.bytes[start..start + to_usize(self.key_len)]
    }

    fn value_range(&self) -> Range<usize> {
        let start = to_usize(self.start) + to_usize(self.key_len);
        start..start + to_usize(self.value_len)
    }

    /// The value's bytes.
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[self.value_range()]
    }

    /// The value, sharing the batch's memory.
    pub(super) fn value(&self) -> Value {
        Value::new(Arc::new(Arc::clone(&self.bytes)), self.value_range())
    }

    /// Where it lies.
    pub(super) fn place(&self) -> Sought<'_> {
        Sought::new(self.key(), self.index)
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).expect("this program needs pointers of 32 bits or more")
}

/// The first bytes of a full key, as a number that is ordered as they are. A shorter key is filled up
/// with zeros, so equal prefixes say nothing.
type Prefix = u128;

fn prefix_of(key: &[u8]) -> Prefix {
    let mut bytes = [0; size_of::<Prefix>()];
    let len = key.len().min(bytes.len());
    bytes[..len].copy_from_slice(&key[..len]);
    bytes.reverse();
    Prefix::from_le_bytes(bytes)
}

/// A place in the engine's order.
pub(super) struct Sought<'a> {
    prefix: Prefix,
    key: &'a [u8],
    index: Index,
}

impl<'a> Sought<'a> {
    pub(super) fn new(key: &'a [u8], index: Index) -> Self {
        Self { prefix: prefix_of(key), key, index }
    }
}

/// See the module's documentation. Also the list of what separates leaves, which is not bounded.
///
/// Invariant: `prefixes` and `order` are equally long, and `order` names every cell once.
#[derive(Default)]
pub(super) struct Leaf {
    /// Beginnings of the keys, sorted.
    prefixes: Vec<Prefix>,
    /// Numbers of the cells, sorted like their places.
    order: Vec<u32>,
    /// In the order of their coming.
    cells: Vec<MemCell>,
}

impl Leaf {
    fn with_room() -> Self {
        Self {
            prefixes: Vec::with_capacity(LEAF_CELLS_MAX),
            order: Vec::with_capacity(LEAF_CELLS_MAX),
            cells: Vec::with_capacity(LEAF_CELLS_MAX),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn cell(&self, position: usize) -> &MemCell {
        &self.cells[to_usize(self.order[position])]
    }

    /// The first cell.
    pub(super) fn first(&self) -> Option<&MemCell> {
        (!self.order.is_empty()).then(|| self.cell(0))
    }

    /// How many cells lie before the place, or at it if `is_before` says so of `Equal`.
    fn count(&self, sought: &Sought<'_>, is_before: impl Fn(Order) -> bool) -> usize {
        let first = self.prefixes.partition_point(|prefix| *prefix < sought.prefix);
        // Seldom more than a few versions of one key begin alike.
        let alike = self.prefixes[first..].partition_point(|prefix| *prefix == sought.prefix);
        let place = (sought.key, sought.index);
        let order = &self.order[first..first + alike];
        first
            + order.partition_point(|number| {
                let cell = &self.cells[to_usize(*number)];
                is_before(compare((cell.key(), cell.index), place))
            })
    }

    /// How many cells lie strictly before the place.
    pub(super) fn count_before(&self, sought: &Sought<'_>) -> usize {
        self.count(sought, |order| order == Order::Less)
    }

    /// How many cells lie before the place or at it.
    pub(super) fn count_up_to(&self, sought: &Sought<'_>) -> usize {
        self.count(sought, |order| order != Order::Greater)
    }

    /// The first cell at or after the place.
    pub(super) fn at_or_after(&self, sought: &Sought<'_>) -> Option<&MemCell> {
        let position = self.count_before(sought);
        (position < self.len()).then(|| self.cell(position))
    }

    /// Puts a cell in, in the place of one that is at the same place; gives it back if the leaf is full.
    pub(super) fn insert(&mut self, cell: MemCell) -> Result<(), MemCell> {
        let position = self.count_before(&cell.place());
        if position < self.len() {
            let found = &mut self.cells[to_usize(self.order[position])];
            if found.index == cell.index && found.key() == cell.key() {
                *found = cell;
                return Ok(());
            }
        }
        if self.len() == LEAF_CELLS_MAX {
            return Err(cell);
        }
        self.insert_at(position, cell);
        Ok(())
    }

    /// Puts a cell in at a position, which the caller knows to be its own.
    pub(super) fn insert_at(&mut self, position: usize, cell: MemCell) {
        let number = u32::try_from(self.cells.len()).expect("memory ends long before 2^32 cells");
        self.prefixes.insert(position, cell.place().prefix);
        self.order.insert(position, number);
        self.cells.push(cell);
    }

    /// Copies up to `len` cells from `start` on; they share their bytes.
    pub(super) fn copy(&self, start: usize, len: usize, into: &mut Vec<MemCell>) {
        let end = self.len().min(start.saturating_add(len));
        into.extend((start.min(end)..end).map(|position| self.cell(position).clone()));
    }

    /// Splits a full leaf and puts `cell` into the half where it belongs; returns the upper half. If
    /// the leaf is the last one and the cell comes after all others it goes alone, so that keys
    /// written in their order fill the leaves.
    pub(super) fn split(&mut self, cell: MemCell, is_last: bool) -> Leaf {
        let position = self.count_before(&cell.place());
        let middle = match is_last && position == self.len() {
            true => self.len(),
            false => self.len() / 2,
        };
        let (mut lower, mut upper) = (Leaf::with_room(), Leaf::with_room());
        let mut cells: Vec<_> = std::mem::take(&mut self.cells).into_iter().map(Some).collect();
        for (at, number) in self.order.iter().enumerate() {
            let cell = cells[to_usize(*number)].take().expect("the order names every cell once");
            let half = if at < middle { &mut lower } else { &mut upper };
            half.insert_at(half.len(), cell);
        }
        let half = if position < middle { &mut lower } else { &mut upper };
        half.insert_at(half.count_before(&cell.place()), cell);
        *self = lower;
        upper
    }
}
