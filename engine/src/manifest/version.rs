//! One immutable set of tables.
//!
//! Readers hold a version and keep its files alive by that; an install makes another version and
//! leaves the old ones alone.
//!
//! Newer data lies above older data: for every key, what level 0 holds is newer than what level 1
//! holds, and so on down; within level 0 the tables are ordered by the entries they come from. So a
//! lookup ends at the first table that has a version of the key.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::LEVELS;
use super::contents::Contents;
use super::edit::Edit;
use crate::iter::Cursor;
use crate::iter::level::LevelCursor;
use crate::keyspace::Keyspaces;
use crate::table::{Found, Table, TableId, TableMeta};
use crate::{Index, Result};

/// The tables of one level, shared with its cursors.
pub(crate) type Level = Arc<Vec<Arc<Table>>>;

/// One immutable set of tables.
///
/// Invariant: level 0 is ordered newest first; the others ascend by key and do not overlap.
pub(crate) struct Version {
    /// The tables of each level.
    pub levels: [Level; LEVELS],
    /// Everything up to here is in tables.
    pub flushed: Index,
    /// The catalogue as of `flushed`.
    pub keyspaces: Arc<Keyspaces>,
    /// Size of each level, in bytes.
    pub bytes: [u64; LEVELS],
    /// Counts the versions since the engine was opened.
    pub number: u64,
}

impl Version {
    /// The version that a manifest says, its tables opened by `open`.
    ///
    /// # Errors
    ///
    /// The first error of `open`.
    pub(crate) fn open(
        contents: &Contents,
        mut open: impl FnMut(&TableMeta) -> Result<Arc<Table>>,
    ) -> Result<Version> {
        let mut levels: [Vec<Arc<Table>>; LEVELS] = std::array::from_fn(|_| Vec::new());
        for (level, table) in contents.tables() {
            levels[usize::from(level)].push(open(table)?);
        }
        Ok(Self::of_levels(levels, contents.flushed, Arc::new(contents.keyspaces.clone()), 0))
    }

    fn of_levels(
        levels: [Vec<Arc<Table>>; LEVELS],
        flushed: Index,
        keyspaces: Arc<Keyspaces>,
        number: u64,
    ) -> Version {
        let mut position = 0;
        let levels = levels.map(|mut tables| {
            if position == 0 {
                tables.sort_by_key(|table| std::cmp::Reverse(table.meta().index_max));
            } else {
                tables.sort_by(|a, b| a.meta().smallest.cmp(&b.meta().smallest));
                for pair in tables.windows(2) {
                    assert!(
                        pair[0].meta().largest < pair[1].meta().smallest,
                        "tables of a level do not overlap"
                    );
                }
            }
            position += 1;
            Arc::new(tables)
        });
        let bytes = std::array::from_fn(|position: usize| {
            let level: &Level = &levels[position];
            level.iter().map(|table| table.meta().size).sum()
        });
        Version { levels, flushed, keyspaces, bytes, number }
    }

    /// This version after an edit, whose new tables are `opened`.
    pub(crate) fn after(
        &self,
        edit: &Edit,
        opened: &[Arc<Table>],
        keyspaces: &Keyspaces,
    ) -> Version {
        let mut known: BTreeMap<TableId, &Arc<Table>> =
            opened.iter().map(|table| (table.meta().id, table)).collect();
        for (level, id) in &edit.removed {
            let tables = &self.levels[usize::from(*level)];
            let table = tables.iter().find(|table| table.meta().id == *id);
            known.insert(*id, table.expect("an edit removes tables that are there"));
        }
        let levels = std::array::from_fn(|position| {
            let is_here = |level: u8| usize::from(level) == position;
            let is_removed = |table: &Arc<Table>| {
                edit.removed.iter().any(|(level, id)| is_here(*level) && *id == table.meta().id)
            };
            let kept = self.levels[position].iter().filter(|table| !is_removed(table));
            let added = edit.added.iter().filter(|(level, _)| is_here(*level));
            let added = added.map(|(_, table)| known[&table.id]);
            kept.chain(added).map(Arc::clone).collect()
        });
        let flushed = edit.flushed.as_ref().map_or(self.flushed, |flushed| flushed.index);
        let keyspaces = if edit.keyspaces.is_empty() {
            Arc::clone(&self.keyspaces)
        } else {
            Arc::new(keyspaces.clone())
        };
        Self::of_levels(levels, flushed, keyspaces, self.number + 1)
    }

    /// The newest version of `full_key` at or below `at`.
    ///
    /// # Errors
    ///
    /// If a table is damaged or cannot be read.
    pub(crate) fn get(&self, full_key: &[u8], at: Index) -> Result<Option<Found>> {
        let hash = crate::table::hash(full_key);
        for table in self.levels[0].iter() {
            let meta = table.meta();
            let is_within = meta.smallest.as_slice() <= full_key
                && full_key <= meta.largest.as_slice()
                && meta.index_min <= at;
            if is_within && let Some(found) = table.get_hashed(full_key, hash, at)? {
                return Ok(Some(found));
            }
        }
        for level in &self.levels[1..] {
            if let Some(table) = table_for(level, full_key)
                && let Some(found) = table.get_hashed(full_key, hash, at)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Cursors that together walk over all cells.
    pub(crate) fn cursors(&self) -> Vec<Box<dyn Cursor>> {
        let mut cursors: Vec<Box<dyn Cursor>> = Vec::new();
        for table in self.levels[0].iter() {
            cursors.push(Box::new(table.cursor()));
        }
        for level in self.levels[1..].iter().filter(|level| !level.is_empty()) {
            cursors.push(Box::new(LevelCursor::new(Arc::clone(level))));
        }
        cursors
    }

    /// All tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.levels.iter().flat_map(|level| level.iter())
    }

    /// What the tables say of themselves, level by level, in the order of the version.
    pub(crate) fn shape(&self) -> Shape<'_> {
        std::array::from_fn(|position| {
            self.levels[position].iter().map(|table| table.meta()).collect()
        })
    }
}

/// The outline of a version: all that is needed to decide what to compact.
pub(crate) type Shape<'a> = [Vec<&'a TableMeta>; LEVELS];

/// The table of a sorted level whose bounds enclose `full_key`.
pub(crate) fn table_for<'a>(level: &'a Level, full_key: &[u8]) -> Option<&'a Arc<Table>> {
    let position = level.partition_point(|table| table.meta().largest.as_slice() < full_key);
    level.get(position).filter(|table| table.meta().smallest.as_slice() <= full_key)
}
