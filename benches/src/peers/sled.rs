//! sled 0.34: listed apart, because its `flush` calls `sync_file_range`, which neither empties the
//! disk's cache nor writes metadata. What it acknowledges does not survive a power cut.

use std::path::Path;

use ::sled::Db;

use crate::workload::{KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

const NAME: &str = "sled";

pub(super) const OPENER: Opener = Opener { name: NAME, open };

fn open(dir: &Path) -> Result<Box<dyn Store>> {
    // No flusher by the clock: every put flushes.
    let db = ::sled::Config::new()
        .path(dir)
        .flush_every_ms(None)
        .open()
        .map_err(Error::store(NAME, "open"))?;
    Ok(Box::new(Tree { db }))
}

struct Tree {
    db: Db,
}

impl Store for Tree {
    fn durable_by(&self) -> String {
        "sync_file_range (not durable)".into()
    }

    fn writer(&self, _: usize) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(self))
    }
}

impl Writer for &Tree {
    fn write(&mut self, key: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        self.db.insert(key, value).map_err(Error::store(NAME, "put"))?;
        self.db.flush().map_err(Error::store(NAME, "flush"))?;
        Ok(())
    }
}
