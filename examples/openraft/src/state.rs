//! Vote, committed and purged log id: a small file that is replaced as a whole.

use std::path::{Path, PathBuf};

use openraft::{LogId, NodeId, Vote};
use serde::{Deserialize, Serialize};
use strandline_wal::disk::{Disk, OpenMode, replace_file};
use strandline_wal::record::{self, Kind};
use strandline_wal::{Error, Result};

/// Its name in the log's directory.
const FILE: &str = "raft-state";
/// What the record in it is.
const KIND: Kind = Kind(0x80);
/// More bytes than it ever has.
const LEN_MAX: u64 = 4096;

/// What openraft wants to find again beside its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct State<N: NodeId> {
    /// For whom it voted last, and in which term.
    pub(crate) vote: Option<Vote<N>>,
    /// What it knew to be committed.
    pub(crate) committed: Option<LogId<N>>,
    /// The last entry that was dropped from the log's beginning.
    pub(crate) purged: Option<LogId<N>>,
}

impl<N: NodeId> State<N> {
    /// Reads it; a log that has none is new.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] if the file is not what was written, and what the disk says.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Self> {
        let path = path(dir);
        let file = match disk.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => {
                return Ok(Self { vote: None, committed: None, purged: None });
            }
            Err(error) => return Err(error),
        };
        // A vote that is answered again must not be forgotten: after a kill its name may be in the cache only.
        disk.sync_dir(dir)?;
        let len = usize::try_from(file.len()?.min(LEN_MAX)).unwrap_or_default();
        let mut bytes = vec![0; len];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        let damaged = |found: String| Error::Corruption {
            path: path.clone(),
            offset: 0,
            expected: "one record with vote, committed and purged log id".into(),
            found,
        };
        let (record, _) = record::decode(&bytes).map_err(|refusal| damaged(refusal.to_string()))?;
        if record.kind != KIND {
            return Err(damaged(format!("a record of kind {}", record.kind.0)));
        }
        postcard::from_bytes(record.payload).map_err(|error| damaged(error.to_string()))
    }

    /// Writes it; durable when this returns.
    ///
    /// # Errors
    ///
    /// What the disk says. The file then has its old content or this one.
    pub(crate) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let payload = postcard::to_stdvec(self).expect("plain values can be encoded");
        let mut bytes = record::encode_header(KIND, &payload).to_vec();
        bytes.extend_from_slice(&payload);
        replace_file(disk, &path(dir), &bytes)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}
