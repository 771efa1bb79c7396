//! One open file of the real disk.
//!
//! A file is either *buffered* (its reads and writes go through the page cache) or *direct*
//! (`O_DIRECT`). A direct file keeps one descriptor only and also reads directly: after a crash of
//! the process, what the page cache holds is not what the disk holds, and a log that recovers must
//! see the latter. Unaligned reads are therefore widened to aligned ones into a bounce buffer.
//!
//! A direct write must be aligned in offset and length, which is the caller's part and checked
//! here; where only its memory is not aligned, the bytes are copied into memory that is.
//!
//! [`File::sync`] is one `fdatasync` (or `fsync` on the portable rung), never repeated, not even
//! after a signal: a second sync that succeeds says nothing about what the first one lost.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, OFlags};

use super::transfer::write_fully;
use super::trial::SECTOR;
use super::{ALIGNMENT_MAX, Buffer, DurableWrite, File, OpenMode, Rung, io_error};
use crate::{Error, Result};

/// The largest piece that goes through a bounce buffer at once: large enough that the copy, not the
/// call, is what costs, and small enough to be allocated for each call.
const BOUNCE_MAX: usize = 1 << 20;

const _: () = assert!(BOUNCE_MAX.is_multiple_of(ALIGNMENT_MAX), "bounced pieces stay aligned");

/// What makes written bytes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyncCall {
    /// `fdatasync`: content, and the metadata needed to read it back, the length included.
    Fdatasync,
    /// `fsync`: content and all metadata. Known to every Unix.
    Fsync,
}

/// How the disk opens its files; a property of the rung and the directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    /// Whether log files are opened with `O_DIRECT`.
    pub(super) direct: bool,
    /// What offsets, lengths and memory of direct transfers are multiples of: a power of two, at
    /// most [`ALIGNMENT_MAX`].
    pub(super) alignment: usize,
    /// What [`File::sync`] calls.
    pub(super) sync: SyncCall,
}

