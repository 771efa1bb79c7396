//! Verifying the tables of an open engine, a little at a time.
//!
//! What is never read may be damaged for long, until it is wanted and no peer has it any more. So tables are
//! read from end to end, one after the other by their numbers, and held against the checksum that the
//! manifest has of each file. What is found is noted as if a reader had met it: [`Engine::damage`].
//!
//! The files are read, and not looked at where they are mapped: what cannot be read is then an error in every case, and
//! a table that is lost while it is open is missed.

use std::sync::Arc;

use crc32fast::Hasher;
use strandline_wal::disk::{File, OpenMode};

use crate::Engine;
use crate::engine::{LIST_IS_SOUND, or_missing};
use crate::second_try::twice;
use crate::table::{Table, TableId};

/// Bytes read at a time.
const READ_LEN: usize = 64 << 10;

/// How far a round has come.
#[derive(Default)]
pub(crate) struct Scrub {
    /// The table that is being read, or the least number of the next one.
    table: TableId,
    /// Its file, once it is open.
    file: Option<Arc<dyn File>>,
    /// Bytes of it that have been read.
    offset: u64,
    /// Over those.
    checksum: Hasher,
}

impl Scrub {
    /// Begins at this table, or the next one.
    fn at(table: TableId) -> Self {
        Self { table, ..Self::default() }
    }

    /// Goes on reading the table, at most so many bytes; returns how many, 0 at the end.
    fn read(
        &mut self,
        engine: &Engine,
        table: &Table,
        len: usize,
    ) -> strandline_wal::Result<usize> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let path = table.path();
                let opened = twice(|| engine.place.disk.open(path, OpenMode::Read));
                self.file.insert(opened.map_err(|error| or_missing(path, error))?)
            }
        };
        let mut bytes = vec![0; len.min(READ_LEN)];
        let count = twice(|| file.read_at(&mut bytes, self.offset))?;
        self.checksum.update(&bytes[..count]);
        self.offset += u64::try_from(count).expect("a length fits 64 bits");
        Ok(count)
    }
}

impl Engine {
    /// Verifies about so many bytes of tables, and goes on there the next time. No more than the rest of a
    /// round.
    pub fn scrub(&self, len: u64) {
        let version = Arc::clone(&self.state().version);
        let mut scrub = self.scrub.lock().expect(LIST_IS_SOUND);
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        while left > 0 {
            let rest = version.tables().filter(|table| table.meta().id >= scrub.table);
            let Some(table) = rest.min_by_key(|table| table.meta().id) else {
                *scrub = Scrub::default();
                return;
            };
            let id = table.meta().id;
            if id != scrub.table {
                *scrub = Scrub::at(id);
            }
            match scrub.read(self, table, left) {
                Ok(0) => table.check_file(std::mem::take(&mut scrub.checksum).finalize()),
                Ok(count) => {
                    left -= count;
                    continue;
                }
                // If it says nothing of what is stored there, the next round tries it again.
                Err(error) => {
                    let _ = table.refused(error);
                }
            }
            *scrub = Scrub::at(TableId(id.0 + 1));
        }
    }
}
