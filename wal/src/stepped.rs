//! For drivers of one thread: appending and writing without ever waiting for the disk.

use std::os::fd::BorrowedFd;

use crate::core::Refused;
use crate::waiters::Reason;
use crate::wal::{Shared, Wal};
use crate::{Error, Lsn, Result};

impl Wal {
    /// As [`append_all`](Wal::append_all), but does not wait: `None` says that too much waits for the
    /// disk, or for a spare segment, and nothing has changed. Try again when something has become
    /// durable.
    ///
    /// # Errors
    ///
    /// As for [`append`](Wal::append).
    ///
    /// # Panics
    ///
    /// If there is no payload.
    pub fn try_append_all(&self, payloads: &[&[u8]]) -> Result<Option<Lsn>> {
        assert!(!payloads.is_empty(), "an append has at least one record");
        let mut append = self.prepare_append(payloads)?;
        for is_second in [false, true] {
            let mut state = self.shared.lock();
            match state.core.append(&mut append) {
                Ok(lsn) => return Ok(Some(lsn)),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::Pending) => return Ok(None),
                Err(Refused::NoSpare) if state.is_full || state.is_capped => {
                    state.tell_housekeeper();
                    drop(state);
                    let full = Error::Full { path: self.shared.dir.clone() };
                    return Err(self.shared.capped().unwrap_or(full));
                }
                Err(Refused::NoSpare) => {}
            }
            if state.housekeeper.is_some() || is_second {
                state.tell_housekeeper();
                return Ok(None);
            }
            drop(state);
            // Nobody else makes spares.
            match self.shared.prepare() {
                Err(error) if !error.is_full() => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Submits every write that is due and takes what has ended, without waiting: for a log that one
    /// thread drives. On disks that write in the calling thread everything appended is durable when
    /// it returns. With [`Options::events`](crate::Options::events) nothing is written in the calling
    /// thread: call it again when [`completion_fd`](Wal::completion_fd) is readable, and after each
    /// turn that appended. What is due is submitted with one system call where the rung can; the hook
    /// is called from here. Threads that [`wait`](Wal::wait) for positions meanwhile are woken.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] when the log has stopped.
    pub fn pump(&self) -> Result<()> {
        self.shared.pump()
    }

    /// The first half of [`pump`](Wal::pump): takes what has ended, and calls the hook. A loop that has more to
    /// append in this turn submits at its end.
    pub fn take_ended(&self) {
        self.shared.poll();
    }

    /// The second half of [`pump`](Wal::pump): submits every write that is due.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] when the log has stopped.
    pub fn submit_due(&self) -> Result<()> {
        self.shared.submit_due()
    }

    /// A descriptor that becomes readable when a durable write has ended and [`pump`](Wal::pump) should
    /// be called, which makes it unreadable again. For `epoll` and what is built on it, with either
    /// trigger; to keep it, duplicate it with `try_clone_to_owned`. `None` without
    /// [`Options::events`](crate::Options::events), and on the simulated disk.
    pub fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.shared.queue.completion_fd()
    }
}

impl Shared {
    pub(crate) fn pump(&self) -> Result<()> {
        self.give_up_hung();
        self.poll();
        self.submit_due()
    }

    fn submit_due(&self) -> Result<()> {
        let mut heir = None;
        let result = loop {
            let writes = {
                let now = self.disk.now();
                let mut state = self.lock();
                state.core.tick(now);
                if let Some(error) = state.core.failure() {
                    break Err(error);
                }
                let last = state.core.last();
                state.core.want(last);
                let writes: Vec<_> = std::iter::from_fn(|| state.core.next_write()).collect();
                state.tell_what_is_due();
                if writes.is_empty() {
                    heir = self.heir(&mut state);
                }
                writes
            };
            if writes.is_empty() {
                break Ok(());
            }
            self.perform_all(writes);
        };
        // Who waits for a position need not rely on this thread's coming back.
        if let Some(heir) = heir {
            heir.wake(Reason::Lead);
        }
        result
    }
}
