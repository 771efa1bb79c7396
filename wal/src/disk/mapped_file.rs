//! Mapping a sealed file into memory.
//!
//! This is a file of its own because it needs `unsafe`: the type system cannot see that nobody
//! truncates or writes the file. The engine's rule makes it so: a file is mapped only after it is
//! sealed, and a sealed file is never truncated, and not written where it is mapped (a segment gets its
//! footer behind that), only removed, which leaves mapped pages as they are. Whoever breaks the rule from outside kills the process with `SIGBUS`; he gets no
//! wrong answer. So does a sector that cannot be read, unless it is touched first: that has the system
//! read it into memory with an error as the answer, from Linux 5.14 on, and does nothing before.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapOptions};
use rustix::io::Errno;

use super::{Map, io_error};
use crate::Result;

/// Maps the first `len` bytes of a file, or all; an empty one, which the system refuses to map, becomes
/// an empty `Map`.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) if it cannot be opened or mapped.
pub(super) fn map_front(path: &Path, len: u64) -> Result<Map> {
    let file = fs::File::open(path).map_err(|error| io_error("open", path, 0, error))?;
    let metadata = file.metadata().map_err(|error| io_error("stat", path, 0, error))?;
    let len = usize::try_from(metadata.len().min(len)).unwrap_or(usize::MAX);
    if len == 0 {
        return Ok(Map::new(Arc::new(Vec::new())));
    }
    // SAFETY: the contract of `Disk::map_front`: no one truncates the file or writes to its first `len`
    // bytes while they are mapped, so the bytes behind the shared slice do not change: the slice ends
    // there, even within a page. The tests `a_map_outlives_the_name_of_its_file` and
    // `what_is_written_behind_a_map_does_not_show` in `tests/real_disk.rs` would fail otherwise.
    let mapped = unsafe { MmapOptions::new().len(len).map(&file) };
    let mapped = Arc::new(mapped.map_err(|error| io_error("map", path, 0, error))?);
    let (touched, path) = (Arc::clone(&mapped), path.to_path_buf());
    Ok(Map::with_touch(mapped, move |range| touch(&touched, &path, range)))
}

/// A piece of this size is either in memory or not.
const PAGE_LEN: usize = 4096;

/// Brings bytes into memory.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) if they cannot be read.
fn touch(mapped: &Mmap, path: &Path, range: Range<usize>) -> Result<()> {
    let populate = |start: usize, len: usize| -> io::Result<()> {
        mapped.advise_range(Advice::PopulateRead, start, len)
    };
    let Err(error) = populate(range.start, range.len()) else { return Ok(()) };
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // The system is too old to be asked.
        Some(Errno::INVAL) => Ok(()),
        Some(Errno::FAULT | Errno::HWPOISON) => {
            let mut pages = (range.start / PAGE_LEN * PAGE_LEN..range.end).step_by(PAGE_LEN);
            let bad = pages.find(|page| populate(*page, 1).is_err()).unwrap_or(range.start);
            let offset = u64::try_from(bad).expect("an offset in memory fits 64 bits");
            Err(io_error("read", path, offset, Errno::IO.into()))
        }
        _ => Err(io_error("read", path, u64::try_from(range.start).unwrap_or(0), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    /// What would end the process when it is looked at is an error when it is touched.
    #[test]
    fn what_cannot_be_read_is_an_error_when_it_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sealed");
        fs::write(&path, vec![7; 5 * PAGE_LEN]).unwrap();
        let map = map_front(&path, u64::MAX).unwrap();
        map.touch(0..map.len()).unwrap();
        map.touch(7..usize::MAX).unwrap();
        map.touch(map.len()..map.len() + 1).unwrap();
        // To who looks, a page behind the end of a file is as one that the disk cannot read.
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
        map.touch(0..8192).unwrap();
        let error = map.touch(100..map.len()).unwrap_err();
        assert!(matches!(error, Error::Io { operation: "read", offset: 8192, .. }), "{error}");
        assert!(error.is_unreadable(), "{error}");
    }
}
