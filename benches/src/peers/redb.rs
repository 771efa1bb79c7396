//! redb: a copy-on-write B-tree in Rust; one write transaction at a time, `fdatasync` per commit.
//!
//! Settings are its own, with `Durability::Immediate` said aloud.

use std::path::Path;

use ::redb::{Database, Durability, TableDefinition};

use crate::workload::{KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

const NAME: &str = "redb";
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("default");

pub(super) const OPENER: Opener = Opener { name: NAME, open };

fn open(dir: &Path) -> Result<Box<dyn Store>> {
    let database = Database::create(dir.join("redb")).map_err(Error::store(NAME, "create"))?;
    Ok(Box::new(Tree { database }))
}

struct Tree {
    database: Database,
}

impl Tree {
    fn put(&self, key: &[u8], value: &[u8]) -> std::result::Result<(), ::redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            table.insert(key, value)?;
        }
        transaction.commit()?;
        Ok(())
    }
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
        self.put(key, value).map_err(Error::store(NAME, "put"))
    }
}
