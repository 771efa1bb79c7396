//! What readers have found damaged or could not read, for who has it replaced.
//!
//! Whoever reads gets the error; a replica also has to learn that one was met, on whatever thread. The
//! last one of each table is kept, for a few tables: one is reason enough to replace the state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use strandline_wal::Error;

use super::TableId;

/// How many tables are remembered. Those of old states, which views may still read, are among them.
const TABLES_MAX: usize = 16;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Whether there is any: asked at every step of a replica.
    is_any: AtomicBool,
    found: Mutex<Vec<(TableId, Error)>>,
}

impl Findings {
    /// A reader of this table has met this.
    pub(super) fn note(&self, id: TableId, error: &crate::Error) {
        let crate::Error::Wal(error) = error else { return };
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.iter().any(|(known, _)| *known == id) {
            return;
        }
        if found.len() == TABLES_MAX {
            found.remove(0);
        }
        found.push((id, error.duplicate()));
        self.is_any.store(true, Ordering::Release);
    }

    /// The first damage of a table that counts.
    pub(crate) fn find(&self, counts: impl Fn(TableId) -> bool) -> Option<Error> {
        if !self.is_any.load(Ordering::Acquire) {
            return None;
        }
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.iter().find(|(id, _)| counts(*id)).map(|(_, error)| error.duplicate())
    }
}
