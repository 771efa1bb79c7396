//! raft-engine, the log of TiKV: group commit with one writer at a time and `fdatasync`.
//!
//! Meant to be opened at its best (not settled: see the decision): log files are filled before use and recycled, so that no sync pays for
//! allocation; entries are stored raw (no compression at this size); every thread appends to a region
//! of its own, so that its index of entries is not contended. What has been appended is compacted
//! now and then, as its users do, or its memory would grow without bound.

use std::path::Path;
use std::sync::Arc;

use ::protobuf::well_known_types::BytesValue;
use ::raft_engine::internals::FilePipeLog;
use ::raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::counted_files::CountedFiles;
use crate::workload::{KEY_LEN, Opener, Store, Writer};
use crate::{Error, Result};

const NAME: &str = "raft-engine";
/// Size of a log file, as ours.
const FILE_MIB: u64 = 64;
/// From here on old files are recycled; half as many again are filled when it opens (384 MiB).
const PURGE_MIB: u64 = 256;
/// A region drops its old entries each time it has appended so many.
const COMPACT_EVERY: u64 = 4096;
/// The first thread looks for files to recycle each time it has appended so many.
const PURGE_EVERY: u64 = 16 * COMPACT_EVERY;

pub(super) const OPENER: Opener = Opener { name: NAME, open };

fn open(dir: &Path) -> Result<Box<dyn Store>> {
    let files = Arc::new(CountedFiles::default());
    let engine = Engine::open_with_file_system(config(dir), files.clone())
        .map_err(Error::store(NAME, "open"))?;
    Ok(Box::new(Log { engine, files }))
}

/// The settings, but for what a use of it changes.
pub(crate) fn config(dir: &Path) -> Config {
    Config {
        dir: dir.to_string_lossy().into_owned(),
        target_file_size: ReadableSize::mb(FILE_MIB),
        purge_threshold: ReadableSize::mb(PURGE_MIB),
        enable_log_recycle: true,
        prefill_for_recycle: true,
        ..Config::default()
    }
}

/// raft-engine on files that count.
type Counted = Engine<CountedFiles, FilePipeLog<CountedFiles>>;

struct Log {
    engine: Counted,
    files: Arc<CountedFiles>,
}

impl Store for Log {
    fn durable_by(&self) -> String {
        "fdatasync".into()
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.files.syncs())
    }

    fn writer(&self, thread: usize) -> Result<Box<dyn Writer + '_>> {
        let region = u64::try_from(thread).expect("few threads") + 1;
        let batch = LogBatch::with_capacity(1);
        // A later turn goes on where the one before has ended.
        let index = self.engine.last_index(region).unwrap_or(0);
        Ok(Box::new(Region { engine: &self.engine, region, index, batch }))
    }
}

/// An entry whose first eight bytes are its index: the index needs a place in the message.
pub(crate) struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let head = entry.value.first_chunk().expect("values are longer than an index");
        u64::from_le_bytes(*head)
    }
}

struct Region<'a> {
    engine: &'a Counted,
    region: u64,
    index: u64,
    batch: LogBatch,
}

impl Writer for Region<'_> {
    fn write(&mut self, _: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        self.index += 1;
        let mut entry = BytesValue::new();
        entry.value = value.to_vec();
        entry.value[..8].copy_from_slice(&self.index.to_le_bytes());
        self.batch
            .add_entries::<Indexed>(self.region, &[entry])
            .map_err(Error::store(NAME, "encode"))?;
        self.engine.write(&mut self.batch, true).map_err(Error::store(NAME, "append"))?;
        if self.index.is_multiple_of(COMPACT_EVERY) {
            self.engine.compact_to(self.region, self.index);
        }
        if self.region == 1 && self.index.is_multiple_of(PURGE_EVERY) {
            self.engine.purge_expired_files().map_err(Error::store(NAME, "purge"))?;
        }
        Ok(())
    }
}
