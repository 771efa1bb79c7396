//! Where callbacks run: a thread of their own, started with the first of them.
//!
//! A callback may take its time, so it never runs on a thread that writes, reaps or waits. Those of
//! one log run one after the other, as a rule in the order of their positions: one that is given to what is
//! durable already may overtake those that are just being told of it. There are
//! never more than [`CALLBACKS_MAX`] that have not run: giving one more waits, so that a slow callback
//! slows those who give them and not the log.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::{Error, Lsn, Result};

/// How many callbacks of one log may be waiting or due: a few megabytes.
const CALLBACKS_MAX: usize = 65_536;

/// What is to be called with the outcome.
pub(crate) type Callback = Box<dyn FnOnce(Result<Lsn>) + Send>;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Notifier {
    state: Mutex<State>,
    /// Something is due, or the log has ended.
    due: Condvar,
    /// There is room for another one.
    room: Condvar,
}

#[derive(Default)]
struct State {
    due: VecDeque<(Callback, Result<Lsn>)>,
    /// Callbacks that were given and have not run.
    outstanding: usize,
    /// The thread, while it runs.
    thread: Option<ThreadId>,
    /// Whether the thread ends when nothing is due.
    closing: bool,
}

impl Notifier {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a callback that will be due, and sees to it that the thread runs. Waits for room.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the thread cannot be started.
    pub(crate) fn reserve(self: &Arc<Self>) -> Result<()> {
        let mut state = self.lock();
        // A callback may give further ones; it must not wait for itself.
        let is_own = state.thread == Some(std::thread::current().id());
        while state.outstanding >= CALLBACKS_MAX && !is_own {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.thread.is_none() {
            let notifier = self.clone();
            let builder = std::thread::Builder::new().name("strandline-notify".into());
            let spawned = builder.spawn(move || notifier.run()).map_err(|source| Error::Io {
                operation: "thread start",
                path: Default::default(),
                offset: 0,
                source,
            })?;
            state.thread = Some(spawned.thread().id());
        }
        state.outstanding += 1;
        Ok(())
    }

    /// A callback for which [`reserve`](Notifier::reserve) was called is due.
    pub(crate) fn call(&self, callback: Callback, outcome: Result<Lsn>) {
        self.lock().due.push_back((callback, outcome));
        self.due.notify_one();
    }

    /// The thread ends as soon as nothing is outstanding.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.due.notify_all();
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some((callback, outcome)) = state.due.pop_front() {
                drop(state);
                // A callback that panics has said so; the others are to run all the same.
                let _ = std::panic::catch_unwind(AssertUnwindSafe(|| callback(outcome)));
                state = self.lock();
                state.outstanding -= 1;
                self.room.notify_one();
            } else if state.closing && state.outstanding == 0 {
                state.thread = None;
                return;
            } else {
                state = self.due.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
