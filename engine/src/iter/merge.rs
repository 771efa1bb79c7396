//! Many cursors as one: a k-way merge in the engine's order, both ways.
//!
//! A heap orders the children by the place of their cell. A step moves the child at the top and
//! sifts it down, which ends at once while the same child keeps winning, as it does in long runs.
//! When the direction turns, every other child is put on the other side of the current place first;
//! that costs a seek per child, and turning is rare.
//!
//! Two children never hold a cell at the same place: an index writes a key once, and a cell lives
//! in one memtable or in one table. The merge does not look for such duplicates.

use std::cmp::Ordering;

use super::Cursor;
use crate::key::{Cell, compare};
use crate::{Direction, Index, Result, Value};

/// The union of its children.
///
/// Invariant: `heap` holds the children that are on a cell, and its first one has the foremost cell
/// in `direction`.
pub(crate) struct MergeCursor<C> {
    children: Vec<C>,
    /// Positions in `children`, as a binary heap.
    heap: Vec<usize>,
    direction: Direction,
}

impl<C: Cursor> MergeCursor<C> {
    /// The union of `children`, off the end.
    pub(crate) fn new(children: Vec<C>) -> Self {
        let heap = Vec::with_capacity(children.len());
        Self { children, heap, direction: Direction::Forward }
    }

    /// Puts every child somewhere and orders them anew.
    fn place_all(
        &mut self,
        direction: Direction,
        mut place: impl FnMut(&mut C) -> Result<()>,
    ) -> Result<()> {
        self.heap.clear();
        self.direction = direction;
        for child in &mut self.children {
            place(child)?;
        }
        self.rebuild();
        Ok(())
    }

    fn rebuild(&mut self) {
        self.heap.clear();
        let on_a_cell =
            self.children.iter().enumerate().filter(|(_, child)| child.cell().is_some());
        self.heap.extend(on_a_cell.map(|(child, _)| child));
        for parent in (0..self.heap.len() / 2).rev() {
            self.sift_down(parent);
        }
    }

    /// Whether child `a` comes before child `b`, both being on a cell.
    fn comes_before(&self, a: usize, b: usize) -> bool {
        let place = |child: usize| {
            let cell = self.children[child].cell().expect("the heap holds children on a cell");
            (cell.key, cell.index)
        };
        let order = compare(place(a), place(b));
        debug_assert_ne!(order, Ordering::Equal, "a cell lives in one place only");
        match self.direction {
            Direction::Forward => order == Ordering::Less,
            Direction::Backward => order == Ordering::Greater,
        }
    }

    fn sift_down(&mut self, mut parent: usize) {
        loop {
            let mut foremost = parent;
            for child in [2 * parent + 1, 2 * parent + 2] {
                if child < self.heap.len()
                    && self.comes_before(self.heap[child], self.heap[foremost])
                {
                    foremost = child;
                }
            }
            if foremost == parent {
                return;
            }
            self.heap.swap(parent, foremost);
            parent = foremost;
        }
    }

    /// Moves one cell on in `direction`, in which all children already go.
    fn step(&mut self) -> Result<()> {
        let Some(&top) = self.heap.first() else { return Ok(()) };
        let child = &mut self.children[top];
        let moved = match self.direction {
            Direction::Forward => child.next(),
            Direction::Backward => child.prev(),
        };
        if let Err(error) = moved {
            self.heap.clear();
            return Err(error);
        }
        if self.children[top].cell().is_none() {
            self.heap.swap_remove(0);
        }
        if !self.heap.is_empty() {
            self.sift_down(0);
        }
        Ok(())
    }

    /// Turns around at the current cell: the other children go to the far side of it.
    fn turn(&mut self, direction: Direction) -> Result<()> {
        let Some(&top) = self.heap.first() else { return Ok(()) };
        let cell = self.children[top].cell().expect("the heap holds children on a cell");
        let (key, index) = (cell.key.to_vec(), cell.index);
        self.heap.clear();
        for (position, child) in self.children.iter_mut().enumerate() {
            if position == top {
                continue;
            }
            match direction {
                Direction::Forward => child.seek(&key, index)?,
                Direction::Backward => child.seek_before(&key, index)?,
            }
        }
        self.direction = direction;
        self.rebuild();
        debug_assert_eq!(self.heap.first(), Some(&top), "the current cell is still the foremost");
        Ok(())
    }
}

impl<C: Cursor> Cursor for MergeCursor<C> {
    fn seek(&mut self, key: &[u8], index: Index) -> Result<()> {
        self.place_all(Direction::Forward, |child| child.seek(key, index))
    }

    fn seek_before(&mut self, key: &[u8], index: Index) -> Result<()> {
        self.place_all(Direction::Backward, |child| child.seek_before(key, index))
    }

    fn first(&mut self) -> Result<()> {
        self.place_all(Direction::Forward, Cursor::first)
    }

    fn last(&mut self) -> Result<()> {
        self.place_all(Direction::Backward, Cursor::last)
    }

    fn next(&mut self) -> Result<()> {
        if self.direction == Direction::Backward {
            self.turn(Direction::Forward)?;
        }
        self.step()
    }

    fn prev(&mut self) -> Result<()> {
        if self.direction == Direction::Forward {
            self.turn(Direction::Backward)?;
        }
        self.step()
    }

    fn cell(&self) -> Option<Cell<'_>> {
        self.children[*self.heap.first()?].cell()
    }

    fn value(&self) -> Value {
        let top = *self.heap.first().expect("a cursor off the end has no value");
        self.children[top].value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memtable::{Memtable, Scratch};
    use crate::{Batch, KeyspaceId};

    #[test]
    fn a_merge_of_parts_walks_like_the_whole_and_turns_anywhere() {
        let whole = Memtable::new();
        let parts = [Memtable::new(), Memtable::new(), Memtable::new()];
        let mut scratch = Scratch::default();
        for index in 1..=60_u64 {
            let mut batch = Batch::new();
            let key = [u8::try_from(index * 7 % 20).unwrap()];
            batch.put(KeyspaceId::DEFAULT, &key, &index.to_le_bytes()).unwrap();
            whole.insert(Index(index), batch.ops(), &mut scratch);
            let part = usize::try_from(index * 5 % 3).unwrap();
            parts[part].insert(Index(index), batch.ops(), &mut scratch);
        }
        let mut expected = whole.cursor();
        let mut merged = MergeCursor::new(parts.iter().map(Memtable::cursor).collect());
        expected.first().unwrap();
        merged.first().unwrap();
        // The walk is a fixed pattern with turns of every length, and back off the end and in again.
        for round in 0..200_usize {
            let steps = round % 17;
            for _ in 0..steps {
                assert_eq!(merged.cell(), expected.cell(), "in round {round}");
                let Some(cell) = expected.cell() else {
                    if round % 2 == 0 {
                        expected.last().unwrap();
                        merged.last().unwrap();
                    } else {
                        expected.first().unwrap();
                        merged.first().unwrap();
                    }
                    continue;
                };
                assert_eq!(*merged.value(), *cell.value);
                if round % 3 == 1 {
                    expected.prev().unwrap();
                    merged.prev().unwrap();
                } else {
                    expected.next().unwrap();
                    merged.next().unwrap();
                }
            }
        }
    }
}
