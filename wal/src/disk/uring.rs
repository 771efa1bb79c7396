//! The first rung: io_uring, one `Write` with `RWF_DSYNC` on an `O_DIRECT` file for each write.
//!
//! Any thread submits, under a lock: it takes a free slot, puts one entry into the ring and tells
//! the kernel at once, so that between two submissions the ring's submission side is empty. One
//! thread at a time waits in [`UringQueue::complete`], under a lock of its own, so that submitters
//! go on while it sleeps in the kernel. The number of a slot is what the kernel hands back.
//!
//! ```text
//! submit:   state lock { slot = write; push entry; enter(submit 1) }
//! complete: waiter lock {
//!               take entries -> state lock { slot = free, or push the rest }
//!               enter(wait 1)
//!           }
//! ```
//!
//! Invariant: from the push of an entry until its completion was taken, the slot holds the file and
//! the bytes, so the kernel never meets a closed file or reused memory. Dropping the queue waits.
//!
//! A short write is followed by a write of the rest and is never reported as done. A write that was
//! cancelled or interrupted, which also happens when the thread that submitted it ends, is made
//! again, a bounded number of times, with the same bytes.
//!
//! If the kernel refuses an entry altogether, the entry stays in the ring, where it would be sent,
//! late, by the next submission: bytes of a write that was reported as failed would land in the
//! file at some later time. So nothing is ever submitted to that ring again. The write fails, and
//! the ones after it are performed by `pwritev2` in the calling thread, as are those for which no
//! slot is free.
//!
//! If the kernel refuses to *wait*, the writes are under way all the same and may reach the file at
//! any time: none of them may be reported as failed. The completions appear in shared memory
//! without a call, so then they are looked for every millisecond.
//!
//! What is left out: registered files and buffers.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, opcode, types};
use rustix::io::ReadWriteFlags;

use super::bell::Bell;
use super::pwritev2::write_durably;
use super::real_file::RealFile;
use super::transfer::{TRANSFER_MAX, no_progress, offset_after, settled};
use super::{Completion, DurableWrite, Submitted, WriteQueue, io_error};
use crate::{Error, Result};

/// How many writes of one log may be in flight: twice what still gained in the measurements behind
/// the ladder, for devices with deeper queues.
pub(super) const DEPTH_MAX: usize = 16;

/// How often an entry that the kernel is too busy to take is offered again, each time after
/// [`PAUSE`], so that a lasting refusal is an error within 0.1 s; and how often a write that was
/// cancelled is made again.
const ATTEMPTS_MAX: u32 = 100;

/// How long to pause when the kernel refuses for the moment.
const PAUSE: Duration = Duration::from_millis(1);

/// A write that the kernel has.
struct Flight {
    write: DurableWrite,
    /// How many of its bytes are durable.
    done: usize,
    /// How often it was made again without progress.
    attempts: u32,
}

/// What is shared between submitters and the waiter.
struct State {
    /// The writes that the kernel has.
    slots: [Option<Flight>; DEPTH_MAX],
    /// Set when the kernel refused an entry: nothing may be submitted any more.
    refused: bool,
}

/// Durable writes through one ring.
pub(super) struct UringQueue {
    /// Rung by the kernel at each completion, for event loops.
    bell: Option<Bell>,
    /// Invariant: the submission side is touched only under `state`, the completion side only under
    /// `waiter`.
    ring: IoUring,
    state: Mutex<State>,
    /// Held by the thread that waits. Taken before `state`.
    waiter: Mutex<()>,
}

impl fmt::Debug for UringQueue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_flight = self.state().slots.iter().flatten().count();
        out.debug_struct("UringQueue").field("in_flight", &in_flight).finish()
    }
}

