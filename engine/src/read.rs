//! Reading: what a view of the engine, and a machine in the middle of an entry, have in common.

use std::ops::{Bound, Deref};
use std::sync::Arc;

use crate::{KeyspaceId, Result};

/// A value that was read; shares memory with where it was found.
#[derive(Clone)]
pub struct Value {
    /// What keeps the bytes alive.
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// Which of the owner's bytes.
    range: std::ops::Range<usize>,
}

impl Value {
    /// The bytes `range` of `owner`.
    ///
    /// # Panics
    ///
    /// If the range is not within the owner's bytes.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end, "a value's range is ordered");
        assert!(range.end <= (*owner).as_ref().len(), "a value lies within its owner");
        Self { owner, range }
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Arc::new(bytes), range }
    }
}

impl Deref for Value {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Value({})", self.escape_ascii())
    }
}

impl PartialEq<[u8]> for Value {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Value);

/// Which way an iteration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the smallest key up.
    Forward,
    /// From the largest key down.
    Backward,
}

/// Which keys of a keyspace, and in which order.
#[derive(Clone, Debug)]
pub struct Range {
    /// From here.
    pub start: Bound<Vec<u8>>,
    /// To here.
    pub end: Bound<Vec<u8>>,
    /// Which way.
    pub direction: Direction,
}

impl Range {
    /// All keys, ascending.
    pub fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded, direction: Direction::Forward }
    }

    /// The keys that start with `prefix`, ascending.
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        let end = match end.last_mut() {
            Some(last) => {
                *last += 1;
                Bound::Excluded(end)
            }
            None => Bound::Unbounded,
        };
        Self { start: Bound::Included(prefix.to_vec()), end, direction: Direction::Forward }
    }

    /// The same keys, descending.
    #[must_use]
    pub fn backward(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// Whether `key` lies within the bounds.
    pub fn contains(&self, key: &[u8]) -> bool {
        let from_start = match &self.start {
            Bound::Included(start) => key >= start.as_slice(),
            Bound::Excluded(start) => key > start.as_slice(),
            Bound::Unbounded => true,
        };
        let to_end = match &self.end {
            Bound::Included(end) => key <= end.as_slice(),
            Bound::Excluded(end) => key < end.as_slice(),
            Bound::Unbounded => true,
        };
        from_start && to_end
    }
}

/// Something that can be read at one consistent index.
pub trait Read {
    /// The value of `key`, or none.
    fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Value>>;
    /// The pairs in `range`, in its direction. The iterator ends after its first error.
    fn range<'a>(
        &'a self,
        keyspace: KeyspaceId,
        range: Range,
    ) -> Box<dyn Iterator<Item = Result<Pair>> + 'a>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_ff_bytes_has_an_end() {
        let range = Range::prefix(&[1, 0xff, 0xff]);
        assert!(range.contains(&[1, 0xff, 0xff, 9]));
        assert!(!range.contains(&[2]));
        assert!(Range::prefix(&[0xff]).contains(&[0xff, 0xff]));
    }
}
