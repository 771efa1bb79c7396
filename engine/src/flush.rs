//! Flush: writing a sealed memtable out as a table.
//!
//! A flush runs in slices, like a compaction, and leaves the same things out. It holds no cursor
//! between slices, only the place it has come to, so the memtable is not borrowed meanwhile. The
//! memtable stays readable until the table is installed in its place.

use std::sync::Arc;

use crate::compaction::CELL_COST;
use crate::compaction::merge::{Older, Place, Retention, Sink};
use crate::iter::Cursor;
use crate::keyspace::Keyspaces;
use crate::manifest::version::Version;
use crate::memtable::Memtable;
use crate::table::TableMeta;
use crate::{Index, Result};

/// A memtable that is not written any more.
pub(crate) struct Sealed {
    /// Its cells.
    pub memtable: Arc<Memtable>,
    /// The last entry that was applied before it was sealed.
    pub last: Index,
    /// The machine's state as of that entry.
    pub machine_state: Vec<u8>,
}

/// A flush under way.
pub(crate) struct Flush {
    /// Where the memtable is found, in its sealed form.
    sealed: Arc<Sealed>,
    /// The last cell that was looked at.
    reached: Option<(Vec<u8>, Index)>,
    retention: Retention,
    sink: Sink,
}

impl Flush {
    /// Prepares to flush the oldest sealed memtable. Readers are at `floor` or above, from now on;
    /// `keyspaces` is the catalogue as of the memtable's last entry.
    pub(crate) fn new(
        sealed: Arc<Sealed>,
        version: &Version,
        floor: Index,
        keyspaces: Arc<Keyspaces>,
        place: Place,
    ) -> Flush {
        let retention = Retention::new(floor, keyspaces, Older::than_memtables(version));
        // One table, however large: tables of level 0 are told apart by their entries.
        Flush { sealed, reached: None, retention, sink: Sink::new(place, u64::MAX) }
    }

    /// The memtable being flushed.
    pub(crate) fn sealed(&self) -> &Arc<Sealed> {
        &self.sealed
    }

    /// Writes about `budget` bytes; returns whether it came to the end.
    ///
    /// # Errors
    ///
    /// What the disk refuses; then it can only be abandoned.
    pub(crate) fn step(&mut self, budget: usize) -> Result<bool> {
        let mut cursor = self.sealed.memtable.cursor();
        match &self.reached {
            Some((key, index)) => {
                cursor.seek(key, *index)?;
                cursor.next()?;
            }
            None => cursor.first()?,
        }
        let mut spent = 0;
        while let Some(cell) = cursor.cell() {
            spent += cell.key.len() + cell.value.len() + CELL_COST;
            if self.retention.keeps(&cell) {
                self.sink.add(cell)?;
            }
            if spent >= budget {
                self.reached = Some((cell.key.to_vec(), cell.index));
                return Ok(false);
            }
            cursor.next()?;
        }
        Ok(true)
    }

    /// Makes the table durable; there is none if nothing was worth keeping.
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
}
