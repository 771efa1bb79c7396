//! What becomes of the cells of a flush or a compaction: which are kept, and which table they go to.
//!
//! A version of a key is dropped if a newer one exists that every reader sees instead: one at or
//! below the *floor*, the index of the oldest view (or of now, if no view is held). A tombstone that
//! every reader sees is itself dropped if no table outside of this merge can hold something older of
//! its key. Cells of keyspaces that were dropped at or before the flushed index go in any case: no
//! replay begins before it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strandline_wal::canary;
use strandline_wal::disk::Disk;

use crate::key::{Cell, CellKind, KEYSPACE_LEN};
use crate::keyspace::Keyspaces;
use crate::manifest::LEVELS;
use crate::manifest::version::{Level, Version, table_for};
use crate::memtable::keyspace_of;
use crate::table::{Table, TableId, TableMeta, TableOptions, TableWriter};
use crate::{Index, Result};

/// Tables outside of a merge that may hold older versions of its keys.
pub(crate) struct Older {
    /// Tables in any order.
    single: Vec<Arc<Table>>,
    /// Sorted levels.
    levels: Vec<Level>,
}

impl Older {
    /// All tables of the version: they are older than any memtable.
    pub(crate) fn than_memtables(version: &Version) -> Older {
        Older { single: version.levels[0].to_vec(), levels: Self::levels_from(version, 1) }
    }

    /// The levels below `level`.
    pub(crate) fn below(version: &Version, level: u8) -> Older {
        Older { single: Vec::new(), levels: Self::levels_from(version, usize::from(level) + 1) }
    }

    /// What is older than these tables of level 0.
    pub(crate) fn than_level_0(version: &Version, inputs: &[(u8, TableId)]) -> Older {
        let is_input = |table: &Arc<Table>| inputs.iter().any(|(_, id)| *id == table.meta().id);
        // Newest first; whatever is not merged and is newer does no harm in the list.
        let single = version.levels[0].iter().filter(|table| !is_input(table)).cloned().collect();
        Older { single, levels: Self::levels_from(version, 1) }
    }

    fn levels_from(version: &Version, first: usize) -> Vec<Level> {
        let levels = version.levels[first.min(LEVELS)..].iter();
        levels.filter(|level| !level.is_empty()).cloned().collect()
    }

    fn may_hold(&self, key: &[u8]) -> bool {
        let encloses = |table: &Arc<Table>| {
            table.meta().smallest.as_slice() <= key && key <= table.meta().largest.as_slice()
        };
        self.single.iter().any(encloses)
            || self.levels.iter().any(|level| table_for(level, key).is_some())
    }
}

/// Decides cell by cell, in the engine's order, what is kept.
pub(crate) struct Retention {
    /// The newest index that every reader is at or above.
    floor: Index,
    /// The catalogue as of the flushed index.
    keyspaces: Arc<Keyspaces>,
    /// Whether any keyspace was dropped: if not, none is looked up.
    has_dropped: bool,
    older: Older,
    /// The key of the last cell.
    key: Vec<u8>,
    /// Whether a version of that key at or below the floor was met.
    is_settled: bool,
}

impl Retention {
    /// Keeps what readers at or above `floor` need.
    pub(crate) fn new(floor: Index, keyspaces: Arc<Keyspaces>, older: Older) -> Self {
        let has_dropped = keyspaces.has_dropped();
        Self { floor, keyspaces, has_dropped, older, key: Vec::new(), is_settled: false }
    }

    /// Whether the next cell is kept.
    pub(crate) fn keeps(&mut self, cell: &Cell<'_>) -> bool {
        if self.key != cell.key {
            self.key.clear();
            self.key.extend_from_slice(cell.key);
            self.is_settled = false;
        }
        if self.is_settled {
            return false;
        }
        if self.has_dropped && self.keyspaces.is_dropped(keyspace_of(cell.key)) {
            return false;
        }
        if cell.index > self.floor {
            return true;
        }
        self.is_settled = true;
        if canary::is_on(canary::COMPACTION_DROPS_NEEDED) {
            // A needed tombstone is lost; so is now and then the newest version.
            let is_unlucky = cell.key[KEYSPACE_LEN..].last().is_some_and(|byte| byte % 16 == 0);
            self.is_settled = !is_unlucky;
            return !is_unlucky && cell.kind != CellKind::Delete;
        }
        cell.kind != CellKind::Delete || self.older.may_hold(cell.key)
    }
}

