//! What a reader at an index sees of a keyspace: the newest version of each key at or below the
//! index, without tombstones.
//!
//! Forward, the newest version of a key comes first, and the older ones are stepped over. Backward,
//! the oldest comes first; the walk remembers the newest one that is not above the index until it
//! meets another key.

use std::ops::Bound;

use super::Cursor;
use crate::key::{CellKind, KEYSPACE_LEN, full_key};
use crate::{Direction, Error, Index, KeyspaceId, Pair, Range, Result, Value};

/// The pairs of a range of one keyspace, as of an index.
pub(crate) struct Visible<C> {
    cursor: C,
    at: Index,
    direction: Direction,
    /// The range's bounds as full keys; none is unbounded within what the cursor holds.
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    /// Whether the cursor was placed.
    started: bool,
    /// After the end or the first error.
    ended: bool,
}

impl<C: Cursor> Visible<C> {
    /// The pairs of `range` in `keyspace` as of `at`, in the range's direction.
    pub(crate) fn new(cursor: C, at: Index, keyspace: KeyspaceId, range: &Range) -> Self {
        let full = |bound: &Bound<Vec<u8>>| match bound {
            Bound::Included(key) => Bound::Included(full_key(keyspace, key)),
            Bound::Excluded(key) => Bound::Excluded(full_key(keyspace, key)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let start = match full(&range.start) {
            // User keys are not empty, so this bound is not a key itself.
            Bound::Unbounded => Bound::Included(full_key(keyspace, b"")),
            bound => bound,
        };
        let end = match (full(&range.end), keyspace.0.checked_add(1)) {
            (Bound::Unbounded, Some(next)) => Bound::Excluded(full_key(KeyspaceId(next), b"")),
            (bound, _) => bound,
        };
        let direction = range.direction;
        Self { cursor, at, direction, start, end, started: false, ended: false }
    }

    /// Puts the cursor on the first cell of the range, seen in the direction.
    fn place(&mut self) -> Result<()> {
        self.started = true;
        match (self.direction, &self.start, &self.end) {
            (Direction::Forward, Bound::Included(key), _) => self.cursor.seek(key, LARGEST),
            (Direction::Forward, Bound::Excluded(key), _) => {
                self.cursor.seek(&successor(key), LARGEST)
            }
            (Direction::Forward, Bound::Unbounded, _) => self.cursor.first(),
            (Direction::Backward, _, Bound::Excluded(key)) => self.cursor.seek_before(key, LARGEST),
            (Direction::Backward, _, Bound::Included(key)) => {
                self.cursor.seek_before(&successor(key), LARGEST)
            }
            (Direction::Backward, _, Bound::Unbounded) => self.cursor.last(),
        }
    }

    /// Whether `key` is not yet behind the far bound.
    fn is_within(&self, key: &[u8]) -> bool {
        match self.direction {
            Direction::Forward => match &self.end {
                Bound::Included(end) => key <= end.as_slice(),
                Bound::Excluded(end) => key < end.as_slice(),
                Bound::Unbounded => true,
            },
            Direction::Backward => match &self.start {
                Bound::Included(start) => key >= start.as_slice(),
                Bound::Excluded(start) => key > start.as_slice(),
                Bound::Unbounded => true,
            },
        }
    }

    fn next_forward(&mut self) -> Result<Option<Pair>> {
        loop {
            let Some(cell) = self.cursor.cell() else { return Ok(None) };
            if !self.is_within(cell.key) {
                return Ok(None);
            }
            if cell.index > self.at {
                self.cursor.next()?;
                continue;
            }
            let key = cell.key.to_vec();
            let value = visible_value(cell.kind, || self.cursor.value())?;
            while self.cursor.cell().is_some_and(|cell| cell.key == key) {
                self.cursor.next()?;
            }
            if let Some(value) = value {
                return Ok(Some((user_key(key), value)));
            }
        }
    }

    fn next_backward(&mut self) -> Result<Option<Pair>> {
        loop {
            let Some(cell) = self.cursor.cell() else { return Ok(None) };
            if !self.is_within(cell.key) {
                return Ok(None);
            }
            let key = cell.key.to_vec();
            let mut newest = None;
            while let Some(cell) = self.cursor.cell()
                && cell.key == key
            {
                if cell.index <= self.at {
                    newest = visible_value(cell.kind, || self.cursor.value())?;
                }
                self.cursor.prev()?;
            }
            if let Some(value) = newest {
                return Ok(Some((user_key(key), value)));
            }
        }
    }

    fn step(&mut self) -> Result<Option<Pair>> {
        if !self.started {
            self.place()?;
        }
        match self.direction {
            Direction::Forward => self.next_forward(),
            Direction::Backward => self.next_backward(),
        }
    }
}

impl<C: Cursor> Iterator for Visible<C> {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.step().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

/// At this index a seek finds the newest version of a key.
const LARGEST: Index = Index(u64::MAX);

/// The smallest key after `key`.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

fn user_key(mut full_key: Vec<u8>) -> Vec<u8> {
    full_key.drain(..KEYSPACE_LEN);
    full_key
}

/// What a version of this kind shows to a reader.
///
/// # Errors
///
/// If it is a pointer, which this version of the engine does not write.
pub(crate) fn visible_value(
    kind: CellKind,
    value: impl FnOnce() -> Value,
) -> Result<Option<Value>> {
    match kind {
        CellKind::Put => Ok(Some(value())),
        CellKind::Delete => Ok(None),
        CellKind::Pointer => Err(Error::Malformed {
            what: "cell",
            offset: 0,
            reason: "a pointer to a value outside of the table, which nobody writes yet".into(),
        }),
    }
}
