//! A level as one cursor: tables that do not overlap, one after the other.
//!
//! Only the table under the cursor has a cursor of its own, so a walk over a level costs as much as
//! a walk over one table, however many the level has.

use std::sync::Arc;

use super::Cursor;
use crate::key::Cell;
use crate::table::{Table, TableCursor};
use crate::{Index, Result, Value};

/// The cells of tables that are sorted and do not overlap.
pub(crate) struct LevelCursor {
    /// Invariant: ascending, no key in two of them.
    tables: Arc<Vec<Arc<Table>>>,
    /// Whether blocks that are read stay in the cache.
    keep: bool,
    /// Which table, and the position in it; none off the end.
    current: Option<(usize, TableCursor)>,
}

impl LevelCursor {
    /// A cursor over `tables`, off the end.
    pub(crate) fn new(tables: Arc<Vec<Arc<Table>>>) -> Self {
        Self::with_cache(tables, true)
    }

    /// As [`new`](LevelCursor::new), leaving the block cache to others.
    pub(crate) fn past_cache(tables: Arc<Vec<Arc<Table>>>) -> Self {
        Self::with_cache(tables, false)
    }

    fn with_cache(tables: Arc<Vec<Arc<Table>>>, keep: bool) -> Self {
        debug_assert!(
            tables.windows(2).all(|pair| pair[0].meta().largest < pair[1].meta().smallest),
            "tables of a level are sorted and do not overlap"
        );
        Self { tables, keep, current: None }
    }

    /// Opens the table at `position`, if there is one, and places the cursor in it.
    fn enter(
        &mut self,
        position: Option<usize>,
        place: impl FnOnce(&mut TableCursor) -> Result<()>,
    ) -> Result<()> {
        self.current = None;
        let Some(position) = position.filter(|position| *position < self.tables.len()) else {
            return Ok(());
        };
        let table = &self.tables[position];
        let mut cursor = if self.keep { table.cursor() } else { table.cursor_past_cache() };
        place(&mut cursor)?;
        self.current = Some((position, cursor));
        Ok(())
    }

    fn is_on_a_cell(&self) -> bool {
        self.current.as_ref().is_some_and(|(_, cursor)| cursor.cell().is_some())
    }

    /// After a forward move that may have left the table: goes on in the next one.
    fn settle_forward(&mut self) -> Result<()> {
        while let Some((position, cursor)) = &self.current
            && cursor.cell().is_none()
        {
            let next = *position + 1;
            self.enter(Some(next), Cursor::first)?;
        }
        Ok(())
    }

    /// After a backward move that may have left the table: goes on in the one before.
    fn settle_backward(&mut self) -> Result<()> {
        while let Some((position, cursor)) = &self.current
            && cursor.cell().is_none()
        {
            let before = position.checked_sub(1);
            self.enter(before, Cursor::last)?;
        }
        Ok(())
    }
}

impl Cursor for LevelCursor {
    fn seek(&mut self, key: &[u8], index: Index) -> Result<()> {
        let position = self.tables.partition_point(|table| table.meta().largest.as_slice() < key);
        self.enter(Some(position), |cursor| cursor.seek(key, index))?;
        self.settle_forward()
    }

    fn seek_before(&mut self, key: &[u8], index: Index) -> Result<()> {
        let behind = self.tables.partition_point(|table| table.meta().smallest.as_slice() <= key);
        self.enter(behind.checked_sub(1), |cursor| cursor.seek_before(key, index))?;
        self.settle_backward()
    }

    fn first(&mut self) -> Result<()> {
        self.enter(Some(0), Cursor::first)?;
        self.settle_forward()
    }

    fn last(&mut self) -> Result<()> {
        self.enter(self.tables.len().checked_sub(1), Cursor::last)?;
        self.settle_backward()
    }

    fn next(&mut self) -> Result<()> {
        let Some((_, cursor)) = &mut self.current else { return Ok(()) };
        if let Err(error) = cursor.next() {
            self.current = None;
            return Err(error);
        }
        self.settle_forward()
    }

    fn prev(&mut self) -> Result<()> {
        let Some((_, cursor)) = &mut self.current else { return Ok(()) };
        if let Err(error) = cursor.prev() {
            self.current = None;
            return Err(error);
        }
        self.settle_backward()
    }

    fn cell(&self) -> Option<Cell<'_>> {
        self.current.as_ref()?.1.cell()
    }

    fn value(&self) -> Value {
        assert!(self.is_on_a_cell(), "a cursor off the end has no value");
        self.current.as_ref().expect("asserted just above").1.value()
    }
}
