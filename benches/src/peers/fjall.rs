//! fjall: an LSM tree in Rust; each commit writes its journal and calls `fdatasync` under one lock.
//!
//! Settings are its own; a batch of one with `PersistMode::SyncData`, the cheaper of its two durable
//! modes. (Inserting first and then calling `persist` costs a second turn of the same lock.)

use std::path::Path;

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::workload::{KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

const NAME: &str = "fjall";

pub(super) const OPENER: Opener = Opener { name: NAME, open };

fn open(dir: &Path) -> Result<Box<dyn Store>> {
    let database = Database::builder(dir).open().map_err(Error::store(NAME, "open"))?;
    let keyspace = database
        .keyspace("default", KeyspaceCreateOptions::default)
        .map_err(Error::store(NAME, "create a keyspace"))?;
    Ok(Box::new(Tree { database, keyspace }))
}

struct Tree {
    database: Database,
    keyspace: Keyspace,
}

impl Store for Tree {
    fn durable_by(&self) -> String {
        "fdatasync".into()
    }

    fn writer(&self, _: usize) -> Result<Box<dyn Writer + '_>> {
        Ok(Box::new(self))
    }
}

impl Writer for &Tree {
    fn write(&mut self, key: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.keyspace, key.as_slice(), value);
        batch.commit().map_err(Error::store(NAME, "put"))
    }
}
