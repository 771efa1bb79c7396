//! The contract of everything that walks cells in the engine's order (see [`crate::key`]).

use crate::key::Cell;
use crate::{Index, Result, Value};

pub(crate) mod level;
pub(crate) mod merge;
pub(crate) mod visible;

/// A position in a sorted sequence of cells: on a cell, or off either end.
///
/// A new cursor is off the end. After an error the cursor is off the end.
pub(crate) trait Cursor {
    /// Moves to the first cell at or after the place (`key`, `index`).
    fn seek(&mut self, key: &[u8], index: Index) -> Result<()>;
    /// Moves to the last cell strictly before the place (`key`, `index`).
    fn seek_before(&mut self, key: &[u8], index: Index) -> Result<()>;
    /// Moves to the first cell.
    fn first(&mut self) -> Result<()>;
    /// Moves to the last cell.
    fn last(&mut self) -> Result<()>;
    /// Moves one cell on; off the end stays off the end.
    fn next(&mut self) -> Result<()>;
    /// Moves one cell back; off the end stays off the end.
    fn prev(&mut self) -> Result<()>;
    /// The cell under the cursor; none off the end.
    fn cell(&self) -> Option<Cell<'_>>;
    /// The value of the cell under the cursor, sharing its memory where that is possible.
    ///
    /// # Panics
    ///
    /// If the cursor is off the end.
    fn value(&self) -> Value;
}

impl<C: Cursor + ?Sized> Cursor for Box<C> {
    fn seek(&mut self, key: &[u8], index: Index) -> Result<()> {
        (**self).seek(key, index)
    }
    fn seek_before(&mut self, key: &[u8], index: Index) -> Result<()> {
        (**self).seek_before(key, index)
    }
    fn first(&mut self) -> Result<()> {
        (**self).first()
    }
    fn last(&mut self) -> Result<()> {
        (**self).last()
    }
    fn next(&mut self) -> Result<()> {
        (**self).next()
    }
    fn prev(&mut self) -> Result<()> {
        (**self).prev()
    }
    fn cell(&self) -> Option<Cell<'_>> {
        (**self).cell()
    }
    fn value(&self) -> Value {
        (**self).value()
    }
}
