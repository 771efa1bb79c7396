//! Compaction: merging tables, so that lookups stay cheap and space is given back.
//!
//! A compaction reads its inputs in the engine's order, leaves out what nobody can see any more
//! ([`merge`]), and writes the rest as tables of the next level. Its inputs stay in use until the
//! outcome is installed by one edit of the manifest, so it may fail, or be abandoned by a crash, at
//! any point. Which tables come next is decided by the [`picker`]; how writers are slowed down when
//! work piles up, by [`pacing`].
//!
//! It is run in slices: whoever has time to spare calls [`Compaction::step`]. One compaction runs at
//! a time, beside flushes, which only add newer tables to level 0. So what is below and beside its
//! inputs does not change while it runs, except for what flushes add.

use std::sync::Arc;

use crate::iter::Cursor;
use crate::iter::level::LevelCursor;
use crate::iter::merge::MergeCursor;
use crate::manifest::version::Version;
use crate::table::{Table, TableMeta};
use crate::{Index, Result};

pub(crate) mod merge;
pub(crate) mod pacing;
pub(crate) mod picker;

use merge::{Older, Place, Retention, Sink};
use picker::Inputs;

/// A compaction under way.
pub(crate) struct Compaction {
    /// What is merged.
    inputs: Inputs,
    /// Size of what is merged, in bytes.
    input_bytes: u64,
    cursor: MergeCursor<Box<dyn Cursor + Send>>,
    /// Whether the cursor was placed.
    is_started: bool,
    retention: Retention,
    sink: Sink,
}

impl Compaction {
    /// Prepares to merge `inputs` of `version`. Readers are at `floor` or above, from now on.
    pub(crate) fn new(
        version: &Version,
        inputs: Inputs,
        floor: Index,
        place: Place,
        table_size: u64,
    ) -> Compaction {
        let mut cursors: Vec<Box<dyn Cursor + Send>> = Vec::new();
        let mut input_bytes = 0;
        for (position, level) in (0..).zip(&version.levels) {
            let is_input =
                |table: &&Arc<Table>| inputs.tables.contains(&(position, table.meta().id));
            let tables: Vec<Arc<Table>> = level.iter().filter(is_input).map(Arc::clone).collect();
            input_bytes += tables.iter().map(|table| table.meta().size).sum::<u64>();
            if position == 0 {
                for table in tables {
                    cursors.push(Box::new(table.cursor_past_cache()));
                }
            } else if !tables.is_empty() {
                cursors.push(Box::new(LevelCursor::past_cache(Arc::new(tables))));
            }
        }
        let (older, table_size) = if inputs.to == 0 {
            // Tables of level 0 are told apart by their entries, so the outcome must be one table.
            (Older::than_level_0(version, &inputs.tables), u64::MAX)
        } else {
            (Older::below(version, inputs.to), table_size)
        };
        Compaction {
            inputs,
            input_bytes,
            cursor: MergeCursor::new(cursors),
            is_started: false,
            retention: Retention::new(floor, Arc::clone(&version.keyspaces), older),
            sink: Sink::new(place, table_size),
        }
    }

    /// Merges about `budget` bytes; returns whether it came to the end.
    ///
    /// # Errors
    ///
    /// If an input is damaged or the disk refuses; then it can only be abandoned.
    pub(crate) fn step(&mut self, budget: usize) -> Result<bool> {
        if !self.is_started {
            self.cursor.first()?;
            self.is_started = true;
        }
        let mut spent = 0;
        while spent < budget {
            let Some(cell) = self.cursor.cell() else { return Ok(true) };
            spent += cell.key.len() + cell.value.len() + CELL_COST;
            if self.retention.keeps(&cell) {
                self.sink.add(cell)?;
            }
            self.cursor.next()?;
        }
        Ok(false)
    }

    /// Makes the outcome durable.
    ///
    /// # Errors
    ///
    /// What the disk refuses; then it can only be abandoned.
    pub(crate) fn finish(&mut self) -> Result<&[TableMeta]> {
        self.sink.finish()
    }

    /// Removes what was written.
    pub(crate) fn abandon(self) {
        self.sink.abandon();
    }

    /// What is merged.
    pub(crate) fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Size of what is merged, in bytes.
    pub(crate) fn input_bytes(&self) -> u64 {
        self.input_bytes
    }
}

/// What a cell costs beside its bytes, as bytes: keeps slices short when cells are tiny.
pub(crate) const CELL_COST: usize = 32;