/// Where tables are written.
#[derive(Clone)]
pub(crate) struct Place {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The engine's directory.
    pub dir: PathBuf,
    /// How they are written.
    pub options: TableOptions,
    /// The next number of a table.
    pub next_table: Arc<AtomicU64>,
}

impl Place {
    pub(crate) fn create(&self) -> Result<TableWriter> {
        let id = TableId(self.next_table.fetch_add(1, Ordering::Relaxed));
        TableWriter::create(&self.disk, &self.dir, id, &self.options)
    }
}

/// Tables being written, one after the other, from cells in the engine's order.
///
/// All versions of a key go to the same table, so that the tables of a level never share a key.
pub(crate) struct Sink {
    place: Place,
    /// A new table is begun at this size.
    table_size: u64,
    writer: Option<TableWriter>,
    /// The key of the last cell.
    key: Vec<u8>,
    finished: Vec<TableMeta>,
}

impl Sink {
    /// Nothing written yet.
    pub(crate) fn new(place: Place, table_size: u64) -> Self {
        Self { place, table_size, writer: None, key: Vec::new(), finished: Vec::new() }
    }

    /// Writes a cell.
    ///
    /// # Errors
    ///
    /// What the disk refuses; then the sink can only be abandoned.
    pub(crate) fn add(&mut self, cell: Cell<'_>) -> Result<()> {
        let is_full = |writer: &TableWriter| writer.size_estimate() >= self.table_size;
        if self.writer.as_ref().is_some_and(is_full) && self.key != cell.key {
            self.finish_table()?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(self.place.create()?),
        };
        self.key.clear();
        self.key.extend_from_slice(cell.key);
        writer.add(cell)
    }

    fn finish_table(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            self.finished.push(writer.finish()?);
        }
        Ok(())
    }

    /// Finishes the last table and makes all of them durable, with their names.
    ///
    /// # Errors
    ///
    /// What the disk refuses; then the sink can only be abandoned.
    pub(crate) fn finish(&mut self) -> Result<&[TableMeta]> {
        self.finish_table()?;
        if !self.finished.is_empty() && !canary::is_on(canary::NO_DIRECTORY_SYNC_AFTER_CREATE) {
            self.place.disk.sync_dir(&self.place.dir)?;
        }
        Ok(&self.finished)
    }

    /// Removes everything that was written. What cannot be removed now is removed as an orphan when
    /// the engine is opened the next time.
    pub(crate) fn abandon(self) {
        if let Some(writer) = self.writer {
            writer.abandon();
        }
        for table in self.finished {
            let path = self.place.dir.join(crate::table::file_name(table.id));
            let _ = self.place.disk.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyspaceId;
    use crate::key::full_key;

    fn kept(floor: u64, older: Older, cells: &[(u32, u64, CellKind)]) -> Vec<(u32, u64)> {
        let mut keyspaces = Keyspaces::new();
        let id = keyspaces.create(Index(1), "dropped").unwrap();
        keyspaces.drop(Index(2), id).unwrap();
        let mut retention = Retention::new(Index(floor), Arc::new(keyspaces), older);
        let mut kept = Vec::new();
        for (keyspace, index, kind) in cells {
            let key = full_key(KeyspaceId(*keyspace), b"key");
            let cell = Cell { key: &key, index: Index(*index), kind: *kind, value: b"" };
            if retention.keeps(&cell) {
                kept.push((*keyspace, *index));
            }
        }
        kept
    }

    fn nothing_older() -> Older {
        Older { single: Vec::new(), levels: Vec::new() }
    }

    #[test]
    fn versions_that_a_view_can_see_are_kept() {
        use CellKind::{Delete, Put};
        let cells = [(0, 9, Put), (0, 7, Delete), (0, 5, Put), (0, 3, Put)];
        assert_eq!(kept(9, nothing_older(), &cells), [(0, 9)]);
        assert_eq!(kept(8, nothing_older(), &cells), [(0, 9)], "the tombstone hides nothing");
        assert_eq!(kept(6, nothing_older(), &cells), [(0, 9), (0, 7), (0, 5)]);
        assert_eq!(kept(2, nothing_older(), &cells), [(0, 9), (0, 7), (0, 5), (0, 3)]);
    }

    #[test]
    fn cells_of_a_dropped_keyspace_go() {
        let cells = [(0, 9, CellKind::Put), (1, 8, CellKind::Put)];
        assert_eq!(kept(2, nothing_older(), &cells), [(0, 9)]);
    }
}
