//! Applying committed entries, in the order of the log, once each.
//!
//! Standalone, an entry is committed when it is durable (D3). Whoever completes a write in the log
//! calls [`Committer::apply_durable`] through the log's hook: it reads the newly durable entries from
//! the log's own buffers and applies them, before the writers who wait are woken. The same code
//! replays the unflushed part of the log when a store is opened.
//!
//! In a replica an entry is committed when a quorum holds it: [`Commit::WhenTold`](crate::Commit).
//! Then what is applied, here and at a replay, ends at the limit that the replica has raised.
//!
//! An entry written at [`Durability::Memory`](crate::Durability) is committed as soon as everything
//! before it is: it is applied from the caller's memory, in its turn.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use strandline_wal::{Lsn, Reader, Records, Wal};

use crate::changes::Changes;
use crate::engine::Engine;
use crate::read::{Pair, Range, Read};
use crate::view::View;
use crate::{
    Adoption, Batch, Entry, EntryKind, Error, Index, KeyspaceId, Machine, Result, Value,
    keyspace_entry,
};

/// Within a large group the machine is told of what is visible every so many entries: those who wait
/// for the first need not wait for the last, and do their next write meanwhile.
const PUBLISH_EVERY: u64 = 128;

/// See the module's documentation.
pub(crate) struct Committer {
    engine: Arc<Engine>,
    applier: Mutex<Applier>,
    /// Whether an error has stopped the store: asked before every write, without waiting for whoever
    /// is applying.
    has_failed: AtomicBool,
    /// Signalled when `applied` has moved and somebody waits for that.
    moved: Condvar,
}

/// What one applying thread at a time needs.
struct Applier {
    machine: Box<dyn Machine>,
    /// Follows the log's durable end; none until the log is open.
    reader: Option<Reader>,
    /// Records that were read and lie, in part, beyond the limit.
    unfinished: Option<Records>,
    /// Nothing beyond this is applied, durable or not.
    limit: Index,
    /// Whether what entries write is kept.
    keeps_state: bool,
    /// Reused for the changes of each entry.
    batch: Batch,
    /// Entries that are committed in memory and wait for their turn.
    early: BTreeMap<Index, Vec<u8>>,
    /// How many threads wait for `moved`.
    waiting: usize,
    /// Whether a memtable was sealed since that was last asked.
    sealed: bool,
    /// The error that stopped the store.
    failed: Option<Error>,
}

