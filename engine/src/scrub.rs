//! Verifying the tables of an open engine, a little at a time.
//!
//! What is never read may be damaged for long, until it is wanted and no peer has it any more. So tables are
//! read from end to end, one after the other by their numbers, and held against the checksum that the
//! manifest has of each file. What is found is noted as if a reader had met it: [`Engine::damage`].

use crc32fast::Hasher;

use crate::Engine;
use crate::engine::LIST_IS_SOUND;
use crate::table::TableId;

/// How far a round has come.
#[derive(Default)]
pub(crate) struct Scrub {
    /// The table that is being read, or the least number of the next one.
    table: TableId,
    /// Bytes of it that have been read.
    offset: usize,
    /// Over those.
    checksum: Hasher,
}

impl Engine {
    /// Verifies about so many bytes of tables, and goes on there the next time. No more than the rest of a
    /// round.
    pub fn scrub(&self, len: u64) {
        let version = std::sync::Arc::clone(&self.state().version);
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
                *scrub = Scrub { table: id, ..Scrub::default() };
            }
            let bytes = &table.bytes()[scrub.offset..];
            let bytes = &bytes[..left.min(bytes.len())];
            scrub.checksum.update(bytes);
            scrub.offset += bytes.len();
            left -= bytes.len();
            if scrub.offset == table.bytes().len() {
                table.check_file(std::mem::take(&mut scrub.checksum).finalize());
                *scrub = Scrub { table: TableId(id.0 + 1), ..Scrub::default() };
            }
        }
    }
}
