//! The seam between Strandline and a disk.
//!
//! All file access of every crate goes through [`Disk`], [`File`] and [`WriteQueue`]. Two families
//! implement them: the real disk ([`real`], one rung for each way of making a
//! write durable) and the [simulated] disk, which tears, loses and refuses.
//!
//! What an operation means in a crash:
//!
//! | operation | after it returned `Ok`, a power cut ... |
//! |---|---|
//! | [`File::write_at`] | keeps any subset of its 512-byte sectors |
//! | [`File::sync`] | keeps every earlier write to this file, and its length |
//! | a [`DurableWrite`] that completed | keeps all of it |
//! | [`Disk::open`] with a creating mode, [`Disk::rename`], [`Disk::remove`], [`Disk::link`] | may undo it, each one by itself |
//! | [`Disk::sync_dir`] | keeps every earlier change of names in that directory |
//!
//! After an *error* of a write or a sync nothing is known of the bytes it covered: the file may hold
//! the old content, the new, or a mixture, and a later sync that succeeds says nothing about them.
//! Never retry a sync and believe it.
//!
//! [`WriteQueue::submit`] either performs the write in the calling thread
//! ([`Submitted::Done`]) or starts it ([`Submitted::Queued`]); the caller then fetches it with
//! [`WriteQueue::complete`], which waits, or [`WriteQueue::poll`], which does not. Several threads may
//! submit at once.
//!
//! **Event loops** want neither to perform writes nor to wait for them. [`Disk::event_queue`] gives
//! them a queue all of whose writes are [`Submitted::Queued`], and whose
//! [`completion_fd`](WriteQueue::completion_fd) becomes readable when something has ended:
//!
//! ```text
//! loop { turn of the sessions; Wal::pump: poll, then submit_all what is due; epoll_wait(completion_fd, ...) }
//! ```
//!
//! On io_uring the kernel itself signals the descriptor and no thread is involved. On the other real
//! rungs a few writer threads, asleep until told, make blocking writes and signal. On `pwritev2`, unless
//! it was asked for by name, a small write that is alone goes to a ring.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::{Housekeeper, Result};

mod atomic_file;
mod bell;
mod buffer;
mod device;
mod directory;
mod durable_writes;
mod fdatasync;
mod lock_file;
mod map;
#[allow(unsafe_code)]
mod mapped_file;
mod mixed;
mod paired;
pub mod probe;
mod pwritev2;
mod read_ahead;
pub mod real;
mod real_file;
mod registered;
mod remembered;
pub mod shared;
mod shared_queue;
pub mod simulated;
mod transfer;
mod trial;
#[allow(unsafe_code)]
mod uring;
mod uring_flight;
mod verdicts;
mod writer_threads;

pub use atomic_file::replace_file;
pub use buffer::Buffer;
pub(crate) use durable_writes::{write_all, write_now};
pub use map::Map;
pub(crate) use paired::PairedDisk;
pub use probe::{ProbeReport, RungReport, Verdict, probe};
pub(crate) use read_ahead::ReadAhead;
pub use real::RealDisk;
pub use remembered::VERDICT_FILE;
pub(crate) use remembered::inspect_verdict;
pub use shared::SharedDisk;
pub use simulated::SimulatedDisk;
pub use writer_threads::WriterThreads;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and for buffered writing.
    Write,
    /// A new file, for reading and buffered writing. Fails with `AlreadyExists`.
    Create,
    /// An existing file for the durable writes of a [`WriteQueue`]: opened with `O_DIRECT` on rungs
    /// that use it, so that offsets, lengths and memory of its writes are multiples of
    /// [`Profile::alignment`]. Reads of it are unaligned as usual.
    Log,
    /// A new file, otherwise like [`OpenMode::Log`]. Fails with `AlreadyExists`.
    CreateLog,
}