impl Committer {
    /// Takes up the machine's state at the flushed index. Nothing beyond `limit` is applied until it is
    /// raised.
    pub(crate) fn new(
        engine: Arc<Engine>,
        mut machine: Box<dyn Machine>,
        limit: Index,
        keeps_state: bool,
    ) -> Result<Self> {
        // A hollow state may not know its machine's.
        if engine.flushed() > Index(0) && !(engine.is_hollow() && engine.machine_state().is_empty())
        {
            machine.restore(&engine.machine_state())?;
        }
        let applier = Applier {
            machine,
            reader: None,
            unfinished: None,
            limit,
            keeps_state,
            batch: Batch::new(),
            early: BTreeMap::new(),
            waiting: 0,
            sealed: false,
            failed: None,
        };
        Ok(Self {
            engine,
            applier: Mutex::new(applier),
            has_failed: AtomicBool::new(false),
            moved: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Applier> {
        self.applier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies what the log holds beyond the flushed index. `relieve` is called whenever a memtable
    /// has been sealed, to flush it.
    pub(crate) fn replay(&self, wal: &Wal, relieve: &dyn Fn() -> Result<()>) -> Result<()> {
        let flushed = self.engine.flushed();
        let (first, last) = (wal.first(), wal.durable());
        if last.0 < flushed.0 || first.0 > flushed.0 + 1 {
            return Err(Error::Malformed {
                what: "log",
                offset: 0,
                reason: format!(
                    "it holds entries {first} to {last}, but the tables end at {flushed}: files of \
                     the log are missing or from another time; restore the whole directory"
                ),
            });
        }
        self.lock().reader = Some(wal.reader(Lsn(flushed.0 + 1)));
        loop {
            let mut applier = self.lock();
            if !applier.apply_some(&self.engine)? {
                return Ok(());
            }
            drop(applier);
            relieve()?;
        }
    }

    /// Applies entries that are durable, up to `index`, and stops early where the backlog of the
    /// tables is at its bound. Returns whether a memtable was sealed.
    pub(crate) fn apply_until(&self, index: Index) -> Result<bool> {
        let mut applier = self.lock();
        applier.check()?;
        applier.limit = applier.limit.max(index);
        while !self.engine.stalled() {
            match applier.apply_some(&self.engine) {
                Ok(true) => {}
                Ok(false) => break,
                // Nothing has stopped: once the state has been replaced, the entry is in it or comes again.
                Err(error) if self.engine.damage().is_some() => return Err(error),
                Err(error) => {
                    let reason = error.to_string();
                    applier.fail(error);
                    return Err(Error::Stopped { reason });
                }
            }
        }
        Ok(std::mem::take(&mut applier.sealed))
    }

    /// Stops the store.
    pub(crate) fn stop(&self, error: Error) {
        self.lock().fail(error);
        self.has_failed.store(true, Ordering::Release);
    }

    /// Replaces the state by a checkpoint, and the machine's with it.
    pub(crate) fn install(&self, adoption: &Adoption) -> Result<()> {
        let mut applier = self.lock();
        applier.check()?;
        applier.unfinished = None;
        applier.reader = None;
        self.engine.install_adoption(adoption)?;
        applier.machine.restore(adoption.machine_state())?;
        applier.machine.published(adoption.index());
        Ok(())
    }

    /// The log has changed behind the applied index: what was read of it there is void.
    pub(crate) fn follow_anew(&self, wal: &Wal) {
        let mut applier = self.lock();
        applier.unfinished = None;
        applier.reader = Some(wal.reader(Lsn(self.engine.applied().0 + 1)));
    }

    /// Applies every entry that has become durable. Returns whether a memtable was sealed.
    pub(crate) fn apply_durable(&self) -> bool {
        let mut applier = self.lock();
        if applier.failed.is_some() {
            return false;
        }
        loop {
            match applier.apply_some(&self.engine) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    applier.fail(error);
                    self.has_failed.store(true, Ordering::Release);
                    break;
                }
            }
        }
        if applier.waiting > 0 {
            self.moved.notify_all();
        }
        std::mem::take(&mut applier.sealed)
    }

    /// Applies entries that were committed in memory, the last of them at `index`, as soon as it is
    /// their turn. Returns whether a memtable was sealed.
    pub(crate) fn apply_early(&self, index: Index, payloads: &[&[u8]]) -> Result<bool> {
        let mut applier = self.lock();
        let count = u64::try_from(payloads.len()).expect("it is in memory");
        let first = Index(index.0 + 1 - count);
        let turn = self.engine.applied().0 + 1 >= first.0;
        for (payload, at) in payloads.iter().zip(first.0..) {
            match turn {
                true => applier.apply(&self.engine, Index(at), payload)?,
                false => {
                    applier.early.insert(Index(at), payload.to_vec());
                }
            }
        }
        applier.apply_early(&self.engine)?;
        let applied = self.engine.applied();
        applier.machine.published(applied);
        while self.engine.applied() < index {
            applier.check()?;
            applier.waiting += 1;
            applier = self.moved.wait(applier).unwrap_or_else(PoisonError::into_inner);
            applier.waiting -= 1;
        }
        if applier.waiting > 0 {
            self.moved.notify_all();
        }
        Ok(std::mem::take(&mut applier.sealed))
    }

    /// The error that stopped the store, if one did.
    pub(crate) fn check(&self) -> Result<()> {
        match self.has_failed.load(Ordering::Acquire) {
            true => self.lock().check(),
            false => Ok(()),
        }
    }

    /// The log has stopped: what waits there will not be applied.
    pub(crate) fn log_failed(&self, error: &Error) {
        let mut applier = self.lock();
        applier.machine.failed(error);
        self.moved.notify_all();
    }

    /// Seals the active memtable whatever its size.
    pub(crate) fn seal(&self) {
        let applier = self.lock();
        self.engine.seal(applier.machine.state());
    }
}

impl Applier {
    /// Applies the next entries that lie together in the log; `false` if there were none.
    fn apply_some(&mut self, engine: &Engine) -> Result<bool> {
        if self.limit <= engine.applied() {
            return Ok(false);
        }
        let records = match (self.unfinished.take(), &mut self.reader) {
            (Some(records), _) => Some(records),
            (None, Some(reader)) => reader.next_records()?,
            (None, None) => None,
        };
        let Some(records) = records else { return Ok(false) };
        for record in records.iter() {
            let (lsn, record) = record.map_err(|refusal| Error::Malformed {
                what: "log record",
                offset: 0,
                reason: refusal.to_string(),
            })?;
            if lsn.0 > self.limit.0 {
                break;
            }
            self.apply(engine, Index(lsn.0), record.payload)?;
            if lsn.0.is_multiple_of(PUBLISH_EVERY) {
                self.machine.published(engine.applied());
            }
        }
        if records.end().0 > self.limit.0.saturating_add(1) {
            self.unfinished = Some(records);
        }
        self.apply_early(engine)?;
        self.machine.published(engine.applied());
        Ok(true)
    }

    /// Applies the entries committed in memory whose turn it is.
    fn apply_early(&mut self, engine: &Engine) -> Result<()> {
        while let Some(entry) = self.early.first_entry() {
            if entry.key().0 > engine.applied().0 + 1 {
                break;
            }
            let (index, payload) = entry.remove_entry();
            self.apply(engine, index, &payload)?;
        }
        Ok(())
    }

    /// Applies one entry, unless that has been done.
    fn apply(&mut self, engine: &Engine, index: Index, payload: &[u8]) -> Result<()> {
        if index <= engine.applied() {
            return Ok(());
        }
        let entry = Entry::decode(index, payload)?;
        self.machine.observe(&entry);
        self.batch.clear();
        match entry.header.kind {
            EntryKind::NOOP => {}
            EntryKind::BATCH | EntryKind::KEYSPACE if !self.keeps_state => {}
            EntryKind::BATCH => self.batch.load(entry.command)?,
            EntryKind::KEYSPACE => keyspace_entry::apply(engine, index, entry.command)?,
            _ => {
                let base = AtApplied::new(engine);
                let mut changes = Changes::new(&base, &mut self.batch);
                self.machine.apply(&entry, &mut changes)?;
            }
        }
        if !self.keeps_state {
            self.batch.clear();
        }
        engine.apply(index, &self.batch)?;
        if engine.wants_seal() {
            engine.seal(self.machine.state());
            self.sealed = true;
        }
        Ok(())
    }

    fn fail(&mut self, error: Error) {
        self.machine.failed(&error);
        self.failed = Some(error);
    }

    fn check(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(Error::Stopped { reason: error.to_string() }),
            None => Ok(()),
        }
    }
}

/// The engine's state as an entry finds it.
struct AtApplied<'a> {
    engine: &'a Engine,
    /// Made when the first range is read.
    view: std::cell::OnceCell<View>,
}

impl<'a> AtApplied<'a> {
    fn new(engine: &'a Engine) -> Self {
        Self { engine, view: std::cell::OnceCell::new() }
    }
}

impl Read for AtApplied<'_> {
    fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Value>> {
        self.engine.get(keyspace, key)
    }

    fn range<'a>(
        &'a self,
        keyspace: KeyspaceId,
        range: Range,
    ) -> Box<dyn Iterator<Item = Result<Pair>> + 'a> {
        self.view.get_or_init(|| self.engine.view()).range(keyspace, range)
    }
}
