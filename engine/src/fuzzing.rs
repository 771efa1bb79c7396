//! A way to single tables for the fuzz targets, which look in from outside. Not part of the library:
//! compiled with the feature `fuzzing` only, and without promises.

use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::Disk;

use crate::iter::Cursor;
use crate::key::{self, CellKind};
use crate::table::{self, BlockCache, TableCursor, TableId, TableOptions, TableWriter};
use crate::{Compression, Index, Result};

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The full key.
    pub key: Vec<u8>,
    /// The entry that wrote it.
    pub index: Index,
    /// The value; none in a tombstone.
    pub value: Option<Vec<u8>>,
}

/// The table's file in its directory.
pub fn table_name(id: u64) -> String {
    table::file_name(TableId(id))
}

/// Writes the cells, which are in the engine's order and at least one, as table `id` in `dir`.
///
/// # Errors
///
/// If the disk refuses.
pub fn write_table(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    id: u64,
    cells: &[Cell],
    (block_size, compression, filters): (usize, Compression, bool),
) -> Result<()> {
    let options = TableOptions { block_size, compression, filters, ..TableOptions::default() };
    let mut writer = TableWriter::create(disk, dir, TableId(id), &options)?;
    for cell in cells {
        let kind = if cell.value.is_some() { CellKind::Put } else { CellKind::Delete };
        let value = cell.value.as_deref().unwrap_or_default();
        writer.add(key::Cell { key: &cell.key, index: cell.index, kind, value })?;
    }
    writer.finish()?;
    Ok(disk.sync_dir(dir)?)
}

/// An open table.
#[derive(Debug)]
pub struct Table(Arc<table::Table>);

impl Table {
    /// Opens table `id` in `dir`, believing what it says of itself.
    ///
    /// # Errors
    ///
    /// If it is damaged outside its blocks.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, id: u64) -> Result<Table> {
        let meta = table::meta_of(disk, &dir.join(table_name(id)))?;
        // Small enough that blocks are thrown out of it.
        let cache = BlockCache::new(16 << 10);
        Ok(Table(table::Table::open(
            disk,
            dir,
            table::TableMeta { id: TableId(id), written_as: TableId(id), ..meta },
            cache,
        )?))
    }

    /// The newest cell of `key` at or below `at`.
    ///
    /// # Errors
    ///
    /// If the block that would hold it is damaged.
    pub fn get(&self, key: &[u8], at: Index) -> Result<Option<Cell>> {
        let found = self.0.get_hashed(key, table::hash(key), at)?;
        Ok(found.map(|found| Cell {
            key: key.to_vec(),
            index: found.index,
            value: (found.kind != CellKind::Delete).then(|| found.value.to_vec()),
        }))
    }

    /// A cursor off the end.
    pub fn cursor(&self) -> Walk {
        Walk(self.0.cursor())
    }

    /// Checks everything; returns the count of cells.
    ///
    /// # Errors
    ///
    /// The first damage.
    pub fn verify(&self) -> Result<u64> {
        self.0.verify()
    }
}

/// A cursor over a table: on a cell, or off the end.
#[derive(Debug)]
pub struct Walk(TableCursor);

impl Walk {
    /// Moves to the first cell at or after the place.
    ///
    /// # Errors
    ///
    /// As all of these, if the block is damaged.
    pub fn seek(&mut self, key: &[u8], index: Index) -> Result<()> {
        self.0.seek(key, index)
    }

    /// Moves to the last cell before the place.
    ///
    /// # Errors
    ///
    /// If the block is damaged.
    pub fn seek_before(&mut self, key: &[u8], index: Index) -> Result<()> {
        self.0.seek_before(key, index)
    }

    /// Moves to the first cell.
    ///
    /// # Errors
    ///
    /// If the block is damaged.
    pub fn first(&mut self) -> Result<()> {
        self.0.first()
    }

    /// Moves to the last cell.
    ///
    /// # Errors
    ///
    /// If the block is damaged.
    pub fn last(&mut self) -> Result<()> {
        self.0.last()
    }

    /// Moves one cell on.
    ///
    /// # Errors
    ///
    /// If the block is damaged.
    pub fn forward(&mut self) -> Result<()> {
        self.0.next()
    }

    /// Moves one cell back.
    ///
    /// # Errors
    ///
    /// If the block is damaged.
    pub fn back(&mut self) -> Result<()> {
        self.0.prev()
    }

    /// The cell that it is on.
    pub fn cell(&self) -> Option<Cell> {
        let cell = self.0.cell()?;
        let value = (cell.kind != CellKind::Delete).then(|| self.0.value().to_vec());
        Some(Cell { key: cell.key.to_vec(), index: cell.index, value })
    }
}
