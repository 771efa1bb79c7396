//! Walking the cells of a table, both ways.
//!
//! The cursor holds the block it is in and the whole key of its cell. Forward, the next key is made
//! from this one. Backward, keys cannot be unmade: the cursor goes to the restart before its cell and
//! walks up to it. See [`crate::iter`] for the contract.

use std::ops::Range;
use std::sync::Arc;

use super::block::{Block, EncodedCell, Malformed};
use super::reader::{BlockBytes, Table};
use crate::iter::Cursor;
use crate::key::{Cell, CellKind};
use crate::{Index, Result, Value};

/// A cursor over one table.
#[derive(Debug)]
pub(crate) struct TableCursor {
    table: Arc<Table>,
    /// Whether blocks that are decompressed stay in the cache.
    keep: bool,
    /// Where it is; none off the end.
    at: Option<Position>,
    /// The key of the cell it is on.
    key: Vec<u8>,
}

/// A cell in a block.
#[derive(Debug)]
struct Position {
    /// Number of the block in the table.
    number: usize,
    /// Its bytes.
    bytes: BlockBytes,
    /// Of the cell, in the block.
    offset: usize,
    index: Index,
    kind: CellKind,
    /// Of the value, in the block; the next cell starts at its end.
    value: Range<usize>,
}

impl Position {
    fn new(number: usize, bytes: BlockBytes, offset: usize, cell: CellPlace) -> Self {
        let CellPlace { index, kind, value } = cell;
        Self { number, bytes, offset, index, kind, value }
    }
}

/// What is kept of an encoded cell when its key has been taken.
struct CellPlace {
    index: Index,
    kind: CellKind,
    value: Range<usize>,
}

impl From<EncodedCell<'_>> for CellPlace {
    fn from(cell: EncodedCell<'_>) -> Self {
        Self { index: cell.index, kind: cell.kind, value: cell.value }
    }
}

impl TableCursor {
    /// A cursor off the end.
    pub(super) fn new(table: Arc<Table>, keep: bool) -> Self {
        Self { table, keep, at: None, key: Vec::new() }
    }

    /// Moves to the first cell of block `number`, or off the end if there is none.
    fn enter_first_of(&mut self, number: usize) -> Result<()> {
        self.at = None;
        if number >= self.table.block_count() {
            return Ok(());
        }
        let bytes = self.table.block(number, self.keep)?;
        self.key.clear();
        let cell = step(bytes.as_slice(), 0, &mut self.key);
        let cell = cell.map_err(|malformed| self.table.malformed(number, malformed))?;
        self.at = Some(Position::new(number, bytes, 0, cell));
        Ok(())
    }

    /// Moves to the last cell of block `number`.
    fn enter_last_of(&mut self, number: usize) -> Result<()> {
        self.at = None;
        let bytes = self.table.block(number, self.keep)?;
        let malformed = |malformed| self.table.malformed(number, malformed);
        let end = Block::new(bytes.as_slice()).map_err(malformed)?.cells_len();
        self.enter_last_before(number, bytes, end)
    }

    /// Moves to the last cell that starts before `end`, the start of another cell or the end of all,
    /// and not 0.
    fn enter_last_before(&mut self, number: usize, bytes: BlockBytes, end: usize) -> Result<()> {
        let found = last_before(bytes.as_slice(), end, &mut self.key);
        let (offset, cell) = found.map_err(|malformed| self.table.malformed(number, malformed))?;
        self.at = Some(Position::new(number, bytes, offset, cell));
        Ok(())
    }
}

/// Decodes the cell at `offset`, making its key of that of the cell before.
fn step(
    bytes: &[u8],
    offset: usize,
    key: &mut Vec<u8>,
) -> std::result::Result<CellPlace, Malformed> {
    let cell = Block::new(bytes)?.cell_at(offset)?;
    cell.extend_key(key)?;
    Ok(cell.into())
}

/// The last cell that starts before `end`, and its key.
fn last_before(
    bytes: &[u8],
    end: usize,
    key: &mut Vec<u8>,
) -> std::result::Result<(usize, CellPlace), Malformed> {
    let block = Block::new(bytes)?;
    let mut offset = block.restart_before(end);
    key.clear();
    loop {
        let cell = block.cell_at(offset)?;
        cell.extend_key(key)?;
        if cell.value.end >= end {
            return Ok((offset, cell.into()));
        }
        offset = cell.value.end;
    }
}

impl Cursor for TableCursor {
    fn seek(&mut self, key: &[u8], index: Index) -> Result<()> {
        self.at = None;
        let Some(number) = self.table.find_block(key, index)? else { return Ok(()) };
        let bytes = self.table.block(number, self.keep)?;
        let malformed = |malformed| self.table.malformed(number, malformed);
        let block = Block::new(bytes.as_slice()).map_err(malformed)?;
        let Some((offset, cell)) = block.seek(key, index).map_err(malformed)? else {
            // Between the block's last cell and its separator.
            return self.enter_first_of(number + 1);
        };
        self.key.clear();
        self.key.extend_from_slice(&key[..cell.shared]);
        self.key.extend_from_slice(cell.suffix);
        let cell = cell.into();
        self.at = Some(Position::new(number, bytes, offset, cell));
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8], index: Index) -> Result<()> {
        self.seek(key, index)?;
        if self.at.is_some() { self.prev() } else { self.last() }
    }

    fn first(&mut self) -> Result<()> {
        self.enter_first_of(0)
    }

    fn last(&mut self) -> Result<()> {
        self.enter_last_of(self.table.block_count() - 1)
    }

    fn next(&mut self) -> Result<()> {
        let Some(at) = &mut self.at else { return Ok(()) };
        let (number, offset) = (at.number, at.value.end);
        let step = match Block::new(at.bytes.as_slice()) {
            Ok(block) if offset == block.cells_len() => return self.enter_first_of(number + 1),
            Ok(block) => block.cell_at(offset).and_then(|cell| {
                cell.extend_key(&mut self.key)?;
                Ok(CellPlace::from(cell))
            }),
            Err(malformed) => Err(malformed),
        };
        match step {
            Ok(cell) => {
                at.offset = offset;
                CellPlace { index: at.index, kind: at.kind, value: at.value } = cell;
                Ok(())
            }
            Err(malformed) => {
                self.at = None;
                Err(self.table.malformed(number, malformed))
            }
        }
    }

    fn prev(&mut self) -> Result<()> {
        match self.at.take() {
            None => Ok(()),
            Some(at) if at.offset > 0 => self.enter_last_before(at.number, at.bytes, at.offset),
            Some(at) if at.number > 0 => self.enter_last_of(at.number - 1),
            Some(_) => Ok(()),
        }
    }

    fn cell(&self) -> Option<Cell<'_>> {
        let at = self.at.as_ref()?;
        let value = at.bytes.as_slice().get(at.value.clone()).unwrap_or(&[]);
        Some(Cell { key: &self.key, index: at.index, kind: at.kind, value })
    }

    fn value(&self) -> Value {
        let at = self.at.as_ref().expect("the cursor is on a cell");
        at.bytes.clone().into_value(at.value.clone())
    }
}
