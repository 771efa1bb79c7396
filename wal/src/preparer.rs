//! Spare segments: made, written full, synced and named durably before they are put to use.
//!
//! Reserving blocks is not enough: the first write of each block would still cost a journal commit
//! of the file system. So every byte is written once here, away from the commit path, and a full disk
//! is met here and only here.

use std::path::Path;
use std::sync::Arc;

use crate::disk::{Buffer, Disk, File, OpenMode, io_error};
use crate::segment::{Segment, SegmentHeader, SegmentId, UNFINISHED};
use crate::{Lsn, Result, canary};

/// Zeros are written in slices of this many bytes.
const SLICE_LEN: usize = 1 << 20;

/// Makes the spare segment `id`, under [a name of its own](UNFINISHED) until it is whole: a process that is
/// killed meanwhile leaves nothing that opening would have to look through. Whatever was made of it is
/// removed again if that fails; a file that had the name already is left alone.
pub(crate) fn make(
    disk: &dyn Disk,
    dir: &Path,
    id: SegmentId,
    len: u64,
    log_id: u64,
) -> Result<Segment> {
    let path = dir.join(id.file_name());
    // It never has: numbers are given once. But renaming would take its content.
    if disk.exists(&path)? {
        let source = std::io::ErrorKind::AlreadyExists.into();
        return Err(io_error("create", &path, 0, source));
    }
    let unfinished = path.with_extension(UNFINISHED);
    let file = disk.open(&unfinished, OpenMode::CreateLog)?;
    let mut name = &unfinished;
    let made = fill(file, &unfinished, id, len, log_id).and_then(|segment| {
        disk.rename(&unfinished, &path)?;
        name = &path;
        // Opened anew, it is called by its name where an error names it.
        let file = disk.open(&path, OpenMode::Log)?;
        if !canary::is_on(canary::NO_DIRECTORY_SYNC_AFTER_CREATE) {
            disk.sync_dir(dir)?;
        }
        Ok(Segment { file, path: path.clone(), ..segment })
    });
    if made.is_err() {
        // Best effort: a left-over is recognised and removed when the log is opened.
        let _ = disk.remove(name);
    }
    made
}

/// Makes of the new file `path` a spare, whose name is not durable yet.
pub(crate) fn fill(
    file: Arc<dyn File>,
    path: &Path,
    id: SegmentId,
    len: u64,
    log_id: u64,
) -> Result<Segment> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    /// Whoever had the name first keeps his file.
    #[test]
    fn a_name_that_is_taken_is_left_alone() {
        let disk = SimulatedDisk::new(1);
        let dir = Path::new("/log");
        disk.create_dir_all(dir).unwrap();
        make(&*disk, dir, SegmentId(3), 64 << 10, 7).unwrap();
        assert!(make(&*disk, dir, SegmentId(3), 64 << 10, 7).is_err());
        let names = disk.list(dir).unwrap();
        assert_eq!(names, [SegmentId(3).file_name()]);
    }
}
