//! What stands in a log whose payloads follow from their positions.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use strandline_wal::disk::simulated::SimulatedDisk;
use strandline_wal::frame::GroupHeader;
use strandline_wal::{Error, Lsn, Wal};

const BLOCK: usize = 4096;

/// The positions from `from` on, each of which holds its `payload`.
pub(crate) fn read(
    wal: &Wal,
    from: Lsn,
    payload: impl Fn(u64) -> Vec<u8>,
) -> Result<Vec<u64>, Error> {
    let mut reader = wal.reader(from);
    let mut found = Vec::new();
    while let Some(records) = reader.next_records()? {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            assert_eq!(record.payload, payload(lsn.0), "position {lsn}");
            found.push(lsn.0);
        }
    }
    Ok(found)
}

/// The group of a position in the log `log_id`: its file, where it stands, and its header.
pub(crate) fn group_of(disk: &SimulatedDisk, log_id: u64, lsn: u64) -> (PathBuf, u64, GroupHeader) {
    let files = disk.files().into_iter().map(|file| file.path);
    for path in files.filter(|path| path.extension().is_some_and(|name| name == "segment")) {
        let content = disk.visible_content(&path).unwrap();
        for at in (BLOCK..content.len()).step_by(BLOCK) {
            let incarnation = u64::from_le_bytes(content[at + 8..at + 16].try_into().unwrap());
            let offset = u64::try_from(at).unwrap();
            let group = GroupHeader::decode(&content[at..], log_id, incarnation, offset);
            if let Ok(group) = group
                && group.count > 0
                && group.first.0 == lsn
            {
                return (path, offset, group);
            }
        }
    }
    panic!("position {lsn} is nowhere");
}
