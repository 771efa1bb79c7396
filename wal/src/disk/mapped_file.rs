//! Mapping a sealed file into memory.
//!
//! This is a file of its own because it needs `unsafe`: the type system cannot see that nobody
//! truncates or writes the file. The engine's rule makes it so: a file is mapped only after it is
//! sealed, and a sealed file is never written or truncated, only removed, which leaves mapped pages
//! as they are. Whoever breaks the rule from outside kills the process with `SIGBUS`; he gets no
//! wrong answer.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{Map, io_error};
use crate::Result;

/// Maps all of a file; an empty one, which the system refuses to map, becomes an empty `Map`.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) if it cannot be opened or mapped.
pub(super) fn map(path: &Path) -> Result<Map> {
    let file = fs::File::open(path).map_err(|error| io_error("open", path, 0, error))?;
    let metadata = file.metadata().map_err(|error| io_error("stat", path, 0, error))?;
    if metadata.len() == 0 {
        return Ok(Map::new(Arc::new(Vec::new())));
    }
    // SAFETY: the file is sealed (the contract of `Disk::map`): no one writes or truncates it while
    // it is mapped, so the bytes behind the shared slice do not change. The test
    // `a_map_outlives_the_name_of_its_file` in `tests/real_disk.rs` would fail if removal did.
    let mapped = unsafe { memmap2::Mmap::map(&file) };
    Ok(Map::new(Arc::new(mapped.map_err(|error| io_error("map", path, 0, error))?)))
}
