//! Driving the log from many threads without a thread of its own.
//!
//! A thread that waits for a position looks for work first: if a group is due it submits it and, where
//! the disk completes in the background, reaps completions. Otherwise it parks. Whoever completes a
//! write wakes exactly those whose positions have become durable, and, before them, the first waiter
//! of the next group, which becomes the next leader. Waking is the dearest part of a commit: nobody is
//! woken without reason, and whoever is woken because its position is settled takes no lock any more.
//!
//! Where completions are reaped, one thread does all there is to do: it reaps, submits what is due and
//! reaps again, until its own position is settled. The kernel interrupts the thread that submitted a
//! write when it completes, so a second one that submits beside it would be woken once more for nothing.

use std::sync::Arc;

use crate::disk::{DurableWrite, Submitted};
use crate::sync::{MutexGuard, yield_now};
use crate::waiters::{Reason, Sleeper};
use crate::wal::{Shared, State};
use crate::{Lsn, Result, canary};

impl Shared {
    /// See [`Wal::wait`](crate::Wal::wait).
    pub(crate) fn wait(&self, lsn: Lsn) -> Result<()> {
        let now = self.disk.now();
        let mut state = self.lock();
        state.core.tick(now);
        state.core.want(lsn);
        if state.core.last() < lsn {
            return Err(crate::Error::OutOfRange {
                lsn: lsn.0,
                first: state.core.first().0,
                last: state.core.last().0,
            });
        }
        self.drive(state, Some(lsn))
    }

    /// See [`Wal::lead`](crate::Wal::lead).
    pub(crate) fn lead(&self) -> Result<()> {
        let state = self.lock();
        match self.drive(state, None) {
            Err(crate::Error::Closed) => Ok(()),
            result => result,
        }
    }

    /// See [`Wal::request`](crate::Wal::request).
    pub(crate) fn request(&self, lsn: Lsn) {
        let now = self.disk.now();
        let mut state = self.lock();
        state.core.tick(now);
        state.core.want(lsn);
        self.hand_on(state);
    }

    /// Wakes whoever is to drive next, if there is something to do and nobody does it.
    pub(crate) fn hand_on<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        let heir = self.heir(&mut state);
        drop(state);
        if let Some(heir) = heir {
            heir.wake(Reason::Lead);
        }
    }

    /// Submits and reaps until `lsn` is settled; until the log ends if there is none.
    fn drive<'a>(&'a self, mut state: MutexGuard<'a, State>, lsn: Option<Lsn>) -> Result<()> {
        let mut was_heir = false;
        loop {
            if lsn.is_some_and(|lsn| lsn <= state.waiters.settled) {
                self.hand_on(state);
                return Ok(());
            }
            if let Some(error) = state.core.failure() {
                self.hand_on(state);
                return Err(error);
            }
            let reaped = state.waiters.reaping && !state.core.is_full_group_ready();
            let write = if reaped { None } else { state.core.next_write() };
            if let Some(write) = write {
                state.tell_what_is_due();
                // There may be more that is due, and this thread may be busy with the one.
                self.hand_on(state);
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
            let group = state.core.filling.as_ref().map(|group| group.first);
            let bed = match lsn {
                Some(lsn) => state.waiters.add(lsn, group, was_heir),
                None => state.waiters.add_leader(),
            };
            drop(state);
            match bed.park() {
                // Others have taken, or been given, what there was to do.
                Reason::Settled => return Ok(()),
                Reason::Look => state = self.lock(),
                Reason::Lead => {
                    was_heir = true;
                    state = self.lock();
                    state.waiters.heir_looks();
                }
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
                let now = self.disk.now();
                let mut state = self.lock();
                state.core.tick(now);
                state.core.completed(id, result);
                self.settle(state);
                reported
            }
            Submitted::Queued => {
                let mut state = self.lock();
                state.waiters.queued += i64::from(state.core.queued(id));
                Ok(())
            }
        }
    }

    /// Performs or starts several writes, and deals with the outcomes that are known at once: for
    /// who may not wait.
    pub(crate) fn perform_all(&self, writes: Vec<DurableWrite>) {
        let ids: Vec<u64> = writes.iter().map(|write| write.id).collect();
        let mut queued = Vec::new();
        let mut ended = Vec::new();
        for (id, submitted) in ids.into_iter().zip(self.queue.submit_all(writes)) {
            match submitted {
                Submitted::Done(result) => ended.push((id, self.or_retried(result))),
                Submitted::Queued => queued.push(id),
            }
        }
        let now = self.disk.now();
        let mut state = self.lock();
        state.core.tick(now);
        for id in queued {
            state.waiters.queued += i64::from(state.core.queued(id));
        }
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
            // Not so if nothing is known to be queued: a write may end, and be announced, before the thread
            // that submits it has counted it.
            if state.waiters.reaping {
                return;
            }
            state.waiters.reaping = true;
        }
        let completions = self.queue.poll();
        self.take(completions);
    }

    fn take(&self, completions: Vec<crate::disk::Completion>) {
        let ended: Vec<_> = completions
            .into_iter()
            .map(|completion| (completion.id, self.or_retried(completion.result)))
            .collect();
        let now = self.disk.now();
        let mut state = self.lock();
        state.core.tick(now);
        // In one step with what follows: who saw one without the other would reap what has ended.
        state.waiters.reaping = false;
        for (id, result) in ended {
            // One that was given up is not counted any more.
            state.waiters.queued -= i64::from(state.core.completed(id, result));
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
    pub(crate) fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.core.failure().is_some() {
            let all = state.waiters.take_all();
            drop(state);
            all.wake(Reason::Look);
            return;
        }
        let durable = state.core.durable();
        if durable > state.waiters.settled {
            if let Some(hook) = self.hook.get() {
                self.hand_on(state);
                hook(durable);
                state = self.lock();
            }
            state.waiters.settled = state.waiters.settled.max(durable);
        }
        let heir = self.heir(&mut state);
        let settled = state.waiters.take_settled();
        drop(state);
        if let Some(heir) = heir {
            heir.wake(Reason::Lead);
        }
        settled.wake(Reason::Settled);
    }

    /// Takes out somebody to take the lead, if there is something to do and nobody does it.
    pub(crate) fn heir(&self, state: &mut State) -> Option<Arc<Sleeper>> {
        let reaped = state.waiters.reaping && !state.core.is_full_group_ready();
        let writes = state.core.can_write() && !reaped;
        let reaps = state.waiters.queued > 0
            && !state.waiters.reaping
            && !canary::is_on(canary::REAPER_NOT_REPLACED);
        if !writes && !reaps {
            return None;
        }
        let durable = state.core.durable();
        state.waiters.take_heir(durable)
    }

    /// Waits until less is pending than now.
    pub(crate) fn drain_some(&self) -> Result<()> {
        let last = self.lock().core.last();
        self.wait(last)
    }

    /// Waits until nothing is in flight.
    pub(crate) fn settle_in_flight(&self) -> Result<()> {
        self.settled().map(drop)
    }

    /// The state when nothing is in flight.
    pub(crate) fn settled(&self) -> Result<MutexGuard<'_, State>> {
        loop {
            let mut state = self.lock();
            if let Some(error) = state.core.failure() {
                return Err(error);
            }
            if state.core.in_flight() == 0 {
                return Ok(state);
            }
            if state.waiters.queued > 0 && !state.waiters.reaping {
                state.waiters.reaping = true;
                drop(state);
                self.reap();
            } else {
                drop(state);
                yield_now();
            }
        }
    }
}
