//! Driving the log of a store that stands alone: from the threads of sessions, without waiting.
//!
//! What sessions have appended is submitted by their own thread, at the end of its turn or when there is
//! much of it. The disk says at a descriptor, the *bell*, when something has become durable. The
//! thread that watches the bell then applies it and so answers the sessions, most of which are its own:
//! no other thread has to be woken for a write.
//!
//! Only when so much is under way that applying it would keep the sessions waiting, another thread
//! is worth waking: the *helper* waits for the disk and applies, while the sessions take in the next
//! requests, until little is under way. It serves those as well who append in other threads and want the
//! log to go on.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use strandline_engine::{Db, Index, Result};

use crate::submission::Mailbox;

/// With so many entries the helper is worth waking: a hundredth of what applying them takes. So many are
/// submitted in the middle of a turn as well: the disk works on them meanwhile.
const HELPED_MIN: u64 = 256;

/// See the module's documentation.
pub struct Driving {
    db: Db,
    /// Entries that were appended and not submitted yet.
    unsubmitted: AtomicU64,
    helper: Arc<Helper>,
}

impl Driving {
    /// Starts the helper. The log must have been opened for events.
    pub fn start(db: &Db) -> (Self, JoinHandle<()>) {
        let helper = Arc::new(Helper::default());
        let thread = {
            let (helper, db) = (helper.clone(), db.clone());
            let thread = std::thread::Builder::new().name("apply".into());
            thread.spawn(move || helper.run(&db))
        };
        let thread = thread.expect("a thread can be started when the server starts");
        (Self { db: db.clone(), unsubmitted: AtomicU64::new(0), helper }, thread)
    }

    /// What becomes readable when [`take_ended`](Driving::take_ended) has something to do; none on disks
    /// that complete at once.
    ///
    /// # Errors
    ///
    /// If the process may open no more files.
    pub fn bell(&self) -> std::io::Result<Option<OwnedFd>> {
        self.db.log().completion_fd().map(|bell| bell.as_fd().try_clone_to_owned()).transpose()
    }

    /// A session of `mailbox`'s thread has appended so many entries.
    pub fn appended(&self, count: u64, mailbox: &Mailbox) {
        mailbox.want();
        let before = self.unsubmitted.fetch_add(count, Ordering::Relaxed);
        if before + count >= HELPED_MIN {
            self.submit_due();
            self.helper.ask();
        }
    }

    /// Submits what was appended and is due.
    pub fn submit_due(&self) {
        self.unsubmitted.store(0, Ordering::Relaxed);
        // The machine is told of an error, and tells.
        let _ = self.db.submit_due();
    }

    /// The bell has rung: what has become durable is applied, here or by the helper. What is due after
    /// that is submitted before `mailbox`'s thread sleeps.
    pub fn take_ended(&self, mailbox: &Mailbox) {
        if under_way(&self.db) >= HELPED_MIN || self.helper.is_busy() {
            self.helper.ask();
        } else {
            self.db.take_ended();
            mailbox.want();
        }
    }

    /// Another thread has appended, and wants that to become durable.
    pub fn request(&self) {
        self.helper.ask();
    }

    /// Waits until `index` is durable and applied: in a thread that may wait.
    ///
    /// # Errors
    ///
    /// If it cannot be made durable or applied any more.
    pub fn wait(&self, index: Index) -> Result<()> {
        let waited = self.db.wait(index);
        // This thread may have heard a bell that was for the others.
        self.helper.ask();
        waited
    }

    /// Ends the helper.
    pub fn end(&self) {
        self.helper.end();
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.end();
    }
}

/// How many entries were appended and are not applied.
fn under_way(db: &Db) -> u64 {
    db.log().last().0.saturating_sub(db.applied().0)
}

/// A thread that sleeps until it is asked.
#[derive(Default)]
struct Helper {
    state: Mutex<State>,
    asked: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether there is something to do that was not looked at.
    is_asked: bool,
    is_busy: bool,
    is_ending: bool,
}

impl Helper {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Three flags, each whole at every time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_busy(&self) -> bool {
        self.lock().is_busy
    }

    fn ask(&self) {
        let mut state = self.lock();
        state.is_asked = true;
        let sleeps = !state.is_busy;
        drop(state);
        if sleeps {
            self.asked.notify_one();
        }
    }

    fn end(&self) {
        self.lock().is_ending = true;
        self.asked.notify_one();
    }

    fn run(&self, db: &Db) {
        let mut state = self.lock();
        while !state.is_ending {
            if !std::mem::take(&mut state.is_asked) {
                state.is_busy = false;
                state = self.asked.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_busy = true;
            drop(state);
            // The machine is told of an error, and tells.
            let mut goes_on = db.submit_due().is_ok();
            while goes_on && under_way(db) >= HELPED_MIN {
                goes_on = db.wait(Index(db.log().last().0)).is_ok();
            }
            // Bells that were heard meanwhile were for this thread.
            db.take_ended();
            let _ = db.submit_due();
            state = self.lock();
        }
    }
}
