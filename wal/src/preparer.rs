//! Spare segments: made, written full, synced and named durably before they are put to use.
//!
//! Reserving blocks is not enough: the first write of each block would still cost a journal commit
//! of the file system. So every byte is written once here, away from the commit path, and a full disk
//! is met here and only here.

use std::path::Path;

use crate::disk::{Buffer, Disk, OpenMode};
use crate::segment::{Segment, SegmentHeader, SegmentId};
use crate::{Lsn, Result, canary};

/// Zeros are written in slices of this many bytes.
const SLICE_LEN: usize = 1 << 20;

/// Makes the spare segment `id`. Whatever was made of it is removed again if that fails.
pub(crate) fn make(
    disk: &dyn Disk,
    dir: &Path,
    id: SegmentId,
    len: u64,
    log_id: u64,
) -> Result<Segment> {
    let path = dir.join(id.file_name());
    let made = fill(disk, &path, id, len, log_id);
    let named = made.and_then(|segment| {
        if !canary::is_on(canary::NO_DIRECTORY_SYNC_AFTER_CREATE) {
            disk.sync_dir(dir)?;
        }
        Ok(segment)
    });
    if named.is_err() {
        // Best effort: a left-over is recognised and removed when the log is opened.
        let _ = disk.remove(&path);
    }
    named
}

pub(crate) fn fill(
    disk: &dyn Disk,
    path: &Path,
    id: SegmentId,
    len: u64,
    log_id: u64,
) -> Result<Segment> {
    let file = disk.open(path, OpenMode::CreateLog)?;
    file.allocate(len)?;
    let slice_len = usize::try_from(len).unwrap_or(SLICE_LEN).min(SLICE_LEN);
    let mut zeros = Buffer::with_capacity(slice_len);
    zeros.resize(slice_len);
    let mut offset = 0;
    while offset < len {
        let slice = usize::try_from(len - offset).unwrap_or(SLICE_LEN).min(SLICE_LEN);
        file.write_at(&zeros[..slice], offset)?;
        offset += u64::try_from(slice).expect("a slice is small");
    }
    let header = SegmentHeader {
        in_use: false,
        log_id,
        incarnation: 0,
        first: Lsn(0),
        chain: 0,
        len,
        trimmed: Lsn(0),
        previous: 0,
    };
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    Ok(Segment { id, path: path.to_path_buf(), file, len })
}
