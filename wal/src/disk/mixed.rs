//! For event loops on disks that must flush their cache: the ring for what is alone, threads for the rest.
//!
//! On such a disk the kernel hands a durable write of the ring to a worker of its own, for the flush, on
//! the processor that submitted it. While that is idle nothing is faster: no thread of ours is woken. While
//! the submitter is busy the worker waits for it, twice, and the disk idles. A writer thread is woken
//! for each write, but goes on wherever a processor is free. So a small write that has the disk to
//! itself goes to the ring: few clients wait, and their wait is short. The others go to
//! [writer threads](super::writer_threads). Both ring one bell.
//!
//! On a machine whose processors are all busy the kernel's worker may wait for milliseconds where a thread
//! would not: a write of the ring that was late, measured by those of the threads, has the ring left
//! alone for a while, each time for twice as long.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::bell::Bell;
use super::uring::UringQueue;
use super::writer_threads::WriterThreads;
use super::{ALIGNMENT_MAX, Completion, DurableWrite, Submitted, WriteQueue};
use crate::Result;

/// A write of more bytes carries so many records that a thread's wake-up is little beside them.
const SMALL_LEN_MAX: usize = ALIGNMENT_MAX;

/// After a write that was late, so many that are alone go to the threads; at the most after many.
const PAUSE_MIN: u32 = 16;
const PAUSE_MAX: u32 = 16 << 10;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct MixedQueue {
    ring: UringQueue,
    threads: WriterThreads,
    bell: Bell,
    /// Writes that were submitted and not fetched.
    in_flight: AtomicUsize,
    choice: Mutex<Choice>,
}

/// Where a write that is alone goes.
#[derive(Debug)]
struct Choice {
    /// The write that was last alone: its number, when it was submitted, and whether to the ring.
    alone: Option<(u64, Instant, bool)>,
    /// What such a write takes in the threads, about; zero until one was measured.
    usual: Duration,
    /// So many more of them go to the threads: at first one, to be measured.
    pausing: u32,
    /// How long the next pause is.
    pause: u32,
}

impl Default for Choice {
    fn default() -> Self {
        Self { alone: None, usual: Duration::ZERO, pausing: PAUSE_MIN, pause: PAUSE_MIN }
    }
}

impl Choice {
    /// A write is submitted that is alone; whether it goes to the ring.
    fn begin(&mut self, id: u64, now: Instant) -> bool {
        let in_ring = self.pausing == 0;
        self.pausing = self.pausing.saturating_sub(1);
        self.alone = Some((id, now, in_ring));
        in_ring
    }

    /// A write has ended.
    fn end(&mut self, id: u64, now: Instant) {
        let Some((_, began, in_ring)) = self.alone.take_if(|(alone, ..)| *alone == id) else {
            return;
        };
        let took = now.saturating_duration_since(began);
        if !in_ring {
            self.usual = if self.usual.is_zero() { took } else { (self.usual * 7 + took) / 8 };
        } else if took > self.usual * 2 {
            self.pausing = self.pause;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        } else if self.pause > PAUSE_MIN {
            self.pause -= 1;
        }
    }
}

impl MixedQueue {
    /// A ring beside up to `writers_max` threads in front of `inner`, which performs writes in the calling
    /// thread. `dir` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if the kernel has no io_uring or forbids it.
    pub(super) fn new(inner: Box<dyn WriteQueue>, writers_max: usize, dir: &Path) -> Result<Self> {
        let bell = Bell::new(dir)?;
        let ring = UringQueue::with_bell(bell.clone(), dir)?;
        let threads = WriterThreads::with_bell(inner, writers_max, bell.clone());
        Ok(Self { ring, threads, bell, in_flight: AtomicUsize::new(0), choice: Mutex::default() })
    }

    /// Takes note of writes that have ended.
    fn ended(&self, ended: Vec<Completion>) -> Vec<Completion> {
        if !ended.is_empty() {
            self.in_flight.fetch_sub(ended.len(), Ordering::AcqRel);
            let (now, mut choice) = (Instant::now(), self.choice());
            ended.iter().for_each(|one| choice.end(one.id, now));
        }
        ended
    }

    fn choice(&self) -> MutexGuard<'_, Choice> {
        // Numbers, each of which is right at any time.
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteQueue for MixedQueue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        let is_alone = self.in_flight.fetch_add(1, Ordering::AcqRel) == 0;
        // A ring that has refused a write makes the others in the calling thread, which may not wait.
        let is_alone = is_alone && write.bytes.len() <= SMALL_LEN_MAX && !self.ring.has_refused();
        let submitted = match is_alone && self.choice().begin(write.id, Instant::now()) {
            true => self.ring.submit(write),
            false => self.threads.submit(write),
        };
        if let Submitted::Done(_) = submitted {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
        submitted
    }

    fn complete(&self) -> Vec<Completion> {
        loop {
            let ended = self.poll();
            if !ended.is_empty() || self.in_flight.load(Ordering::Acquire) == 0 {
                return ended;
            }
            if let Some(own) = self.threads.perform_one() {
                return self.ended(vec![own]);
            }
            // An error is a signal's; whatever it is, looking again is right.
            let _ = poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], None);
        }
    }

    fn poll(&self) -> Vec<Completion> {
        // First: a bell that rings from here on is for what is not taken below.
        self.bell.silence();
        let mut ended = self.ring.fetch();
        ended.extend(self.threads.fetch());
        self.ended(ended)
    }

    fn places_max(&self) -> Option<usize> {
        self.threads.places_max()
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs so many writes that are alone; returns how many went to the ring.
    fn run(choice: &mut Choice, count: u64, ring_us: u64, thread_us: u64) -> u64 {
        let mut now = Instant::now();
        let mut in_ring = 0;
        for id in 0..count {
            let ring = choice.begin(id, now);
            now += Duration::from_micros(if ring { ring_us } else { thread_us });
            choice.end(id, now);
            in_ring += u64::from(ring);
        }
        in_ring
    }

    #[test]
    fn the_ring_is_left_alone_while_it_is_late() {
        let mut choice = Choice::default();
        let quick = run(&mut choice, 10_000, 100, 130);
        assert_eq!(quick, 10_000 - u64::from(PAUSE_MIN), "all but those that were measured first");
        let late = run(&mut choice, 1_000_000, 8000, 130);
        assert!(late < 100, "{late} of a million were late");
        let again = run(&mut choice, 100_000, 100, 130);
        assert!(again > 80_000, "{again} of a hundred thousand");
    }

    #[test]
    fn a_slow_disk_is_not_a_late_ring() {
        let mut choice = Choice::default();
        assert!(run(&mut choice, 1000, 9000, 8000) > 900);
    }
}
