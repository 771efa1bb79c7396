//! Moving whole buffers through system calls that may do less than they were asked for.
//!
//! A write may be interrupted by a signal, or end early: at a full disk, at a limit on file sizes,
//! at a signal in the middle. [`write_fully`] goes on with the rest until all is written or an
//! error explains why not, so that no caller ever takes a short write for a whole one.
//!
//! With direct I/O the rest must start at a multiple of the alignment again. [`settled`] therefore
//! counts only whole aligned pieces of a short write; the broken piece is written once more, with
//! the same bytes. A write that makes no progress by this count is an error, not a loop.
//!
//! What is left out: syncing. The caller knows what makes its bytes durable.

use std::io;
use std::path::Path;

use super::io_error;
use crate::{Error, Result};

/// The most bytes given to one system call. Linux takes a little less than 2 GiB; a power of two
/// below that keeps the rest aligned.
pub(super) const TRANSFER_MAX: usize = 1 << 30;

/// How many of the `moved` bytes of a transfer of `wanted` bytes need not be written again: all of
/// them if it was whole, else those in whole pieces of `alignment` bytes.
///
/// # Panics
///
/// If the kernel claims to have moved more than it was given, which only a broken one does.
pub(super) fn settled(moved: usize, wanted: usize, alignment: usize) -> usize {
    assert!(moved <= wanted, "a transfer of {wanted} bytes cannot have moved {moved}");
    if moved == wanted { moved } else { moved - moved % alignment }
}

/// The error of a write that ended early and made no progress.
pub(super) fn no_progress(moved: usize, wanted: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::WriteZero,
        format!("only {moved} of {wanted} bytes were written, and no whole block of them"),
    )
}

/// Writes all of `bytes` at `offset` by calling `write_once` with what remains and its offset.
///
/// # Errors
///
/// The first error of `write_once` other than an interruption by a signal, with the offset that it
/// was asked to write at.
pub(super) fn write_fully(
    path: &Path,
    bytes: &[u8],
    offset: u64,
    alignment: usize,
    mut write_once: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..bytes.len().min(done.saturating_add(TRANSFER_MAX))];
        let position = offset_after(path, offset, done)?;
        match write_once(rest, position) {
            Ok(moved) => match settled(moved, rest.len(), alignment) {
                0 => {
                    let source = no_progress(moved, rest.len());
                    return Err(io_error("write", path, position, source));
                }
                advance => done += advance,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("write", path, position, error)),
        }
    }
    Ok(())
}

/// The file offset `count` bytes after `offset`.
///
/// # Errors
///
/// [`Error::Io`] of kind `FileTooLarge` past the last offset there is.
pub(super) fn offset_after(path: &Path, offset: u64, count: usize) -> Result<u64> {
    u64::try_from(count).ok().and_then(|count| offset.checked_add(count)).ok_or_else(|| Error::Io {
        operation: "write",
        path: path.to_path_buf(),
        offset,
        source: io::ErrorKind::FileTooLarge.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in memory whose writes do what a script says: `Ok(n)` writes at most n bytes.
    fn write_with(
        script: Vec<io::Result<usize>>,
        bytes: &[u8],
        alignment: usize,
    ) -> (Result<()>, Vec<u8>, Vec<u64>) {
        let mut script = script.into_iter();
        let mut content = vec![0xAA; bytes.len()];
        let mut offsets = Vec::new();
        let result = write_fully(Path::new("f"), bytes, 8192, alignment, |rest, offset| {
            offsets.push(offset);
            let count = script.next().unwrap_or(Ok(usize::MAX))?.min(rest.len());
            let start = usize::try_from(offset - 8192).unwrap();
            content[start..start + count].copy_from_slice(&rest[..count]);
            Ok(count)
        });
        (result, content, offsets)
    }

    #[test]
    fn short_and_interrupted_writes_are_continued_at_aligned_offsets() {
        let bytes: Vec<u8> = (0..=255).cycle().take(4096).collect();
        let interrupted = || Err(io::Error::from(io::ErrorKind::Interrupted));
        let script = vec![Ok(1000), interrupted(), Ok(512), interrupted()];
        let (result, content, offsets) = write_with(script, &bytes, 512);
        result.unwrap();
        assert_eq!(content, bytes);
        assert_eq!(offsets, [8192, 8704, 8704, 9216, 9216]);
    }

    #[test]
    fn a_write_without_progress_is_an_error_and_not_a_loop() {
        let (result, _, offsets) = write_with(vec![Ok(512), Ok(100)], &[1; 2048], 512);
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::Io { operation: "write", offset: 8704, source, .. }
                if source.kind() == io::ErrorKind::WriteZero),
            "{error}"
        );
        assert_eq!(offsets.len(), 2);
    }

    #[test]
    fn a_disk_that_fills_up_in_the_middle_is_reported_as_full() {
        let full = Err(io::Error::from(io::ErrorKind::StorageFull));
        let (result, ..) = write_with(vec![Ok(512), full], &[1; 2048], 1);
        assert!(result.unwrap_err().is_full());
    }

    #[test]
    fn an_offset_past_the_end_of_all_offsets_is_refused() {
        let result = write_fully(Path::new("f"), &[0; 3], u64::MAX, 1, |_, _| Ok(1));
        assert!(matches!(result, Err(Error::Io { offset: u64::MAX, .. })), "{result:?}");
    }
}
