//! The first rung: io_uring, one `WriteFixed` or `Write` with `RWF_DSYNC` on an `O_DIRECT` file for each
//! write. Files and large buffers are [registered](super::registered).
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

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use io_uring::{EnterFlags, IoUring, opcode, types};
use rustix::io::ReadWriteFlags;

use super::bell::Bell;
use super::pwritev2::write_durably;
use super::real_file::RealFile;
use super::registered::{BUFFER_LEN_MAX, BUFFER_LEN_MIN, Slots};
use super::transfer::{TRANSFER_MAX, offset_after};
use super::uring_flight::{Flight, PAUSE, persist_while_busy};
use super::{Buffer, Completion, DurableWrite, Submitted, WriteQueue, io_error};
use crate::Result;

/// How many writes of one log may be in flight: twice what still gained in the measurements behind
/// the ladder, for devices with deeper queues.
pub(super) const DEPTH_MAX: usize = 16;

/// What is shared between submitters and the waiter.
struct State {
    /// The writes that the kernel has.
    slots: [Option<Flight>; DEPTH_MAX],
    /// Set when the kernel refused an entry: nothing may be submitted any more.
    refused: bool,
    /// Files and memory that the ring knows.
    files: Slots,
    buffers: Slots,
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
        let files = Slots::for_files(|count| ring.submitter().register_files_sparse(count));
        let buffers = Slots::for_buffers(|count| ring.submitter().register_buffers_sparse(count));
        let state = Mutex::new(State { slots, refused: false, files, buffers });
        Ok(Self { bell: None, ring, state, waiter: Mutex::new(()) })
    }

    /// As [`UringQueue::new`], with a bell that tells an event loop of completions. The kernel
    /// signals at all of them: its variant for "asynchronous" ones leaves out what was not handed to
    /// a worker thread, and so nearly every direct write.
    ///
    /// # Errors
    ///
    /// As for [`UringQueue::new`].
    pub(super) fn with_bell(bell: Bell, dir: &Path) -> Result<Self> {
        let mut queue = Self::new(dir)?;
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
        state.files.begin_batch();
        state.buffers.begin_batch();
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
    fn push(&self, state: &mut State, slot: usize) -> Result<()> {
        let State { slots, refused, files, buffers } = state;
        let flight = slots[slot].as_ref().expect("only a slot in use is started");
        let DurableWrite { offset, bytes, .. } = &flight.write;
        let file = RealFile::of(&flight.write)?;
        let position = offset_after(file.path(), *offset, flight.done)?;
        if *refused {
            let error = io::Error::other("the ring refused an earlier write");
            return Err(flight.failed_at("io_uring_enter", error));
        }
        let rest = &bytes[flight.done..];
        let len = u32::try_from(rest.len().min(TRANSFER_MAX)).expect("a transfer fits a u32");
        let flags = i32::try_from(ReadWriteFlags::DSYNC.bits()).expect("the flag fits an i32");
        let plain = types::Fd(file.as_fd().as_raw_fd());
        let known = files.find(file.opening(), 0, |slot| {
            self.ring.submitter().register_files_update(slot, &[plain.0]).map(|_| ())
        });
        let memory = self.known_memory(buffers, bytes);
        macro_rules! write {
            ($descriptor:expr) => {
                match memory {
                    Some(memory) => {
                        opcode::WriteFixed::new($descriptor, rest.as_ptr(), len, memory)
                            .offset(position)
                            .rw_flags(flags)
                            .build()
                    }
                    None => opcode::Write::new($descriptor, rest.as_ptr(), len)
                        .offset(position)
                        .rw_flags(flags)
                        .build(),
                }
            };
        }
        let entry = match known {
            Some(known) => write!(types::Fixed(u32::from(known))),
            None => write!(plain),
        };
        let entry = entry.user_data(u64::try_from(slot).expect("the number of a slot fits a u64"));
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

    /// Where the memory of `bytes` is registered, if it is worth it.
    fn known_memory(&self, buffers: &mut Slots, bytes: &Buffer) -> Option<u16> {
        if !(BUFFER_LEN_MIN..=BUFFER_LEN_MAX).contains(&bytes.len()) {
            return None;
        }
        buffers.find(bytes.allocation(), bytes.len(), |slot| {
            let memory = [io::IoSlice::new(bytes)];
            // SAFETY: an `IoSlice` has the layout of an `iovec`, by its documentation. The kernel pins
            // the pages, so that they stay what they are whatever becomes of the allocation, and
            // reads them only for entries that name the slot: those of this allocation, by `Slots`,
            // while it lives, by the queue's invariant. The test
            // `memory_at_an_address_that_was_known_before` in `tests/events.rs` would break it.
            let result = unsafe {
                let memory = std::slice::from_raw_parts(memory.as_ptr().cast(), 1);
                self.ring.submitter().register_buffers_update(slot, memory, None)
            };
            result.map(|_| ())
        })
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

    /// Takes what the kernel has finished, and leaves the bell alone.
    pub(super) fn fetch(&self) -> Vec<Completion> {
        let _turn = self.waiter.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_busy() { self.take() } else { Vec::new() }
    }

    /// Whether the kernel has refused a write, so that nothing is submitted to the ring any more.
    pub(super) fn has_refused(&self) -> bool {
        self.state().refused
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
        self.fetch()
    }

    fn places_max(&self) -> Option<usize> {
        Some(DEPTH_MAX)
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
        match queue.submit(Flight::of_8192_bytes(dir.path()).write) {
            Submitted::Done(result) => result.unwrap(),
            Submitted::Queued => panic!("submitted to a ring that must not be used"),
        }
        assert!(queue.complete().is_empty());
    }

    #[test]
    fn memory_that_is_used_again_is_registered_once() {
        let dir = tempfile::tempdir().unwrap();
        let queue = match UringQueue::new(dir.path()) {
            Ok(queue) => queue,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let mut bytes = Buffer::with_capacity(BUFFER_LEN_MIN);
        bytes.resize(BUFFER_LEN_MIN);
        let write = DurableWrite { bytes: bytes.into(), ..Flight::of_8192_bytes(dir.path()).write };
        for _ in 0..4 {
            assert!(matches!(queue.submit(write.clone()), Submitted::Queued));
            queue.complete().pop().unwrap().result.unwrap();
        }
        let state = queue.state();
        let known = (format!("{:?}", state.files), format!("{:?}", state.buffers));
        if known != ("3 of 4, on".to_string(), "3 of 4, on".to_string()) {
            assert!(known.0.ends_with("off") || known.1.ends_with("off"), "{known:?}");
            eprintln!("skipped: this kernel registers nothing: {known:?}");
        }
    }
}
