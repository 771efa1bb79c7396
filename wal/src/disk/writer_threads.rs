//! Blocking writes as completions: for event loops on rungs that have none of their own.
//!
//! The queue of a rung is put behind a few threads, as many as writes may be in flight, started when
//! they are first needed. Each sleeps until there is a write, performs it, and puts its outcome where
//! [`poll`](WriteQueue::poll) finds it. The first outcome that lies there rings the [`Bell`]; those
//! that join it need not.
//!
//! ```text
//! submit -> waiting -> writer: inner.submit (blocks) -> ended, bell -> poll
//! ```
//!
//! Who waits for completions need not wait for a writer to get up: it performs what none has begun.
//!
//! Dropping the queue waits for what was submitted: an accepted write is performed.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::bell::Bell;
use super::{Completion, DurableWrite, Submitted, WriteQueue};
use crate::Result;

/// See the module's documentation.
pub struct WriterThreads {
    shared: Arc<Shared>,
    /// How many writers there may be.
    writers_max: usize,
    /// The writers so far.
    writers: Mutex<Vec<JoinHandle<()>>>,
}

/// What the writers and their users share.
struct Shared {
    /// Performs a write in the calling thread.
    inner: Box<dyn WriteQueue>,
    state: Mutex<State>,
    /// Something waits, or the queue is being dropped.
    work: Condvar,
    /// Something has ended.
    done: Condvar,
    bell: Bell,
}

#[derive(Default)]
struct State {
    /// Submitted, and not begun.
    waiting: VecDeque<DurableWrite>,
    /// Ended, and not fetched.
    ended: Vec<Completion>,
    /// Writes that writers are busy with.
    busy: usize,
    /// Writers that sleep, less those that were told to get up.
    idle: usize,
    /// Threads in [`complete`](WriteQueue::complete).
    waiters: usize,
    /// Whether the writers are to end when nothing waits.
    closing: bool,
}

impl WriterThreads {
    /// Up to `writers_max` threads in front of `inner`, which performs writes in the calling thread.
    /// `dir` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if the process may open no more descriptors.
    pub fn new(inner: Box<dyn WriteQueue>, writers_max: usize, dir: &Path) -> Result<Self> {
        Ok(Self::with_bell(inner, writers_max, Bell::new(dir)?))
    }

    /// As [`new`](WriterThreads::new), with a bell that others ring as well.
    pub(super) fn with_bell(inner: Box<dyn WriteQueue>, writers_max: usize, bell: Bell) -> Self {
        let shared = Arc::new(Shared {
            inner,
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            bell,
        });
        Self { shared, writers_max, writers: Mutex::default() }
    }

    /// Performs a write that no writer has begun, in the calling thread: for who would wait for it.
    pub(super) fn perform_one(&self) -> Option<Completion> {
        let write = self.shared.lock().waiting.pop_front()?;
        let id = write.id;
        match self.shared.inner.submit(write) {
            Submitted::Done(result) => Some(Completion { id, result }),
            Submitted::Queued => {
                unreachable!("the queue behind writers performs its writes at once")
            }
        }
    }

    /// Takes what has ended, and leaves the bell alone.
    pub(super) fn fetch(&self) -> Vec<Completion> {
        std::mem::take(&mut self.shared.lock().ended)
    }

    /// Starts a writer if there may be one more; whether there is any.
    fn start_writer(&self) -> bool {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if writers.len() < self.writers_max {
            let shared = self.shared.clone();
            let builder = std::thread::Builder::new().name("strandline-write".into());
            // With at least one writer everything is written all the same, only less at once.
            if let Ok(writer) = builder.spawn(move || shared.write()) {
                writers.push(writer);
            }
        }
        !writers.is_empty()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic can happen between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a writer does until the queue is dropped.
    fn write(&self) {
        let mut state = self.lock();
        loop {
            if let Some(write) = state.waiting.pop_front() {
                state.busy += 1;
                drop(state);
                let id = write.id;
                let Submitted::Done(result) = self.inner.submit(write) else {
                    unreachable!("the queue behind writers performs its writes at once");
                };
                state = self.lock();
                state.busy -= 1;
                state.ended.push(Completion { id, result });
                let is_first = state.ended.len() == 1;
                let waiters = state.waiters;
                drop(state);
                if is_first {
                    self.bell.ring();
                }
                if waiters > 0 {
                    self.done.notify_all();
                }
                state = self.lock();
                continue;
            }
            if state.closing {
                return;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl WriteQueue for WriterThreads {
    fn submit(&self, write: DurableWrite) -> Submitted {
        let mut state = self.shared.lock();
        state.waiting.push_back(write);
        if state.idle > 0 {
            // Counted by whoever tells, so that the next write does not count on the same sleeper.
            state.idle -= 1;
            drop(state);
            self.shared.work.notify_one();
            return Submitted::Queued;
        }
        drop(state);
        if self.start_writer() {
            return Submitted::Queued;
        }
        // The process may start no thread at all: better late than never.
        let write = self.shared.lock().waiting.pop_back();
        match write {
            Some(write) => self.shared.inner.submit(write),
            None => Submitted::Queued,
        }
    }

    fn complete(&self) -> Vec<Completion> {
        if let Some(own) = self.perform_one() {
            return vec![own];
        }
        let mut state = self.shared.lock();
        loop {
            if !state.ended.is_empty() || (state.waiting.is_empty() && state.busy == 0) {
                return std::mem::take(&mut state.ended);
            }
            state.waiters += 1;
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiters -= 1;
        }
    }

    fn poll(&self) -> Vec<Completion> {
        // First: a bell that rings from here on is for what is not taken below.
        self.shared.bell.silence();
        self.fetch()
    }

    fn places_max(&self) -> Option<usize> {
        Some(self.writers_max)
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.bell.as_fd())
    }
}

impl Drop for WriterThreads {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        let writers =
            std::mem::take(self.writers.get_mut().unwrap_or_else(PoisonError::into_inner));
        for writer in writers {
            // A writer that panicked said so already.
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for WriterThreads {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("WriterThreads").field("inner", &self.shared.inner).finish_non_exhaustive()
    }
}