/// The name space of a disk: directories and files.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a directory and its missing parents, durably: every created name is synced.
    fn create_dir_all(&self, dir: &Path) -> Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> Result<Vec<String>>;
    /// Where the file stands that `dir` lists under this name: there, unless two directories are one.
    fn locate(&self, dir: &Path, name: &str) -> Result<PathBuf> {
        Ok(dir.join(name))
    }
    /// The spare directory of the log in `dir`, if this disk is one of both.
    fn spare_of(&self, _dir: &Path) -> Option<PathBuf> {
        None
    }
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>>;
    /// Whether a file or directory of this name exists.
    fn exists(&self, path: &Path) -> Result<bool>;
    /// Replaces `to` by `from`, atomically.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Makes a second name for a file.
    fn link(&self, from: &Path, to: &Path) -> Result<()>;
    /// Makes earlier changes of the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> Result<()>;
    /// The content of a sealed file, which nobody writes or truncates any more. What cannot be read of
    /// it is met when it is [touched](Map::touch).
    fn map(&self, path: &Path) -> Result<Map> {
        self.map_front(path, u64::MAX)
    }
    /// The first `len` bytes of a file, or all if there are fewer. Nobody truncates the file or writes
    /// to these bytes any more.
    fn map_front(&self, path: &Path, len: u64) -> Result<Map>;
    /// Takes the exclusive lock file `path` until the guard is dropped.
    /// Fails with [`Error::Locked`](crate::Error::Locked) while another process or guard holds it.
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>>;
    /// A queue for the durable writes of one log.
    fn write_queue(&self) -> Result<Box<dyn WriteQueue>>;
    /// A queue that never performs a write in the calling thread and tells an event loop of what has
    /// ended, by its [`completion_fd`](WriteQueue::completion_fd). The default, for disks whose
    /// queues are stepped by hand, is [`write_queue`](Disk::write_queue).
    fn event_queue(&self) -> Result<Box<dyn WriteQueue>> {
        self.write_queue()
    }
    /// Who does the background work of the logs that are opened here; `None` if each has a thread of its own.
    fn housekeeper(&self) -> Option<Arc<Housekeeper>> {
        None
    }
    /// What this disk needs and bears.
    fn profile(&self) -> Profile;
    /// How many threads may gain from reading at once: one where the order of reads is to be the same each time.
    fn readers_max(&self) -> usize {
        1
    }
    /// Fills `into` with bytes that nobody can foretell and that nobody else is given, also not after a crash: for the
    /// nonces of what is encrypted. Drawn from the system's source of randomness by default.
    fn draw(&self, into: &mut [u8]) -> Result<()> {
        let failed = |error| io_error("getrandom", Path::new(""), 0, error);
        let count = rustix::rand::getrandom(&mut *into, rustix::rand::GetRandomFlags::empty());
        match count.map_err(|errno| failed(errno.into()))? == into.len() {
            true => Ok(()),
            false => Err(failed(io::ErrorKind::UnexpectedEof.into())),
        }
    }
    /// A clock that never goes back, from any start. It decides about speed, never about correctness:
    /// when groups go, and what is reported.
    fn now(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

/// One open file. `Any` lets a [`WriteQueue`] recognise the files of its own disk.
pub trait File: Any + Send + Sync + fmt::Debug {
    /// Fills as much of `into` as the file holds from `offset` on; returns the count of bytes read,
    /// which is less than asked for only at the end of the file.
    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `bytes`, not durably.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Makes all earlier writes to this file durable, its length included.
    fn sync(&self) -> Result<()>;
    /// The length in bytes.
    fn len(&self) -> Result<u64>;
    /// Reserves blocks for `len` bytes and sets the length. The content is zeros or unspecified.
    /// A full disk is met here, or later.
    fn allocate(&self, len: u64) -> Result<()>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A write that is durable when it completes.
#[derive(Clone, Debug)]
pub struct DurableWrite {
    /// Names the write in its [`Completion`]; unique among those in flight in one queue.
    pub id: u64,
    /// The file, opened with [`OpenMode::Log`] or [`OpenMode::CreateLog`].
    pub file: Arc<dyn File>,
    /// Where; a multiple of [`Profile::alignment`].
    pub offset: u64,
    /// What; its length is a multiple of [`Profile::alignment`].
    pub bytes: Arc<Buffer>,
}

/// What became of a submission.
#[derive(Debug)]
pub enum Submitted {
    /// The write was performed in the calling thread; this is its outcome.
    Done(Result<()>),
    /// The write is under way; [`WriteQueue::complete`] will return it.
    Queued,
}

/// A write that has ended.
#[derive(Debug)]
pub struct Completion {
    /// [`DurableWrite::id`].
    pub id: u64,
    /// Whether the bytes are durable.
    pub result: Result<()>,
}

/// The durable writes of one log: submission and completion.
pub trait WriteQueue: Send + Sync + fmt::Debug {
    /// Starts or performs a durable write.
    fn submit(&self, write: DurableWrite) -> Submitted;
    /// As [`submit`](WriteQueue::submit) for several writes, with one system call where the rung can;
    /// the outcomes are in the order of the writes.
    fn submit_all(&self, writes: Vec<DurableWrite>) -> Vec<Submitted> {
        writes.into_iter().map(|write| self.submit(write)).collect()
    }
    /// Waits until at least one queued write has ended and returns those that have. Returns an
    /// empty list at once if none is queued. One thread at a time may wait here.
    fn complete(&self) -> Vec<Completion>;
    /// As [`complete`](WriteQueue::complete), without waiting. The default is for queues that perform
    /// every write in the calling thread.
    fn poll(&self) -> Vec<Completion> {
        Vec::new()
    }
    /// How many writes it has under way at once; those beyond wait inside, or are performed in the calling
    /// thread. `None` if each write is performed in the thread that submits it: there is no queue to
    /// [share](SharedDisk) then.
    fn places_max(&self) -> Option<usize> {
        None
    }
    /// A descriptor that is readable when something may have ended that was not fetched;
    /// [`poll`](WriteQueue::poll) makes it unreadable again. It may be readable once too often, never
    /// too seldom. Good for `epoll` with either trigger. `None` on queues made without it: see
    /// [`Disk::event_queue`].
    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A held lock file; dropping it releases the lock.
pub trait Lock: Send + Sync + fmt::Debug {}

/// One way of making a write durable. See `docs/durability.md` for the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// io_uring, `WriteFixed` or `Write` with `RWF_DSYNC`, `O_DIRECT`.
    IoUring,
    /// `pwritev2(RWF_DSYNC)` with `O_DIRECT`, from several threads.
    Pwritev2,
    /// `O_DIRECT` write, then `fdatasync`.
    DirectFdatasync,
    /// Buffered write, then `fdatasync`.
    BufferedFdatasync,
    /// Buffered write, then `fsync`.
    PortableFsync,
    /// The simulated disk.
    Simulated,
}

impl Rung {
    /// The name used by `--rung`, by `doctor` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Rung::IoUring => "io_uring",
            Rung::Pwritev2 => "pwritev2",
            Rung::DirectFdatasync => "direct-fdatasync",
            Rung::BufferedFdatasync => "buffered-fdatasync",
            Rung::PortableFsync => "fsync",
            Rung::Simulated => "simulated",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What a disk needs and bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// How durable writes are made.
    pub rung: Rung,
    /// Offsets, lengths and memory of durable writes are multiples of this many bytes; a power of
    /// two, at most [`ALIGNMENT_MAX`].
    pub alignment: usize,
    /// How many durable writes of one log may be in flight. 1 on rungs whose sync covers the whole
    /// file: there the error of one write could be reported to another one's sync.
    pub depth_max: usize,
}

/// The largest alignment that a disk may ask for, and the size of a log block: durable writes are
/// laid out in blocks of this size, so that no durable byte is ever written again by a later group.
pub const ALIGNMENT_MAX: usize = 4096;

/// Turns an `io::Error` into ours, naming what was done to which file.
pub(crate) fn io_error(
    operation: &'static str,
    path: &Path,
    offset: u64,
    source: io::Error,
) -> crate::Error {
    crate::Error::Io { operation, path: path.to_path_buf(), offset, source }
}