impl UringQueue {
    /// Sets up a ring. `dir` is the directory of the files, for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the kernel has no io_uring or forbids it.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let ring = set_up().map_err(|error| io_error("io_uring_setup", dir, 0, error))?;
        let slots = std::array::from_fn(|_| None);
        let state = Mutex::new(State { slots, refused: false });
        Ok(Self { bell: None, ring, state, waiter: Mutex::new(()) })
    }

    /// As [`UringQueue::new`], with a descriptor that tells an event loop of completions. The kernel
    /// signals at all of them: its variant for "asynchronous" ones leaves out what was not handed to
    /// a worker thread, and so nearly every direct write.
    ///
    /// # Errors
    ///
    /// As for [`UringQueue::new`], and that of [`Bell::new`].
    pub(super) fn with_bell(dir: &Path) -> Result<Self> {
        let mut queue = Self::new(dir)?;
        let bell = Bell::new(dir)?;
        let registered = queue.ring.submitter().register_eventfd(bell.as_fd().as_raw_fd());
        registered.map_err(|error| io_error("io_uring_register", dir, 0, error))?;
        queue.bell = Some(bell);
        Ok(queue)
    }

    /// A panic under this lock is a broken invariant of ours; the slots are whole even then.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the kernel what remains of the writes in `slots`, with one call. Returns how many of
    /// them it took, the first ones; after an error it does not have the others and never will.
    fn start(&self, state: &mut State, slots: &[usize]) -> (usize, Result<()>) {
        let mut pushed = 0;
        let mut result = Ok(());
        for slot in slots {
            match self.push(state, *slot) {
                Ok(()) => pushed += 1,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let mut started = 0;
        while started < pushed {
            match persist_while_busy(|| match self.ring.submitter().submit()? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                count => Ok(count),
            }) {
                Ok(count) => started += count,
                Err(error) => {
                    state.refused = true;
                    let flight = state.slots[slots[started]].as_ref();
                    let flight = flight.expect("only a slot in use is started");
                    return (started, Err(flight.failed_at("io_uring_enter", error)));
                }
            }
        }
        assert_eq!(started, pushed, "what was in the ring are our entries");
        (started, result)
    }

    /// Puts an entry for what remains of the write in `slot` into the ring.
    fn push(&self, state: &State, slot: usize) -> Result<()> {
        let flight = state.slots[slot].as_ref().expect("only a slot in use is started");
        let DurableWrite { offset, bytes, .. } = &flight.write;
        let file = RealFile::of(&flight.write)?;
        let position = offset_after(file.path(), *offset, flight.done)?;
        if state.refused {
            let error = io::Error::other("the ring refused an earlier write");
            return Err(flight.failed_at("io_uring_enter", error));
        }
        let rest = &bytes[flight.done..];
        let len = u32::try_from(rest.len().min(TRANSFER_MAX)).expect("a transfer fits a u32");
        let flags = i32::try_from(ReadWriteFlags::DSYNC.bits()).expect("the flag fits an i32");
        let descriptor = types::Fd(file.as_fd().as_raw_fd());
        let entry = opcode::Write::new(descriptor, rest.as_ptr(), len)
            .offset(position)
            .rw_flags(flags)
            .build()
            .user_data(u64::try_from(slot).expect("the number of a slot fits a u64"));
        // SAFETY: the submission side is touched only under the `state` lock, which the caller
        // holds: `state` is borrowed from its guard.
        let mut submission = unsafe { self.ring.submission_shared() };
        // SAFETY: the slot keeps the file and the bytes alive until the completion was taken, by
        // the queue's invariant. The test `dropping_a_queue_waits_for_what_is_in_flight` in
        // `tests/real_disk.rs` would break it.
        let pushed = unsafe { submission.push(&entry) };
        pushed.expect("the ring has an entry for each slot, and every entry is submitted");
        Ok(())
    }

    /// Takes what the kernel has finished. The caller holds `waiter`.
    fn take(&self) -> Vec<Completion> {
        // SAFETY: the completion side is touched only under the `waiter` lock, which the caller
        // holds.
        let finished: Vec<_> = unsafe { self.ring.completion_shared() }.collect();
        let mut state = self.state();
        let settle = |entry: io_uring::cqueue::Entry| {
            let slot = usize::try_from(entry.user_data()).expect("the number of a slot");
            self.settle(&mut state, slot, entry.result())
        };
        finished.into_iter().filter_map(settle).collect()
    }

    /// Takes note of the end of one transfer; `None` if nobody is to be told.
    fn settle(&self, state: &mut State, slot: usize, result: i32) -> Option<Completion> {
        let mut flight = state.slots[slot].take().expect("the kernel finishes slots in use");
        let id = flight.write.id;
        match flight.advance(result) {
            Some(result) => return Some(Completion { id, result }),
            None => state.slots[slot] = Some(flight),
        }
        let error = self.start(state, &[slot]).1.err()?;
        state.slots[slot] = None;
        Some(Completion { id, result: Err(error) })
    }

    /// Waits until the kernel has finished something, or for a moment. The caller holds `waiter`.
    fn wait(&self) {
        // Not `submit_and_wait`: it would submit what another thread is just putting there.
        // SAFETY: no argument is passed, and the flag goes with a count to wait for.
        let waited =
            unsafe { self.ring.submitter().enter::<()>(0, 1, EnterFlags::GETEVENTS.bits(), None) };
        match waited {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => std::thread::sleep(PAUSE),
            _ => {}
        }
    }

    /// Whether the kernel has any of our writes.
    fn is_busy(&self) -> bool {
        self.state().slots.iter().any(Option::is_some)
    }
}