impl Access {
    /// That of a rung, where direct I/O is aligned to so many bytes.
    pub(super) fn of(rung: Rung, alignment: usize) -> Self {
        let direct = matches!(rung, Rung::IoUring | Rung::Pwritev2 | Rung::DirectFdatasync);
        // A buffered disk needs no alignment; by the sector, no two writes share what can tear.
        let alignment = if direct { alignment } else { SECTOR };
        assert!(alignment.is_power_of_two(), "an alignment is a power of two");
        assert!(alignment <= ALIGNMENT_MAX, "blocks of the log are aligned for every disk");
        let sync = match rung {
            Rung::PortableFsync => SyncCall::Fsync,
            _ => SyncCall::Fdatasync,
        };
        Self { direct, alignment, sync }
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct RealFile {
    /// The descriptor; opened with `O_CLOEXEC`.
    file: fs::File,
    /// The name it was opened by, for errors.
    path: PathBuf,
    /// Whether it was opened for the durable writes of a queue.
    log: bool,
    /// Whether the descriptor is `O_DIRECT`.
    direct: bool,
    /// See [`Access::alignment`].
    alignment: usize,
    /// See [`Access::sync`].
    sync: SyncCall,
    /// The number of this opening, which no other one has or had.
    opening: u64,
}

impl RealFile {
    /// Opens or creates a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: whatever the system says to it.
    pub(super) fn open(path: &Path, mode: OpenMode, access: Access) -> Result<Self> {
        let log = matches!(mode, OpenMode::Log | OpenMode::CreateLog);
        let direct = log && access.direct;
        let mut options = fs::OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        let create = matches!(mode, OpenMode::Create | OpenMode::CreateLog);
        options.create_new(create);
        if direct {
            let flags = i32::try_from(OFlags::DIRECT.bits()).expect("open flags fit an i32");
            options.custom_flags(flags);
        }
        let operation = if create { "create" } else { "open" };
        let file = options.open(path).map_err(|error| io_error(operation, path, 0, error))?;
        let path = path.to_path_buf();
        let Access { alignment, sync, .. } = access;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let opening = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { file, path, log, direct, alignment, sync, opening })
    }

    /// The number of this opening: descriptors are given again, this is not.
    pub(super) fn opening(&self) -> u64 {
        self.opening
    }

    /// The file of a durable write, after its alignment was checked.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if it is a file of another disk or was not opened for durable
    /// writes; [`Error::Io`] of kind `InvalidInput` if offset, length or memory is not aligned.
    pub(super) fn of(write: &DurableWrite) -> Result<&RealFile> {
        let file: &dyn std::any::Any = &*write.file;
        let file = file.downcast_ref::<RealFile>().ok_or_else(|| Error::InvalidOption {
            reason: format!("a durable write to {:?}, a file of another disk", write.file),
        })?;
        if !file.log {
            return Err(Error::InvalidOption {
                reason: format!("{} was not opened for durable writes", file.path.display()),
            });
        }
        file.check_aligned(write.offset, write.bytes.len())?;
        assert!(file.memory_is_aligned(&write.bytes), "a Buffer starts at an aligned address");
        Ok(file)
    }

    /// The name it was opened by.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// See [`Access::alignment`].
    pub(super) fn alignment(&self) -> usize {
        self.alignment
    }

    /// Writes without making durable; for callers that checked the alignment, memory included.
    pub(super) fn write_aligned(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let alignment = if self.direct { self.alignment } else { 1 };
        write_fully(&self.path, bytes, offset, alignment, |rest, position| {
            self.file.write_at(rest, position)
        })
    }

    fn check_aligned(&self, offset: u64, len: usize) -> Result<()> {
        let alignment = u64::try_from(self.alignment).expect("an alignment fits a u64");
        if offset.is_multiple_of(alignment) && len.is_multiple_of(self.alignment) {
            return Ok(());
        }
        let reason = format!("{len} bytes at {offset} are not aligned to {alignment} bytes");
        let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
        Err(io_error("write", &self.path, offset, source))
    }

    fn memory_is_aligned(&self, bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(self.alignment)
    }

    /// Reads until `into` is full or the file ends.
    fn read_buffered(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            let position = position_after(offset, done)?;
            match self.file.read_at(&mut into[done..], position) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Reads like [`Self::read_buffered`], through aligned memory and at aligned offsets.
    fn read_direct(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.memory_is_aligned(into) && self.check_aligned(offset, into.len()).is_ok() {
            return self.read_pieces(into, offset);
        }
        let alignment = u64::try_from(self.alignment).expect("an alignment fits a u64");
        let mut done = 0;
        let mut bounce = Buffer::with_capacity(0);
        while done < into.len() {
            let position = position_after(offset, done)?;
            // What lies before the wanted bytes in their first aligned piece.
            let skip = usize::try_from(position % alignment).expect("less than an alignment");
            let wanted = (skip + (into.len() - done)).next_multiple_of(self.alignment);
            bounce.resize(wanted.min(BOUNCE_MAX));
            let start = position - position % alignment;
            let held = self.read_pieces(bounce.as_mut_slice(), start)?;
            let fresh = bounce.get(skip..held).unwrap_or_default();
            let count = fresh.len().min(into.len() - done);
            into[done..done + count].copy_from_slice(&fresh[..count]);
            done += count;
            if held < bounce.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Fills aligned memory from an aligned offset; stops short only at the end of the file.
    fn read_pieces(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            let position = position_after(offset, done)?;
            let count = match self.file.read_at(&mut into[done..], position) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let whole = count - count % self.alignment;
            if whole == count {
                done += count;
                continue;
            }
            // A broken piece: the end of the file, or a read cut short. Only the length tells.
            if position_after(position, count)? >= self.file.metadata()?.len() {
                return Ok(done + count);
            }
            if whole == 0 {
                let reason = format!("a direct read stopped after {count} bytes");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
            }
            done += whole;
        }
        Ok(done)
    }
}

/// The offset `count` bytes after `offset`.
fn position_after(offset: u64, count: usize) -> io::Result<u64> {
    let count = u64::try_from(count).map_err(|_| io::ErrorKind::InvalidInput)?;
    offset.checked_add(count).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl AsFd for RealFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl File for RealFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        let read = if self.direct {
            self.read_direct(into, offset)
        } else {
            self.read_buffered(into, offset)
        };
        read.map_err(|error| io_error("read", &self.path, offset, error))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        if !self.direct {
            return self.write_aligned(bytes, offset);
        }
        self.check_aligned(offset, bytes.len())?;
        if self.memory_is_aligned(bytes) {
            return self.write_aligned(bytes, offset);
        }
        let mut position = offset;
        for piece in bytes.chunks(BOUNCE_MAX) {
            let mut bounce = Buffer::with_capacity(piece.len());
            bounce.extend(piece);
            self.write_aligned(&bounce, position)?;
            position = super::transfer::offset_after(&self.path, position, piece.len())?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let (operation, result) = match self.sync {
            SyncCall::Fdatasync => ("fdatasync", rustix::fs::fdatasync(&self.file)),
            SyncCall::Fsync => ("fsync", rustix::fs::fsync(&self.file)),
        };
        result.map_err(|error| io_error(operation, &self.path, 0, error.into()))
    }

    fn len(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|error| io_error("stat", &self.path, 0, error))?.len())
    }

    fn allocate(&self, len: u64) -> Result<()> {
        let set_len =
            || self.file.set_len(len).map_err(|error| io_error("truncate", &self.path, len, error));
        // `fallocate` neither shortens a file nor takes a length of zero.
        if len == 0 || self.len()? > len {
            set_len()?;
        }
        if len == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                // The file system cannot reserve: set the length; a full disk is met by the writes.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return set_len(),
                Err(error) => return Err(io_error("allocate", &self.path, len, error.into())),
            }
        }
    }
}

/// Opens a file behind the seam's type.
///
/// # Errors
///
/// As [`RealFile::open`].
pub(super) fn open(path: &Path, mode: OpenMode, access: Access) -> Result<Arc<dyn File>> {
    Ok(Arc::new(RealFile::open(path, mode, access)?))
}
