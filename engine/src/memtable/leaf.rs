//! A leaf of a memtable: a bounded number of cells in the engine's order.
//!
//! The beginnings of the keys lie side by side, apart from the cells, so that a search reads few cache
//! lines and follows a pointer only where keys begin alike. The cells stay where they were put; what
//! is kept sorted are their numbers.
//!
//! Keys and values lie one behind the other in one piece of memory that belongs to the leaf. A piece
//! for each of them would be an allocation for each write, given back one by one by the thread that
//! flushes, which fights for the allocator with the thread that applies. Large values are kept apart
//! and shared with those who read them; small ones are copied out.

use std::cmp::Ordering as Order;
use std::sync::Arc;

use crate::key::{CellKind, compare};
use crate::{Index, Value};

/// A leaf is split when it has so many cells. Larger leaves make a smaller directory, and more to move
/// at each insertion.
pub(super) const LEAF_CELLS_MAX: usize = 128;
/// A longer value has its own memory, which readers share.
const COPIED_LEN_MAX: usize = 1 << 10;

/// A cell that goes in.
pub(super) struct NewCell<'a> {
    /// The full key.
    pub(super) key: &'a [u8],
    /// The entry that writes it.
    pub(super) index: Index,
    /// What it says.
    pub(super) kind: CellKind,
    /// The value; empty for a tombstone.
    pub(super) value: &'a [u8],
}

impl<'a> NewCell<'a> {
    /// Where it lies.
    pub(super) fn place(&self) -> Sought<'a> {
        Sought::new(self.key, self.index)
    }
}

/// One version of one key, in memory.
///
/// Invariant: `start + key_len + value_len` is within the bytes of its [`Cells`], or
/// `start + key_len` if the value is kept apart.
struct MemCell {
    /// The entry that wrote it.
    index: Index,
    /// Where the full key starts; a small value follows it.
    start: u32,
    /// Length of the full key in bytes.
    key_len: u32,
    /// Length of the value in bytes, if it follows.
    value_len: u32,
    /// What it says.
    kind: CellKind,
    /// A large value.
    apart: Option<Arc<[u8]>>,
}

/// Cells, in the order of their coming, and what they say.
#[derive(Default)]
pub(super) struct Cells {
    list: Vec<MemCell>,
    bytes: Vec<u8>,
}

impl Cells {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
    }

    fn bytes_of(&self, start: usize, len: u32) -> &[u8] {
        &self.bytes[start..start + to_usize(len)]
    }

    /// The full key of a cell.
    pub(super) fn key(&self, number: usize) -> &[u8] {
        let cell = &self.list[number];
        self.bytes_of(to_usize(cell.start), cell.key_len)
    }

    /// The value of a cell, in place.
    pub(super) fn payload(&self, number: usize) -> &[u8] {
        let cell = &self.list[number];
        match &cell.apart {
            Some(value) => value,
            None => self.bytes_of(to_usize(cell.start) + to_usize(cell.key_len), cell.value_len),
        }
    }

    /// The value of a cell, to be kept.
    pub(super) fn value(&self, number: usize) -> Value {
        match &self.list[number].apart {
            Some(value) => Value::new(Arc::new(Arc::clone(value)), 0..value.len()),
            None => Value::from(self.payload(number).to_vec()),
        }
    }

    /// The entry that wrote a cell, and what it says.
    pub(super) fn index_and_kind(&self, number: usize) -> (Index, CellKind) {
        (self.list[number].index, self.list[number].kind)
    }

    /// Where a cell lies.
    pub(super) fn place(&self, number: usize) -> Sought<'_> {
        Sought::new(self.key(number), self.list[number].index)
    }

    fn compare(&self, number: usize, sought: &Sought<'_>) -> Order {
        compare((self.key(number), self.list[number].index), (sought.key, sought.index))
    }

    fn append(&mut self, new: &NewCell<'_>) -> MemCell {
        let is_apart = new.value.len() > COPIED_LEN_MAX;
        let follows = if is_apart { &[][..] } else { new.value };
        self.make_room(new.key.len() + follows.len());
        let bounded = |len: usize| u32::try_from(len).expect("a batch is bounded by BATCH_LEN_MAX");
        let cell = MemCell {
            index: new.index,
            start: bounded(self.bytes.len()),
            key_len: bounded(new.key.len()),
            value_len: bounded(follows.len()),
            kind: new.kind,
            apart: is_apart.then(|| Arc::from(new.value)),
        };
        self.bytes.extend_from_slice(new.key);
        self.bytes.extend_from_slice(follows);
        cell
    }

    /// Grows by half, not to the double: what lies idle in all leaves is memory lost to the memtable.
    fn make_room(&mut self, len: usize) {
        if self.bytes.capacity() - self.bytes.len() < len {
            self.bytes.reserve_exact(len.max(self.bytes.len() / 2));
        }
    }

    /// Adds a copy of a cell of others; a large value is shared.
    fn copy_from(&mut self, others: &Cells, number: usize) {
        let cell = &others.list[number];
        let start = to_usize(cell.start);
        let len = to_usize(cell.key_len) + to_usize(cell.value_len);
        let own_start = u32::try_from(self.bytes.len()).expect("a leaf is bounded");
        self.bytes.extend_from_slice(&others.bytes[start..start + len]);
        self.list.push(MemCell { start: own_start, apart: cell.apart.clone(), ..*cell });
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
    cells: Cells,
}

