//! LMDB through heed: a memory-mapped copy-on-write B-tree in C; one writer at a time, its pages
//! written and synced at each commit.
//!
//! Settings are its own: no `NOSYNC`, no `NOMETASYNC`, no `WRITEMAP`.

use std::path::Path;

use ::heed::types::Bytes;
use ::heed::{Database, Env, EnvOpenOptions};

use crate::workload::{KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

const NAME: &str = "lmdb";
/// Address space for the map: more than any turn writes. It costs nothing until it is used.
const MAP_SIZE: usize = 16 << 30;

pub(super) const OPENER: Opener = Opener { name: NAME, open };

#[allow(unsafe_code, reason = "a mapped database can only be opened so")]
fn open(dir: &Path) -> Result<Box<dyn Store>> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_SIZE);
    // SAFETY: the directory was made for this one opening, and nobody else writes to its files
    // while they are mapped.
    let env = unsafe { options.open(dir) }.map_err(Error::store(NAME, "open"))?;
    let mut transaction = env.write_txn().map_err(Error::store(NAME, "begin"))?;
    let database = env
        .create_database(&mut transaction, None)
        .map_err(Error::store(NAME, "create a database"))?;
    transaction.commit().map_err(Error::store(NAME, "commit"))?;
    Ok(Box::new(Tree { env, database }))
}

struct Tree {
    env: Env,
    database: Database<Bytes, Bytes>,
}

impl Tree {
    fn put(&self, key: &[u8], value: &[u8]) -> std::result::Result<(), ::heed::Error> {
        let mut transaction = self.env.write_txn()?;
        self.database.put(&mut transaction, key, value)?;
        transaction.commit()
    }
}

impl Store for Tree {
    fn durable_by(&self) -> String {
        "fdatasync + pwrite(O_DSYNC)".into()
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
