//! Driving the log from many threads without a thread of its own.
//!
//! A thread that waits for a position looks for work first: if a group is due it submits it and, where
//! the disk completes in the background, reaps completions. Otherwise it parks. Whoever completes a
//! write wakes exactly those whose positions have become durable, and, before them, the first waiter
//! of the next group, which becomes the next leader. Waking is the dearest part of a commit: nobody is
//! woken without reason.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use crate::disk::{DurableWrite, Submitted};
use crate::wal::{Shared, State};
use crate::{Lsn, Result, canary};

/// A thread that may park here.
pub(crate) struct Waiter {
    thread: Thread,
    /// Set before the thread is unparked.
    woken: AtomicBool,
}

impl Waiter {
    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }

    fn park(&self) {
        while !self.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

thread_local! {
    static WAITER: RefCell<Arc<Waiter>> = RefCell::new(Arc::new(Waiter {
        thread: std::thread::current(),
        woken: AtomicBool::new(false),
    }));
}

/// Who waits for what.
#[derive(Default)]
pub(crate) struct Waiters {
    /// Threads parked until a position is settled.
    positions: VecDeque<(Lsn, Arc<Waiter>)>,
    /// Threads parked in [`Wal::lead`](crate::Wal::lead).
    leaders: Vec<Arc<Waiter>>,
    /// Everything up to here is durable and the hook has been called for it.
    settled: Lsn,
    /// Writes that the disk performs in the background.
    queued: i64,
    /// Whether a thread waits for the disk's completions.
    reaping: bool,
}

impl Waiters {
    /// Nobody waits; everything up to `settled` was durable when the log was opened.
    pub(crate) fn new(settled: Lsn) -> Self {
        Self { settled, ..Self::default() }
    }

    /// After a truncation.
    pub(crate) fn settle_back(&mut self, last: Lsn) {
        self.settled = self.settled.min(last);
    }

    /// After a reset.
    pub(crate) fn settle_at(&mut self, last: Lsn) {
        self.settled = last;
    }

    /// Wakes everybody to look again.
    pub(crate) fn wake_all(&mut self) {
        for (_, waiter) in self.positions.drain(..) {
            waiter.wake();
        }
        for leader in self.leaders.drain(..) {
            leader.wake();
        }
    }

    /// Takes out those whose positions are settled.
    fn take_settled(&mut self) -> Vec<Arc<Waiter>> {
        let settled = self.settled;
        let mut taken = Vec::new();
        self.positions.retain(|(lsn, waiter)| {
            let done = *lsn <= settled;
            if done {
                taken.push(waiter.clone());
            }
            !done
        });
        taken
    }
}

impl Shared {
    /// See [`Wal::wait`](crate::Wal::wait).
    pub(crate) fn wait(&self, lsn: Lsn) -> Result<()> {
        let mut state = self.lock();
        state.core.want(lsn);
        if state.core.last() < lsn {
            return Err(crate::Error::OutOfRange {
                lsn: lsn.0,
                first: state.core.first().0,
                last: state.core.last().0,
            });
        }
        let (mut state, result) = self.drive(state, Some(lsn));
        let heir = self.heir(&mut state);
        drop(state);
        if let Some(heir) = heir {
            heir.wake();
        }
        result
    }

    /// See [`Wal::lead`](crate::Wal::lead).
    pub(crate) fn lead(&self) -> Result<()> {
        let state = self.lock();
        match self.drive(state, None) {
            (_, Err(crate::Error::Closed)) => Ok(()),
            (_, result) => result,
        }
    }

    /// See [`Wal::request`](crate::Wal::request).
    pub(crate) fn request(&self, lsn: Lsn) {
        let mut state = self.lock();
        state.core.want(lsn);
        let heir = self.heir(&mut state);
        drop(state);
        if let Some(heir) = heir {
            heir.wake();
        }
    }

    /// Submits and reaps until `lsn` is settled; until the log ends if there is none.
    fn drive<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        lsn: Option<Lsn>,
    ) -> (MutexGuard<'a, State>, Result<()>) {
        loop {
            if lsn.is_some_and(|lsn| lsn <= state.waiters.settled) {
                return (state, Ok(()));
            }
            if let Some(error) = state.core.failure() {
                return (state, Err(error));
            }
            if let Some(write) = state.core.next_write() {
                if state.core.spares_missing() > 0 || state.core.is_unproven() {
                    state.tell_housekeeper();
                }
                drop(state);
                // A failure is the core's to handle; those who wait learn of it there.
                let _ = self.perform(write);
                state = self.lock();
                continue;
            }
            if state.waiters.queued > 0 && !state.waiters.reaping {
                state.waiters.reaping = true;
                drop(state);
                self.reap();
                state = self.lock();
                continue;
            }
            let waiter = WAITER.with(|waiter| waiter.borrow().clone());
            match lsn {
                Some(lsn) => state.waiters.positions.push_back((lsn, waiter.clone())),
                None => state.waiters.leaders.push(waiter.clone()),
            }
            drop(state);
            waiter.park();
            state = self.lock();
            // Whoever was woken to lead is not taken off the list by its waker.
            match lsn {
                Some(_) => state.waiters.positions.retain(|(_, w)| !Arc::ptr_eq(w, &waiter)),
                None => state.waiters.leaders.retain(|w| !Arc::ptr_eq(w, &waiter)),
            }
        }
    }

    /// Performs or starts one write, and deals with its outcome if it is known at once.
    pub(crate) fn perform(&self, write: DurableWrite) -> Result<()> {
        let id = write.id;
        match self.queue.submit(write) {
            Submitted::Done(result) => {
                let result = self.or_retried(result);
                let reported = result.as_ref().map(|_| ()).map_err(crate::Error::duplicate);
                let mut state = self.lock();
                state.core.completed(id, result);
                self.settle(state);
                reported
            }
            Submitted::Queued => {
                let mut state = self.lock();
                state.waiters.queued += 1;
                Ok(())
            }
        }
    }

    /// Performs or starts several writes, and deals with the outcomes that are known at once: for
    /// who may not wait.
    pub(crate) fn perform_all(&self, writes: Vec<DurableWrite>) {
        let ids: Vec<u64> = writes.iter().map(|write| write.id).collect();
        let mut queued = 0;
        let mut ended = Vec::new();
        for (id, submitted) in ids.into_iter().zip(self.queue.submit_all(writes)) {
            match submitted {
                Submitted::Done(result) => ended.push((id, self.or_retried(result))),
                Submitted::Queued => queued += 1,
            }
        }
        let mut state = self.lock();
        state.waiters.queued += queued;
        if ended.is_empty() {
            return;
        }
        for (id, result) in ended {
            state.core.completed(id, result);
        }
        self.settle(state);
    }

    /// Waits for the disk and deals with what it completed.
    fn reap(&self) {
        let completions = self.queue.complete();
        self.take(completions);
    }

    /// Deals with what the disk has completed, if it has.
    pub(crate) fn poll(&self) {
        {
            let mut state = self.lock();
            if state.waiters.queued == 0 || state.waiters.reaping {
                return;
            }
            state.waiters.reaping = true;
        }
        let completions = self.queue.poll();
        self.take(completions);
    }

    fn take(&self, completions: Vec<crate::disk::Completion>) {
        let mut state = self.lock();
        state.waiters.reaping = false;
        for completion in completions {
            state.waiters.queued -= 1;
            drop(state);
            let result = self.or_retried(completion.result);
            state = self.lock();
            state.core.completed(completion.id, result);
        }
        self.settle(state);
    }

    /// The outcome as it is; only a canary retries a failed sync and believes what it hears.
    fn or_retried(&self, result: Result<()>) -> Result<()> {
        if result.is_err() && canary::is_on(canary::SYNC_RETRIED_AND_BELIEVED) {
            let file = self.lock().core.active.segment.file.clone();
            return file.sync();
        }
        result
    }

    /// After completions: hands the lead on, calls the hook for what has become durable, and wakes
    /// those who waited for it.
    fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.core.failure().is_some() {
            state.waiters.wake_all();
            return;
        }
        let durable = state.core.durable();
        if durable > state.waiters.settled {
            if let Some(hook) = self.hook.get() {
                let heir = self.heir(&mut state);
                drop(state);
                if let Some(heir) = heir {
                    heir.wake();
                }
                hook(durable);
                state = self.lock();
            }
            state.waiters.settled = state.waiters.settled.max(durable);
        }
        let heir = self.heir(&mut state);
        let settled = state.waiters.take_settled();
        drop(state);
        for waiter in heir.iter().chain(&settled) {
            waiter.wake();
        }
    }

    /// Somebody to take the lead, if there is something to do and nobody does it.
    pub(crate) fn heir(&self, state: &mut State) -> Option<Arc<Waiter>> {
        let reaps = state.waiters.queued > 0 && !state.waiters.reaping;
        if !state.core.can_write() && !reaps {
            return None;
        }
        match state.waiters.leaders.pop() {
            Some(leader) => Some(leader),
            None => {
                let settled = state.core.durable();
                let mut positions = state.waiters.positions.iter();
                positions.find(|(lsn, _)| *lsn > settled).map(|(_, waiter)| waiter.clone())
            }
        }
    }

    /// Waits until less is pending than now.
    pub(crate) fn drain_some(&self) -> Result<()> {
        let last = self.lock().core.last();
        self.wait(last)
    }

    /// Waits until nothing is in flight.
    pub(crate) fn settle_in_flight(&self) -> Result<()> {
        loop {
            let mut state = self.lock();
            if let Some(error) = state.core.failure() {
                return Err(error);
            }
            if state.core.in_flight() == 0 {
                return Ok(());
            }
            if state.waiters.queued > 0 && !state.waiters.reaping {
                state.waiters.reaping = true;
                drop(state);
                self.reap();
            } else {
                drop(state);
                std::thread::yield_now();
            }
        }
    }
}
