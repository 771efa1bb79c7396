//! Trying a rung on the spot: does it work in this directory, and how fast.
//!
//! The trials share one small file that has no name any more when they begin, so that nothing is
//! left behind, whatever happens to the process. Its blocks are written and synced first: the first
//! write of a block costs a change of metadata, which a log never pays on its way to durability
//! either.
//!
//! This is, with its caller, the only place below the server that reads the clock; what it measures
//! decides about speed, never about correctness.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::device::{DirectAlignment, direct_alignment};
use super::real_file::{self, Access, RealFile, SyncCall};
use super::{
    ALIGNMENT_MAX, Buffer, DurableWrite, File, OpenMode, Rung, Submitted, WriteQueue, io_error,
    write_now,
};
use crate::{Error, Result};

/// How many blocks the file has: enough that writes in flight do not meet in one.
const BLOCKS: usize = 16;

/// The smallest alignment that a disk asks for: one sector.
pub(super) const SECTOR: usize = 512;

/// How many names are tried before giving up on finding a free one.
const NAMES_MAX: u64 = 1000;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Durable writes one after the other.
    pub(super) alone: usize,
    /// Durable writes with several in flight, per round; the best round counts.
    pub(super) together: usize,
    /// Rounds of those.
    pub(super) rounds: usize,
    /// When to stop each of these measurements early, having made one write at least.
    pub(super) time_max: Duration,
}

/// How fast durable writes of 4 KiB were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How many were made one after the other.
    pub writes: usize,
    /// Median of their durations in microseconds.
    pub median_micros: u64,
    /// 99th percentile (the longest, if there were fewer than a hundred).
    pub p99_micros: u64,
    /// Writes per second with [`TOGETHER`] in flight, on rungs that bear it.
    pub per_second: Option<u64>,
}

/// How many writes are in flight when throughput is measured.
pub const TOGETHER: usize = 4;

/// The nameless file of the trials, opened in the ways that rungs need.
pub(super) struct TrialFile {
    buffered: Arc<dyn File>,
    /// Opened with `O_DIRECT`, with the alignment that works; else why there is none.
    direct: std::result::Result<(Arc<dyn File>, usize), String>,
}

impl TrialFile {
    /// Makes the file in `dir`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if no file can be created or written there; [`Error::is_full`] tells a full
    /// disk.
    pub(super) fn create(dir: &Path) -> Result<Self> {
        let (path, file) = create_unused(dir)?;
        let opened = open_direct(&path, &file);
        std::fs::remove_file(&path).map_err(|error| io_error("remove", &path, 0, error))?;
        let size = BLOCKS * ALIGNMENT_MAX;
        file.allocate(u64::try_from(size).expect("a small size"))?;
        file.write_at(&vec![0; size], 0)?;
        file.sync()?;
        let direct = opened.and_then(first_that_writes);
        Ok(Self { buffered: Arc::new(file), direct })
    }

    /// The alignment of direct I/O here, or why there is none.
    pub(super) fn direct_alignment(&self) -> std::result::Result<usize, &str> {
        self.direct.as_ref().map(|(_, alignment)| *alignment).map_err(String::as_str)
    }

    /// Measures a rung through its queue.
    ///
    /// # Errors
    ///
    /// Why the rung does not work here, in words.
    pub(super) fn measure(
        &self,
        rung: Rung,
        queue: &dyn WriteQueue,
        effort: Effort,
    ) -> std::result::Result<Timing, String> {
        let file = match rung {
            Rung::IoUring | Rung::Pwritev2 | Rung::DirectFdatasync => &self.direct.as_ref()?.0,
            _ => &self.buffered,
        };
        let mut micros = self::alone(file, queue, effort).map_err(|error| error.to_string())?;
        micros.sort_unstable();
        let at = |share: usize| micros[(micros.len() * share / 100).min(micros.len() - 1)];
        let bears_depth = matches!(rung, Rung::IoUring | Rung::Pwritev2);
        let mut per_second = None;
        for _ in 0..if bears_depth { effort.rounds } else { 0 } {
            let measured = match rung {
                Rung::IoUring => ring_together(file, queue, effort),
                _ => threads_together(file, queue, effort),
            };
            per_second = per_second.max(Some(measured.map_err(|error| error.to_string())?));
        }
        let writes = micros.len();
        Ok(Timing { writes, median_micros: at(50), p99_micros: at(99), per_second })
    }
}

