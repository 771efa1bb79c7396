//! Appending without waiting: a handle to what was appended.
//!
//! [`Wal::submit`] and [`Wal::try_submit`] give a [`Ticket`]. It can be waited for, polled as a future on
//! any runtime, or given a callback. Who makes the records durable then:
//!
//! | the log was opened | writes are made by |
//! |---|---|
//! | as usual | the threads that wait; with futures and callbacks also two threads of the log, started with the first of them |
//! | with [`Options::events`](crate::Options::events) | the disk, by itself; who polls submits, the event loop [pumps](Wal::pump) |
//! | without [`Options::background`](crate::Options::background) | the caller, by [`Wal::pump`] |
//!
//! Wakers are called by whoever has learnt that the position is durable, after the log's lock was
//! released: as wakers should, they must do no work. Callbacks run on a thread of their own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::notifier::Callback;
use crate::wal::{Shared, Wal};
use crate::{Error, Lsn, Result};

/// How many threads the log starts for futures and callbacks: one applies while another one writes.
const LEADERS: usize = 2;

/// What waits for a position without a thread.
pub(crate) struct Task(Mutex<Stage>);

enum Stage {
    /// A future that was polled last with this waker; `None` once it was dropped.
    Polled(Option<Waker>),
    /// A callback, and where it will run.
    Callback(Callback, Arc<Shared>),
    /// It has ended: whether the position is durable.
    Ended(bool),
}

impl Task {
    fn new(stage: Stage) -> Arc<Self> {
        Arc::new(Task(Mutex::new(stage)))
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever waits. Only whoever took it out of the list does.
    pub(crate) fn end(&self, lsn: Lsn, is_durable: bool) {
        let stage = std::mem::replace(&mut *self.lock(), Stage::Ended(is_durable));
        match stage {
            Stage::Polled(waker) => waker.into_iter().for_each(Waker::wake),
            Stage::Callback(callback, shared) => {
                let outcome = if is_durable { Ok(lsn) } else { Err(shared.ended()) };
                shared.notifier.call(callback, outcome);
            }
            Stage::Ended(_) => unreachable!("a task is taken out of its list once"),
        }
    }
}

/// Records that were appended, and whether they are durable. Dropping it takes nothing back: the
/// records go to the disk with the next group that somebody asks for.
///
/// ```
/// # use strandline_wal::{Options, Wal, disk::RealDisk};
/// # let dir = std::env::temp_dir().join(format!("strandline-ticket-{}", std::process::id()));
/// # let disk = std::sync::Arc::new(RealDisk::open(&dir, None)?);
/// # let (wal, _) = Wal::open(disk, &dir, Options { segment_size: 1 << 20, ..Options::default() })?;
/// let ticket = wal.submit(&[b"one", b"two"])?; // nothing waits for the disk here
/// assert_eq!(ticket.lsn().0, 2);
/// let (told, outcome) = std::sync::mpsc::channel();
/// ticket.then(move |result| told.send(result).expect("it is awaited below"))?;
/// assert_eq!(outcome.recv()??.0, 2); // both are on disk
/// wal.submit(&[b"three"])?.wait()?; // or wait, or `.await`
/// # wal.close()?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "records that nobody waits for become durable with the next ones"]
pub struct Ticket {
    wal: Wal,
    lsn: Lsn,
    /// Once it was polled.
    task: Option<Arc<Task>>,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ticket").field("lsn", &self.lsn).finish_non_exhaustive()
    }
}

impl Ticket {
    /// The position of the last record.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Whether all the records are durable.
    pub fn is_durable(&self) -> bool {
        self.wal.shared.lock().waiters.settled >= self.lsn
    }

    /// Waits until the records are durable; returns the position of the last one.
    ///
    /// # Errors
    ///
    /// As for [`Wal::wait`].
    pub fn wait(self) -> Result<Lsn> {
        self.wal.wait(self.lsn).map(|()| self.lsn)
    }