impl Leaf {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The cells; `order` gives their numbers.
    pub(super) fn cells(&self) -> &Cells {
        &self.cells
    }

    /// The number of the cell at a position.
    pub(super) fn number(&self, position: usize) -> usize {
        to_usize(self.order[position])
    }

    /// How many cells lie before the place, or at it if `is_before` says so of `Equal`.
    #[inline]
    fn count(&self, sought: &Sought<'_>, is_before: impl Fn(Order) -> bool) -> usize {
        let first = self.prefixes.partition_point(|prefix| *prefix < sought.prefix);
        // Seldom more than a few versions of one key begin alike.
        let alike = self.prefixes[first..].partition_point(|prefix| *prefix == sought.prefix);
        let order = &self.order[first..first + alike];
        first
            + order
                .partition_point(|number| is_before(self.cells.compare(to_usize(*number), sought)))
    }

    /// How many cells lie strictly before the place.
    pub(super) fn count_before(&self, sought: &Sought<'_>) -> usize {
        self.count(sought, |order| order == Order::Less)
    }

    /// How many cells lie before the place or at it.
    pub(super) fn count_up_to(&self, sought: &Sought<'_>) -> usize {
        self.count(sought, |order| order != Order::Greater)
    }

    /// Puts a cell in, in the place of one that is at the same place; false if the leaf is full.
    pub(super) fn insert(&mut self, sought: &Sought<'_>, new: &NewCell<'_>) -> bool {
        let position = self.count_before(sought);
        if position < self.len() {
            let number = self.number(position);
            if self.cells.compare(number, sought) == Order::Equal {
                let cell = self.cells.append(new);
                self.cells.list[number] = cell;
                return true;
            }
        }
        if self.len() == LEAF_CELLS_MAX {
            return false;
        }
        self.insert_at(position, sought, new);
        true
    }

    /// Puts a cell in at a position, which the caller knows to be its own.
    pub(super) fn insert_at(&mut self, position: usize, sought: &Sought<'_>, new: &NewCell<'_>) {
        let number = u32::try_from(self.cells.len()).expect("memory ends long before 2^32 cells");
        self.prefixes.insert(position, sought.prefix);
        self.order.insert(position, number);
        let cell = self.cells.append(new);
        self.cells.list.push(cell);
    }

    /// Copies up to `len` cells from `start` on.
    pub(super) fn copy(&self, start: usize, len: usize, into: &mut Cells) {
        let end = self.len().min(start.saturating_add(len));
        for position in start.min(end)..end {
            into.copy_from(&self.cells, self.number(position));
        }
    }

    /// The full key and the index of the first cell.
    pub(super) fn first(&self) -> Option<(&[u8], Index)> {
        let number = to_usize(*self.order.first()?);
        Some((self.cells.key(number), self.cells.list[number].index))
    }

    /// Splits a full leaf in two where `sought` is not in between, and returns the upper half. If
    /// the leaf is the last one and the place comes after all others the upper one is empty, so that
    /// keys written in their order fill the leaves.
    pub(super) fn split(&mut self, sought: &Sought<'_>, is_last: bool) -> Leaf {
        let middle = match is_last && self.count_before(sought) == self.len() {
            true => self.len(),
            false => self.len() / 2,
        };
        let (lower, upper) = (self.part(0, middle), self.part(middle, self.len()));
        *self = lower;
        upper
    }

    fn part(&self, start: usize, end: usize) -> Leaf {
        let mut part = Leaf {
            prefixes: Vec::with_capacity(LEAF_CELLS_MAX),
            order: Vec::with_capacity(LEAF_CELLS_MAX),
            cells: Cells { list: Vec::with_capacity(LEAF_CELLS_MAX), bytes: Vec::new() },
        };
        // Room for what is there, and half as much to come.
        let share = self.cells.bytes.len() * (end - start) / self.len().max(1);
        part.cells.bytes.reserve_exact(share + share / 2);
        part.prefixes.extend_from_slice(&self.prefixes[start..end]);
        part.order.extend(
            (0..end - start).map(|number| u32::try_from(number).expect("a leaf is bounded")),
        );
        self.copy(start, end - start, &mut part.cells);
        part
    }
}
