//! What a read command sees: a view of the store, at the clock's time.
//!
//! A key that has expired by the clock is hidden, whether its deletion has been logged or not.

use strandline_engine::{Range, Read, Result};

use crate::apply::DATA;
use crate::databases::Directory;
use crate::key;
use crate::store::Store;
use crate::value::Stored;

/// What a command reads.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// All keys at one index: for commands of several keys.
    View(&'a dyn Read),
    /// The newest value of a key, from memory where it is there: for commands of one key.
    Newest(&'a Store),
}

/// One read command in execution.
pub struct Reader<'a> {
    /// What is read.
    pub source: Source<'a>,
    /// Where the databases are.
    pub directory: &'a Directory,
    /// In which database.
    pub database: usize,
    /// The time.
    pub now_ms: u64,
    /// Randomness for commands that sample.
    pub seed: u64,
    /// Holds the data key that is being looked up.
    pub scratch: &'a mut Vec<u8>,
}

impl Reader<'_> {
    /// What a client sees under a key.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn find(&mut self, user_key: &[u8]) -> Result<Option<Stored>> {
        key::write_data_key(self.scratch, self.space(), user_key);
        let found = match self.source {
            Source::View(view) => view.get(DATA, self.scratch)?.map(Stored::decode).transpose()?,
            Source::Newest(store) => store.find(self.scratch)?,
        };
        Ok(found.filter(|stored| !stored.is_expired(self.now_ms)))
    }

    /// The view.
    ///
    /// # Panics
    ///
    /// If the command was given the newest values of single keys instead.
    pub fn view(&self) -> &dyn Read {
        match self.source {
            Source::View(view) => view,
            Source::Newest(_) => unreachable!("a command that walks keys has no single key"),
        }
    }

    /// Where the current database is.
    pub fn space(&self) -> u32 {
        self.directory.get(self.database).space
    }

    /// What a client sees in a range of data keys: with the data key.
    pub fn range(&self, range: Range) -> impl Iterator<Item = Result<(Vec<u8>, Stored)>> {
        let now_ms = self.now_ms;
        self.view().range(DATA, range).filter_map(move |pair| {
            let (data_key, value) = match pair {
                Ok(pair) => pair,
                Err(error) => return Some(Err(error)),
            };
            match Stored::decode(value) {
                Ok(stored) if stored.is_expired(now_ms) => None,
                Ok(stored) => Some(Ok((data_key, stored))),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// All that a client sees in the current database: with the data key.
    pub fn all(&self) -> impl Iterator<Item = Result<(Vec<u8>, Stored)>> {
        self.range(Range::prefix(&key::space_prefix(self.space())))
    }
}
