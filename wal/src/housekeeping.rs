//! The thread that keeps spares ready, writes the footers of sealed segments and marks idle tails, off the
//! commit path: one for a log, or one for all logs of a [shared disk](crate::disk::SharedDisk).
//!
//! It sleeps until it is told that there is something to do, and while a tail is unproven it looks
//! again after a while: idle means that nothing was appended for [`IDLE`].
//!
//! The logs have their turns one after the other. Making a spare fills a whole segment, so a log gets one in a
//! turn, however many it lacks, and the others come first before it gets the next.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::wal::Shared;
use crate::{Error, Lsn, Result};

/// How long a log must be quiet before its tail is marked. Long against a sync, short against the
/// time in which a disk goes bad.
const IDLE: Duration = Duration::from_millis(20);

/// One thread that does the background work of logs, in turn. It runs while there is a log: see
/// [`Disk::housekeeper`](crate::disk::Disk::housekeeper).
#[derive(Default)]
pub struct Housekeeper {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Logs that the thread has not seen yet.
    joining: Vec<Weak<Shared>>,
    /// While it runs.
    thread: Option<Thread>,
}

impl fmt::Debug for Housekeeper {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_running = self.lock().thread.is_some();
        out.debug_struct("Housekeeper").field("is_running", &is_running).finish()
    }
}

impl Housekeeper {
    /// Takes on a log until it is closed, and starts the thread if there is none.
    pub(crate) fn keep(self: Arc<Self>, shared: &Arc<Shared>) -> Result<()> {
        let thread = {
            let mut state = self.lock();
            let thread = match &state.thread {
                Some(thread) => thread.clone(),
                None => {
                    let keeper = self.clone();
                    let builder = std::thread::Builder::new().name("strandline-wal".into());
                    let spawned = builder.spawn(move || keeper.run());
                    let spawned = spawned.map_err(|source| Error::Io {
                        operation: "thread start",
                        path: Default::default(),
                        offset: 0,
                        source,
                    })?;
                    state.thread.insert(spawned.thread().clone()).clone()
                }
            };
            state.joining.push(Arc::downgrade(shared));
            thread
        };
        let mut state = shared.lock();
        state.housekeeper = Some(thread);
        state.tell_housekeeper();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut logs: Vec<Kept> = Vec::new();
        loop {
            {
                let mut state = self.lock();
                logs.extend(state.joining.drain(..).map(Kept::new));
                if logs.is_empty() {
                    state.thread = None;
                    return;
                }
            }
            let mut next = Next::Sleep;
            logs.retain_mut(|log| match log.turn() {
                None => false,
                Some(wants) => {
                    next = next.max(wants);
                    true
                }
            });
            match next {
                _ if logs.is_empty() => {}
                Next::Sleep => std::thread::park(),
                Next::Watch => std::thread::park_timeout(IDLE),
                Next::Again => {}
            }
        }
    }
}

/// When the next turn of a log is, if nobody tells: the sooner the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// Never.
    Sleep,
    /// When it may have become idle.
    Watch,
    /// When the others have had theirs.
    Again,
}

/// A log, as the thread saw it last.
struct Kept {
    log: Weak<Shared>,
    /// Its last record, and since when.
    last: Lsn,
    since: Instant,
    /// Whether a marker is under way that nobody may wait for. It has a place of the disk's queue until
    /// somebody looks, and other logs may want that. Where an event loop drives the log that one looks.
    has_marked: bool,
    /// What its last turn came to.
    next: Next,
}

impl Kept {
    fn new(log: Weak<Shared>) -> Self {
        Self { log, last: Lsn(0), since: Instant::now(), has_marked: false, next: Next::Again }
    }

    /// Does a turn's share of what is due; `None` if the log has ended.
    fn turn(&mut self) -> Option<Next> {
        let shared = self.log.upgrade()?;
        let (unproven, last) = {
            let mut state = shared.lock();
            if state.core.failure().is_some() {
                return None;
            }
            // Another thread may have taken over, where this one hung.
            let me = std::thread::current().id();
            if state.housekeeper.as_ref().is_some_and(|other| other.id() != me) {
                return None;
            }
            let is_told = std::mem::take(&mut state.housekeeping_told);
            if !is_told && self.next == Next::Sleep {
                return Some(Next::Sleep);
            }
            state.housekeeper_watches = false;
            let core = &state.core;
            let moves = core.has_pending() || core.in_flight() > 0;
            (core.is_unproven() || moves, core.last())
        };
        if last != self.last {
            (self.last, self.since) = (last, Instant::now());
        }
        // Errors show where they matter: an append that finds no spare tries by itself.
        let lacks_spares = shared.prepare_one().unwrap_or(false);
        shared.write_footers();
        if self.has_marked {
            shared.poll();
        }
        let is_idle = self.since.elapsed() >= IDLE;
        if unproven && is_idle {
            let _ = shared.mark(false);
            self.has_marked = shared.queue.completion_fd().is_none();
        }
        let mut state = shared.lock();
        self.has_marked &= state.core.in_flight() > 0;
        let watches = (unproven && !is_idle) || self.has_marked;
        state.housekeeper_watches = watches;
        self.next = match (lacks_spares, watches) {
            (true, _) => Next::Again,
            (false, true) => Next::Watch,
            (false, false) => Next::Sleep,
        };
        Some(self.next)
    }
}

impl Shared {
    /// Writes the footers that are due. They are not synced, and one that cannot be written is left out:
    /// nothing relies on them.
    pub(crate) fn write_footers(&self) {
        loop {
            let footer = {
                let mut state = self.lock();
                if state.core.failure().is_some() {
                    return;
                }
                state.core.next_footer()
            };
            let Some((footer, offset, file)) = footer else { return };
            if file.write_at(&footer.encode(), offset).is_ok() {
                self.lock().core.counters.footers += 1;
            }
        }
    }
}