impl WriteQueue for UringQueue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        if let Err(error) = RealFile::of(&write) {
            return Submitted::Done(Err(error));
        }
        let mut state = self.state();
        let free = state.slots.iter().position(Option::is_none);
        let Some(slot) = free.filter(|_| !state.refused) else {
            drop(state);
            return Submitted::Done(write_durably(&write));
        };
        state.slots[slot] = Some(Flight { write, done: 0, attempts: 0 });
        match self.start(&mut state, &[slot]) {
            (_, Ok(())) => Submitted::Queued,
            (_, Err(error)) => {
                state.slots[slot] = None;
                Submitted::Done(Err(error))
            }
        }
    }

    fn submit_all(&self, writes: Vec<DurableWrite>) -> Vec<Submitted> {
        let mut outcomes: Vec<Option<Submitted>> = Vec::with_capacity(writes.len());
        let mut rest = Vec::new();
        let mut slots = Vec::new();
        let mut state = self.state();
        for write in writes {
            let free = state.slots.iter().position(Option::is_none).filter(|_| !state.refused);
            match (RealFile::of(&write), free) {
                (Ok(_), Some(slot)) => {
                    state.slots[slot] = Some(Flight { write, done: 0, attempts: 0 });
                    slots.push((outcomes.len(), slot));
                    outcomes.push(Some(Submitted::Queued));
                }
                // Refused with an error, or too many: below, outside of the lock.
                _ => {
                    rest.push((outcomes.len(), write));
                    outcomes.push(None);
                }
            }
        }
        let in_ring: Vec<usize> = slots.iter().map(|(_, slot)| *slot).collect();
        let (started, result) = self.start(&mut state, &in_ring);
        if let Err(error) = result {
            for (outcome, slot) in &slots[started..] {
                state.slots[*slot] = None;
                outcomes[*outcome] = Some(Submitted::Done(Err(error.duplicate())));
            }
        }
        drop(state);
        for (outcome, write) in rest {
            outcomes[outcome] = Some(Submitted::Done(write_durably(&write)));
        }
        outcomes.into_iter().map(|outcome| outcome.expect("each was given one")).collect()
    }

    fn complete(&self) -> Vec<Completion> {
        let _turn = self.waiter.lock().unwrap_or_else(PoisonError::into_inner);
        while self.is_busy() {
            let finished = self.take();
            if !finished.is_empty() {
                return finished;
            }
            self.wait();
        }
        Vec::new()
    }

    fn poll(&self) -> Vec<Completion> {
        if let Some(bell) = &self.bell {
            // First: a bell that rings from here on is for what is not taken below.
            bell.silence();
        }
        let _turn = self.waiter.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_busy() { self.take() } else { Vec::new() }
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(Bell::as_fd)
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        while self.is_busy() {
            // Nobody is left to be told.
            self.complete();
        }
    }
}

impl Flight {
    /// Takes note of how a transfer of the rest ended: `Some` if the write has ended with it,
    /// `None` if what remains is to be started.
    fn advance(&mut self, result: i32) -> Option<Result<()>> {
        let wanted = (self.write.bytes.len() - self.done).min(TRANSFER_MAX);
        let Ok(moved) = usize::try_from(result) else {
            let error = io::Error::from_raw_os_error(-result);
            let again = may_pass(&error) || error.raw_os_error() == Some(CANCELED);
            if again && self.attempts < ATTEMPTS_MAX {
                self.attempts += 1;
                return None;
            }
            return Some(Err(self.failed(error)));
        };
        let file = match RealFile::of(&self.write) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let advance = settled(moved, wanted, file.alignment());
        if advance == 0 && wanted > 0 {
            return Some(Err(self.failed(no_progress(moved, wanted))));
        }
        self.done += advance;
        self.attempts = 0;
        (self.done == self.write.bytes.len()).then_some(Ok(()))
    }