/// Creates a file under a name that nobody has.
fn create_unused(dir: &Path) -> Result<(PathBuf, RealFile)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let access = Access { direct: false, alignment: SECTOR, sync: SyncCall::Fdatasync };
    let process = std::process::id();
    let mut attempts = 0;
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".strandline-probe-{process}-{number}"));
        match RealFile::open(&path, OpenMode::CreateLog, access) {
            Ok(file) => return Ok((path, file)),
            Err(Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AlreadyExists && attempts < NAMES_MAX =>
            {
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

type Candidates = Vec<(Arc<dyn File>, usize)>;

/// Opens the file directly, once for each alignment that may be right.
fn open_direct(path: &Path, file: &RealFile) -> std::result::Result<Candidates, String> {
    let alignments = match direct_alignment(file) {
        DirectAlignment::Bytes(bytes) => vec![bytes.max(SECTOR)],
        DirectAlignment::Unknown => vec![SECTOR, ALIGNMENT_MAX],
        DirectAlignment::Impossible => return Err("the file system has no direct I/O".into()),
    };
    let open = |alignment: usize| {
        if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
            return Err(format!("direct I/O here needs an alignment of {alignment} bytes"));
        }
        let access = Access { direct: true, alignment, sync: SyncCall::Fdatasync };
        let file = real_file::open(path, OpenMode::Log, access);
        Ok((file.map_err(|error| error.to_string())?, alignment))
    };
    alignments.into_iter().map(open).collect()
}

/// The smallest alignment with which a write and a read go through.
fn first_that_writes(
    candidates: Candidates,
) -> std::result::Result<(Arc<dyn File>, usize), String> {
    let mut reason = String::new();
    for (file, alignment) in candidates {
        // Memory and offset that are aligned to this much and to no more.
        let mut memory = Buffer::with_capacity(2 * alignment);
        memory.resize(2 * alignment);
        let offset = u64::try_from(alignment).expect("an alignment fits a u64");
        let tried = file
            .write_at(&memory[alignment..], offset)
            .and_then(|()| file.read_at(&mut memory.as_mut_slice()[alignment..], offset));
        match tried {
            Ok(_) => return Ok((file, alignment)),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// One block for write number `id`.
fn block(file: &Arc<dyn File>, id: usize, bytes: &Arc<Buffer>) -> DurableWrite {
    let number = |count: usize| u64::try_from(count).expect("a small count");
    let offset = number(id % BLOCKS * ALIGNMENT_MAX);
    DurableWrite { id: number(id), file: file.clone(), offset, bytes: bytes.clone() }
}

fn zeros() -> Arc<Buffer> {
    let mut bytes = Buffer::with_capacity(ALIGNMENT_MAX);
    bytes.resize(ALIGNMENT_MAX);
    Arc::new(bytes)
}

/// Durations in microseconds of writes one after the other; at least one.
fn alone(file: &Arc<dyn File>, queue: &dyn WriteQueue, effort: Effort) -> Result<Vec<u64>> {
    let bytes = zeros();
    let begun = Instant::now();
    let mut micros = Vec::new();
    for id in 0..effort.alone.max(1) {
        let start = Instant::now();
        write_now(queue, block(file, id, &bytes))?;
        micros.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        if begun.elapsed() >= effort.time_max {
            break;
        }
    }
    Ok(micros)
}

/// Writes per second with several in flight in a ring.
fn ring_together(file: &Arc<dyn File>, queue: &dyn WriteQueue, effort: Effort) -> Result<u64> {
    let bytes = zeros();
    let start = Instant::now();
    let (mut submitted, mut ended) = (0, 0);
    loop {
        let stop = submitted >= effort.together || start.elapsed() >= effort.time_max;
        if submitted - ended < TOGETHER && (!stop || submitted == 0) {
            match queue.submit(block(file, submitted, &bytes)) {
                Submitted::Done(result) => {
                    result?;
                    ended += 1;
                }
                Submitted::Queued => {}
            }
            submitted += 1;
            continue;
        }
        if ended == submitted {
            return Ok(per_second(ended, start.elapsed()));
        }
        for completion in queue.complete() {
            completion.result?;
            ended += 1;
        }
    }
}

/// Writes per second from several threads, from when the first of them begins until the last ends.
/// The calling thread takes no time itself: it may be woken late, when half of the writes are made.
fn threads_together(file: &Arc<dyn File>, queue: &dyn WriteQueue, effort: Effort) -> Result<u64> {
    let bytes = zeros();
    let next = AtomicUsize::new(0);
    let ready = Barrier::new(TOGETHER);
    let work = || -> Result<(Instant, Instant, usize)> {
        ready.wait();
        let start = Instant::now();
        let mut ended = 0;
        loop {
            let id = next.fetch_add(1, Ordering::Relaxed);
            if id >= effort.together.max(1) || start.elapsed() >= effort.time_max {
                return Ok((start, Instant::now(), ended));
            }
            write_now(queue, block(file, id, &bytes))?;
            ended += 1;
        }
    };
    let shares = std::thread::scope(|scope| -> Result<Vec<_>> {
        let threads: Vec<_> = (0..TOGETHER).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().expect("a thread of the trial does not panic")
        };
        threads.into_iter().map(join).collect()
    })?;
    let begun = shares.iter().map(|share| share.0).min().expect("there are several threads");
    let ended = shares.iter().map(|share| share.1).max().expect("there are several threads");
    Ok(per_second(shares.iter().map(|share| share.2).sum(), ended - begun))
}

fn per_second(count: usize, elapsed: Duration) -> u64 {
    let micros = elapsed.as_micros().max(1);
    let count = u128::try_from(count).unwrap_or(u128::MAX);
    u64::try_from(count.saturating_mul(1_000_000) / micros).unwrap_or(u64::MAX)
}