    /// Has `callback` called with the outcome, once, on a thread that the log keeps for callbacks: never
    /// on one that writes or waits for the disk, nor in here. Callbacks run one after the other; while
    /// 65,536 of one log have not run, this waits.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if that thread cannot be started; `callback` will not be called then.
    pub fn then(self, callback: impl FnOnce(Result<Lsn>) + Send + 'static) -> Result<()> {
        let shared = &self.wal.shared;
        shared.notifier.reserve()?;
        let task = Task::new(Stage::Callback(Box::new(callback), shared.clone()));
        if let Some(is_durable) = shared.enlist(self.lsn, &task) {
            task.end(self.lsn, is_durable);
        }
        Ok(())
    }
}

impl Future for Ticket {
    type Output = Result<Lsn>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Lsn>> {
        let lsn = self.lsn;
        let is_durable = match &self.task {
            Some(task) => match &mut *task.lock() {
                Stage::Ended(is_durable) => Some(*is_durable),
                Stage::Polled(waker) => {
                    match waker {
                        Some(known) => known.clone_from(context.waker()),
                        none => *none = Some(context.waker().clone()),
                    }
                    None
                }
                Stage::Callback(..) => unreachable!("who gives a callback gives the ticket away"),
            },
            None => {
                let task = Task::new(Stage::Polled(Some(context.waker().clone())));
                let known = self.wal.shared.enlist(lsn, &task);
                self.task = Some(task);
                known
            }
        };
        match is_durable {
            None => Poll::Pending,
            Some(true) => Poll::Ready(Ok(lsn)),
            Some(false) => Poll::Ready(Err(self.wal.shared.ended())),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(task) = &self.task
            && let Stage::Polled(waker) = &mut *task.lock()
        {
            *waker = None;
        }
    }
}

impl Wal {
    /// As [`append_all`](Wal::append_all): takes records, all or none, and waits only if too much waits
    /// for the disk. The ticket tells when they are durable.
    ///
    /// # Errors
    ///
    /// As for [`append`](Wal::append).
    ///
    /// # Panics
    ///
    /// If there is no payload.
    pub fn submit(&self, payloads: &[&[u8]]) -> Result<Ticket> {
        let lsn = self.append_all(payloads)?;
        Ok(Ticket { wal: self.clone(), lsn, task: None })
    }

    /// As [`submit`](Wal::submit), but `None` where that would wait: memory for what waits for the
    /// disk is bounded by [`Options::pending_size_max`](crate::Options::pending_size_max). Nothing has
    /// changed then; try again when something has become durable.
    ///
    /// # Errors
    ///
    /// As for [`append`](Wal::append).
    ///
    /// # Panics
    ///
    /// If there is no payload.
    pub fn try_submit(&self, payloads: &[&[u8]]) -> Result<Option<Ticket>> {
        let taken = self.try_append_all(payloads)?;
        Ok(taken.map(|lsn| Ticket { wal: self.clone(), lsn, task: None }))
    }
}

impl Shared {
    /// Has `task` told when `lsn` is settled, and sees to it that somebody writes. Returns whether it is
    /// durable if that is known already; the task is not told then.
    fn enlist(self: &Arc<Self>, lsn: Lsn, task: &Arc<Task>) -> Option<bool> {
        let now = self.disk.now();
        let mut state = self.lock();
        if lsn <= state.waiters.settled {
            return Some(true);
        }
        if state.core.failure().is_some() {
            return Some(false);
        }
        state.core.tick(now);
        state.core.want(lsn);
        state.waiters.add_task(lsn, task.clone());
        let is_first = !std::mem::replace(&mut state.has_tasks, true);
        let has_events = self.queue.completion_fd().is_some();
        let starts_leaders = is_first && !has_events && state.core.options.background;
        self.hand_on(state);
        if has_events {
            // A failure is told to the task like to everybody else.
            let _ = self.pump();
        }
        if starts_leaders {
            self.start_leaders();
        }
        None
    }

    fn start_leaders(self: &Arc<Self>) {
        for _ in 0..LEADERS {
            let shared = self.clone();
            let builder = std::thread::Builder::new().name("strandline-lead".into());
            if builder.spawn(move || shared.lead()).is_err() {
                // Next time, perhaps. Until then it is written when somebody waits.
                self.lock().has_tasks = false;
            }
        }
    }

    /// Why nothing becomes durable any more.
    fn ended(&self) -> Error {
        self.lock().core.failure().unwrap_or(Error::Closed)
    }
}