    fn failed(&self, error: io::Error) -> Error {
        self.failed_at("write", error)
    }

    fn failed_at(&self, operation: &'static str, error: io::Error) -> Error {
        let position =
            self.write.offset.saturating_add(u64::try_from(self.done).unwrap_or(u64::MAX));
        let path = RealFile::of(&self.write).map_or(Path::new(""), RealFile::path);
        io_error(operation, path, position, error)
    }
}

/// What a write ends with that the kernel gave up, as when the thread that submitted it ends.
const CANCELED: i32 = rustix::io::Errno::CANCELED.raw_os_error();

/// Whether the same call may succeed if it is simply made again.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, ResourceBusy, WouldBlock};
    matches!(error.kind(), Interrupted | ResourceBusy | WouldBlock)
}

/// Makes a call again after a signal, and a bounded number of times while the kernel is busy.
fn persist_while_busy(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let mut attempts = 0;
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if may_pass(&error) && attempts < ATTEMPTS_MAX => {
                attempts += 1;
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// A ring with the flags that help, or without those that this kernel does not know.
fn set_up() -> io::Result<IoUring> {
    let entries = u32::try_from(DEPTH_MAX).expect("the depth fits a u32");
    // The flags that need several threads to agree on one submitter are of no use here.
    let newest = IoUring::builder().setup_no_sqarray().build(entries);
    match newest {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            IoUring::builder().build(entries)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::real_file::{Access, SyncCall};
    use crate::disk::{Buffer, OpenMode, real_file};

    /// A write of 8192 bytes at 4096, in a file that needs an alignment of 512.
    fn flight(dir: &Path) -> Flight {
        let access = Access { direct: false, alignment: 512, sync: SyncCall::Fdatasync };
        let file = real_file::open(&dir.join("log"), OpenMode::CreateLog, access).unwrap();
        let mut bytes = Buffer::with_capacity(8192);
        bytes.resize(8192);
        let write = DurableWrite { id: 3, file, offset: 4096, bytes: bytes.into() };
        Flight { write, done: 0, attempts: 0 }
    }

    fn error_of(ended: Option<Result<()>>) -> (u64, io::Error) {
        match ended {
            Some(Err(Error::Io { operation: "write", offset, source, .. })) => (offset, source),
            other => panic!("an error of a write was expected, not {other:?}"),
        }
    }

    #[test]
    fn a_short_write_goes_on_and_is_not_taken_for_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut flight = flight(dir.path());
        assert!(flight.advance(5000).is_none());
        assert_eq!(flight.done, 4608, "the broken block is written again");
        assert!(flight.advance(3072).is_none());
        assert_eq!(flight.done, 7680);
        let (offset, error) = error_of(flight.advance(511));
        assert_eq!((offset, error.kind()), (4096 + 7680, io::ErrorKind::WriteZero));
        assert!(flight.advance(512).unwrap().is_ok());
    }

    #[test]
    fn a_cancelled_write_is_made_again_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut flight = flight(dir.path());
        for _ in 0..ATTEMPTS_MAX {
            assert!(flight.advance(-CANCELED).is_none());
        }
        let (_, error) = error_of(flight.advance(-CANCELED));
        assert_eq!(error.raw_os_error(), Some(CANCELED));
    }

    #[test]
    fn an_error_of_the_disk_is_final_and_keeps_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let mut flight = flight(dir.path());
        assert!(flight.advance(4096).is_none());
        let full = rustix::io::Errno::NOSPC.raw_os_error();
        let (offset, error) = error_of(flight.advance(-full));
        assert_eq!((offset, error.kind()), (8192, io::ErrorKind::StorageFull));
    }

    /// An entry that the kernel refused stays in the ring; were anything submitted after it, it
    /// would be written late.
    #[test]
    fn after_a_refusal_the_ring_is_not_used_and_writes_go_on_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let queue = match UringQueue::new(dir.path()) {
            Ok(queue) => queue,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        queue.state().refused = true;
        match queue.submit(flight(dir.path()).write) {
            Submitted::Done(result) => result.unwrap(),
            Submitted::Queued => panic!("submitted to a ring that must not be used"),
        }
        assert!(queue.complete().is_empty());
    }
}
