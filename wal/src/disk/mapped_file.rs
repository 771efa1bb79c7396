//! Mapping a sealed file into memory.
//!
//! This is a file of its own because it needs `unsafe`: the type system cannot see that nobody
//! truncates or writes the file. The engine's rule makes it so: a file is mapped only after it is
//! sealed, and a sealed file is never truncated, and not written where it is mapped (a segment gets its
//! footer behind that), only removed, which leaves mapped pages as they are. Whoever breaks the rule from outside kills the process with `SIGBUS`; he gets no
//! wrong answer.

use std::fs;
use std::path::Path;
use std::sync::Arc;

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
    let mapped = unsafe { memmap2::MmapOptions::new().len(len).map(&file) };
    Ok(Map::new(Arc::new(mapped.map_err(|error| io_error("map", path, 0, error))?)))
}
