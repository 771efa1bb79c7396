//! The store's own threads: they flush memtables and compact tables, slice by slice.
//!
//! They sleep until a memtable is sealed. A writer that finds the backlog high does a slice itself,
//! so that writes slow down in proportion and never stop all at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use strandline_wal::{Lsn, Wal};

use crate::engine::Engine;
use crate::{Error, Index, Result, Worked};

/// Backlog, in thousandths of the bound, from which on writers help.
const HELP_FROM: u32 = 600;

/// Flushing and compacting for one store.
pub(crate) struct Background {
    engine: Arc<Engine>,
    wal: Wal,
    /// Whether the log is trimmed behind each flush.
    trims: bool,
    /// The log is kept from this entry on, for who still reads it.
    kept: AtomicU64,
    state: Mutex<State>,
    /// Signalled when there may be something to do, or something has been done.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// Rises with every reason to look for work.
    reasons: u64,
    /// The last error of background work, cleared by the next success.
    error: Option<Error>,
}

/// A kind of background work: does one slice of it.
type Work = fn(&Background) -> Result<Worked>;

/// The threads; joined when dropped.
pub(crate) struct Threads {
    background: Arc<Background>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.background.lock().stopping = true;
        self.background.changed.notify_all();
        for thread in self.threads.drain(..) {
            // The last handle may be dropped by one of the threads themselves.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Background {
    pub(crate) fn new(engine: Arc<Engine>, wal: Wal, trims: bool) -> Arc<Self> {
        let (state, changed) = (Mutex::new(State::default()), Condvar::new());
        let kept = AtomicU64::new(u64::MAX);
        Arc::new(Self { engine, wal, trims, kept, state, changed })
    }

    /// Keeps the log from `index` on, though it is in tables; none: as much as is not.
    pub(crate) fn keep_from(&self, index: Option<Index>) {
        let kept = index.map_or(u64::MAX, |index| index.0);
        if self.kept.swap(kept, Ordering::AcqRel) != kept && self.trims {
            self.trim();
        }
    }

    fn trim(&self) {
        let kept = self.kept.load(Ordering::Acquire);
        self.wal.trim(Lsn(self.engine.trimmable().0.min(kept.saturating_sub(1))));
    }

    /// Starts one thread that flushes and one that compacts.
    pub(crate) fn start(self: &Arc<Self>) -> Result<Threads> {
        let mut threads = Threads { background: self.clone(), threads: Vec::new() };
        let works: [(&str, Work); 2] =
            [("strandline-flush", Background::flush), ("strandline-compact", Background::compact)];
        for (name, work) in works {
            let background = self.clone();
            let spawned = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || background.run(work))
                .map_err(|source| strandline_wal::Error::Io {
                    operation: "thread start",
                    path: Default::default(),
                    offset: 0,
                    source,
                })?;
            threads.threads.push(spawned);
        }
        Ok(threads)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, work: Work) {
        let mut seen = 0;
        loop {
            {
                let mut state = self.lock();
                while state.reasons == seen && !state.stopping {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.stopping {
                    return;
                }
                seen = state.reasons;
            }
            loop {
                match work(self) {
                    Ok(Worked::Idle) => break,
                    Ok(Worked::Done) => {
                        let mut state = self.lock();
                        state.error = None;
                        // What one thread has done is a reason for the other to look.
                        if self.engine.pressure() > 0 {
                            self.changed.notify_all();
                        }
                        if state.stopping {
                            return;
                        }
                    }
                    Err(error) => {
                        self.lock().error = Some(error);
                        self.changed.notify_all();
                        break;
                    }
                }
            }
        }
    }

    /// Says that there may be something to do.
    pub(crate) fn poke(&self) {
        self.lock().reasons += 1;
        self.changed.notify_all();
    }

    /// Flushes what can be flushed, in one slice, and lets go of the log behind it.
    pub(crate) fn flush(&self) -> Result<Worked> {
        let before = self.engine.trimmable();
        let worked = self.engine.flush_work(Index(self.wal.durable().0))?;
        let trimmable = self.engine.trimmable();
        if trimmable > before {
            if self.trims {
                self.trim();
            }
            // A flush makes work for the compaction.
            self.poke();
        }
        Ok(worked)
    }

    /// One slice of compaction.
    pub(crate) fn compact(&self) -> Result<Worked> {
        self.engine.compact_work()
    }

    /// Called before a write is taken: helps with the backlog, or waits while it is at its bound.
    pub(crate) fn admit(&self) -> Result<()> {
        if self.engine.pressure() < HELP_FROM {
            return Ok(());
        }
        if self.flush()? == Worked::Idle {
            self.compact()?;
        }
        while self.engine.stalled() {
            let state = self.lock();
            if let Some(error) = &state.error {
                let error = Error::Stalled { reason: error.to_string() };
                drop(state);
                // The next write finds out whether the reason has gone.
                self.poke();
                return Err(error);
            }
            drop(state);
            self.poke();
            let done = [self.flush()?, self.compact()?];
            if done != [Worked::Idle, Worked::Idle] || !self.engine.stalled() {
                continue;
            }
            if self.wal.durable() < self.wal.last() {
                // Only what is durable is flushed, and nobody may be waiting for that: writers at
                // level memory do not.
                self.wal.sync()?;
            } else {
                // The other threads hold all the work that there is.
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use strandline_wal::disk::SimulatedDisk;

    use crate::{
        Batch, Changes, Db, DbOptions, Durability, Entry, KeyspaceId, Machine, Options, Result,
    };

    struct Nothing;

    impl Machine for Nothing {
        fn apply(&mut self, _: &Entry<'_>, _: &mut Changes<'_>) -> Result<()> {
            Ok(())
        }
    }

    /// Memtables were full of entries that were not durable, so none could be flushed; the writers,
    /// who did not wait for the disk, waited for a flush for ever.
    #[test]
    fn writers_at_level_memory_are_not_stalled_for_ever() {
        let options = DbOptions {
            engine: Options { memtable_size: 8 << 10, ..Options::default() },
            background: false,
            ..DbOptions::default()
        };
        let disk: Arc<SimulatedDisk> = SimulatedDisk::new(1);
        let db = Db::open_with(disk, Path::new("/store"), options, Box::new(Nothing)).unwrap();
        for number in 0..200_u8 {
            let mut batch = Batch::new();
            batch.put(KeyspaceId::DEFAULT, &[number], &[number; 1000]).unwrap();
            db.write(&batch, Durability::Memory).unwrap();
        }
        assert!(db.get(KeyspaceId::DEFAULT, &[0]).unwrap().is_some());
    }
}
