//! RocksDB, with its write-ahead log synced at each write.
//!
//! Opened at its best: log files recycled (no allocation under a sync), pipelined writes (the next
//! group writes its log while this one fills the memtable), no compression.

use std::path::Path;

use ::rocksdb::{DB, DBCompressionType, Options, WriteOptions};

use crate::workload::{KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

const NAME: &str = "rocksdb";
/// How many log files are kept to be written again.
const RECYCLED_LOGS: usize = 4;

pub(super) const OPENER: Opener = Opener { name: NAME, open };

fn open(dir: &Path) -> Result<Box<dyn Store>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_recycle_log_file_num(RECYCLED_LOGS);
    options.set_enable_pipelined_write(true);
    let db = DB::open(&options, dir).map_err(Error::store(NAME, "open"))?;
    Ok(Box::new(Tree { db }))
}

struct Tree {
    db: DB,
}

impl Store for Tree {
    fn durable_by(&self) -> String {
        "fdatasync".into()
    }

    fn writer(&self, _: usize) -> Result<Box<dyn Writer + '_>> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(Box::new(Synced { db: &self.db, options }))
    }
}

struct Synced<'a> {
    db: &'a DB,
    options: WriteOptions,
}

impl Writer for Synced<'_> {
    fn write(&mut self, key: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        self.db.put_opt(key, value, &self.options).map_err(Error::store(NAME, "put"))
    }
}
