//! The log store: openraft's calls on one side, the log on the other.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, Entry, LogId, LogState, OptionalSend, RaftLogReader, RaftTypeConfig, StorageError,
    StorageIOError, Vote,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use strandline_wal::disk::Disk;
use strandline_wal::{Error, Lsn, Options, Wal};

use crate::state::State;

/// Entries that are read for one message at the most, in bytes; the first one is always read.
const READ_LEN_MAX: usize = 1 << 20;

type Result<T, C> = std::result::Result<T, StorageError<<C as RaftTypeConfig>::NodeId>>;

/// A log store. A cheap handle: clones share the log, which is closed with the last one.
pub struct LogStore<C: RaftTypeConfig> {
    shared: Arc<Shared<C>>,
}

impl<C: RaftTypeConfig> Clone for LogStore<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<C: RaftTypeConfig> {
    wal: Wal,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Taken after the log's own lock, never before it.
    inner: Mutex<Inner<C>>,
}

/// What is not in the log's files, or not yet.
struct Inner<C: RaftTypeConfig> {
    state: State<C::NodeId>,
    /// The last entry.
    last: Option<LogId<C::NodeId>>,
    /// Encoded entries that are not known to be durable.
    pending: VecDeque<(Lsn, Arc<[u8]>)>,
    /// Who waits for a position to be durable, in order.
    waiting: VecDeque<(Lsn, LogFlushed<C>)>,
    /// Why the log has stopped, if it has.
    stopped: Option<String>,
}

impl<C> LogStore<C>
where
    C: RaftTypeConfig<Entry = Entry<C>>,
    C::D: Serialize + DeserializeOwned,
{
    /// Opens the log in `dir` of `disk`, and starts the thread that writes it.
    ///
    /// # Errors
    ///
    /// If the directory is in use, damaged or foreign, or cannot be read.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> std::result::Result<Self, Error> {
        let (wal, _) = Wal::open(Arc::clone(&disk), dir, options)?;
        let state = State::read(&*disk, dir)?;
        if let Some(purged) = &state.purged
            && wal.last() < position(purged.index)
        {
            // A crash between the note of a purge beyond the end and the log's new beginning.
            wal.reset(position(purged.index).next())?;
        }
        let last = last_of::<C>(&wal, &state)?;
        let (pending, waiting) = (VecDeque::new(), VecDeque::new());
        let inner = Mutex::new(Inner { state, last, pending, waiting, stopped: None });
        let shared = Arc::new(Shared { wal: wal.clone(), disk, dir: dir.to_path_buf(), inner });
        let told = Arc::downgrade(&shared);
        wal.set_hook(Box::new(move |durable| {
            if let Some(shared) = told.upgrade() {
                shared.durable(durable);
            }
        }));
        let told = Arc::downgrade(&shared);
        let leader = std::thread::Builder::new().name("log".into()).spawn(move || {
            let Err(error) = wal.lead() else { return };
            if let Some(shared) = told.upgrade() {
                shared.stopped(&error);
            }
        });
        leader.map_err(|source| Error::Io {
            operation: "start of a thread",
            path: dir.to_path_buf(),
            offset: 0,
            source,
        })?;
        Ok(Self { shared })
    }

    /// Entries of `[from, to)`, of about `len_max` bytes at the most.
    fn read(
        &self,
        from: u64,
        to: u64,
        len_max: usize,
    ) -> std::result::Result<Vec<Entry<C>>, AnyError> {
        let mut entries = Vec::new();
        let mut len = 0;
        let mut take = |payload: &[u8]| -> std::result::Result<bool, AnyError> {
            if len > 0 && len + payload.len() > len_max {
                return Ok(false);
            }
            len += payload.len();
            entries.push(postcard::from_bytes(payload).map_err(|error| AnyError::new(&error))?);
            Ok(true)
        };
        let held = self.shared.wal.first().0.saturating_sub(1);
        let (from, to, pending) = {
            let inner = self.shared.lock();
            let first = inner.state.purged.as_ref().map_or(0, |purged| purged.index + 1);
            let end = inner.last.as_ref().map_or(0, |last| last.index + 1);
            // The log of a replica that joined late begins where it joined.
            let first = first.max(held);
            let (from, to) = (from.max(first), to.min(end));
            let wanted = |lsn: &Lsn| *lsn >= position(from) && *lsn < position(to);
            let pending = inner.pending.iter().filter(|(lsn, _)| wanted(lsn));
            (from, to, pending.cloned().collect::<Vec<_>>())
        };
        if from >= to {
            return Ok(entries);
        }
        // What is not pending is durable, and stays so.
        let end = pending.first().map_or(position(to), |(lsn, _)| *lsn);
        let mut reader = self.shared.wal.reader(position(from));
        while reader.next_lsn() < end {
            let records = reader.next_records().map_err(|error| AnyError::new(&error))?;
            let Some(records) = records else { break };
            for record in records.iter() {
                let (lsn, record) = record.map_err(AnyError::error)?;
                if lsn >= end {
                    break;
                }
                if !take(record.payload)? {
                    return Ok(entries);
                }
            }
        }
        for (_, payload) in pending {
            if !take(&payload)? {
                break;
            }
        }
        Ok(entries)
    }

    /// Changes the state file, and what is known of it.
    fn change(&self, change: impl FnOnce(&mut State<C::NodeId>)) -> std::result::Result<(), Error> {
        let mut state = self.shared.lock().state.clone();
        change(&mut state);
        state.write(&*self.shared.disk, &self.shared.dir)?;
        self.shared.lock().state = state;
        Ok(())
    }

    /// Takes encoded entries; `flushed` is told when they are durable.
    fn append_at(
        &self,
        first: u64,
        last: LogId<C::NodeId>,
        payloads: Vec<Arc<[u8]>>,
        flushed: LogFlushed<C>,
    ) -> std::result::Result<(), Error> {
        let wal = &self.shared.wal;
        if wal.last() < wal.first() && position(first) != wal.last().next() {
            // A log without entries begins where the first one says.
            wal.reset(position(first))?;
        }
        assert_eq!(position(first), wal.last().next(), "openraft leaves no hole in its log");
        let slices: Vec<&[u8]> = payloads.iter().map(|payload| &**payload).collect();
        let mut flushed = Some(flushed);
        let lsn = wal.append_then(&slices, |lsn| {
            let mut inner = self.shared.lock();
            let lsns = (position(first).0..=lsn.0).map(Lsn);
            inner.pending.extend(lsns.zip(payloads.iter().cloned()));
            inner.waiting.extend(flushed.take().map(|flushed| (lsn, flushed)));
            inner.last = Some(last);
        })?;
        wal.request(lsn);
        let stopped = self.shared.lock().stopped.clone();
        if let Some(reason) = stopped {
            // It stopped between the two: whoever came last is told here.
            self.shared.stopped(&Error::Io {
                operation: "append",
                path: self.shared.dir.clone(),
                offset: 0,
                source: io::Error::other(reason),
            });
        }
        Ok(())
    }

    fn truncate_to(&self, last: Lsn) -> std::result::Result<(), Error> {
        self.shared.wal.truncate(last)?;
        let state = self.shared.lock().state.clone();
        let found = last_of::<C>(&self.shared.wal, &state)?;
        self.shared.lock().last = found;
        Ok(())
    }

    fn purge_to(&self, to: LogId<C::NodeId>) -> std::result::Result<(), Error> {
        // Written down first: what has been dropped must not be looked for.
        let lsn = position(to.index);
        self.change(|state| state.purged = state.purged.take().max(Some(to.clone())))?;
        if self.shared.wal.last() < lsn {
            self.shared.wal.reset(lsn.next())?;
            self.shared.lock().last = Some(to);
        } else {
            self.shared.wal.sync()?;
            self.shared.wal.trim(lsn);
        }
        Ok(())
    }

    /// Does what waits for the disk, on a thread where that is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> std::result::Result<T, Error> + Send + 'static,
    ) -> std::result::Result<T, AnyError> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|error| AnyError::new(&error))?.map_err(|error| AnyError::new(&error))
    }
}

impl<C: RaftTypeConfig> Shared<C> {
    fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        // Nothing under this lock can panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to here is durable.
    fn durable(&self, durable: Lsn) {
        let mut inner = self.lock();
        let pending = inner.pending.partition_point(|(lsn, _)| *lsn <= durable);
        inner.pending.drain(..pending);
        let count = inner.waiting.partition_point(|(lsn, _)| *lsn <= durable);
        let told: Vec<_> = inner.waiting.drain(..count).collect();
        drop(inner);
        for (_, flushed) in told {
            flushed.log_io_completed(Ok(()));
        }
    }

    /// The log has stopped: nobody waits in vain.
    fn stopped(&self, error: &Error) {
        let mut inner = self.lock();
        inner.stopped = Some(error.to_string());
        let told: Vec<_> = inner.waiting.drain(..).collect();
        drop(inner);
        for (_, flushed) in told {
            flushed.log_io_completed(Err(io::Error::other(error.to_string())));
        }
    }
}

impl<C: RaftTypeConfig> Drop for Shared<C> {
    fn drop(&mut self) {
        // Ends the thread that leads, too. Whoever wanted to know of errors was told by its callback.
        let _ = self.wal.close();
    }
}

/// Where an entry stands in the log, whose positions begin at 1.
fn position(index: u64) -> Lsn {
    Lsn(index.saturating_add(1))
}

/// The id of the last entry, or of the last one that was purged.
fn last_of<C>(
    wal: &Wal,
    state: &State<C::NodeId>,
) -> std::result::Result<Option<LogId<C::NodeId>>, Error>
where
    C: RaftTypeConfig<Entry = Entry<C>>,
    C::D: DeserializeOwned,
{
    let last = wal.last();
    if last < wal.first()
        || state.purged.as_ref().is_some_and(|purged| position(purged.index) >= last)
    {
        return Ok(state.purged.clone());
    }
    let records = wal.reader(last).next_records()?;
    let record = records.as_ref().and_then(|records| records.iter().next());
    let Some(Ok((_, record))) = record else { return Ok(state.purged.clone()) };
    let entry: Entry<C> = postcard::from_bytes(record.payload).map_err(|error| {
        let expected = "an entry of openraft, as this program encodes it".into();
        Error::Corruption { path: "log".into(), offset: 0, expected, found: error.to_string() }
    })?;
    Ok(Some(entry.log_id))
}

impl<C> RaftLogReader<C> for LogStore<C>
where
    C: RaftTypeConfig<Entry = Entry<C>>,
    C::D: Serialize + DeserializeOwned,
{
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<C>>, C> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.read(from, to, usize::MAX).map_err(StorageIOError::read_logs)?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<C>>, C> {
        Ok(self.read(start, end, READ_LEN_MAX).map_err(StorageIOError::read_logs)?)
    }
}

impl<C> RaftLogStorage<C> for LogStore<C>
where
    C: RaftTypeConfig<Entry = Entry<C>>,
    C::D: Serialize + DeserializeOwned,
{
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, C> {
        let inner = self.shared.lock();
        let (purged, last) = (inner.state.purged.clone(), inner.last.clone());
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<C::NodeId>) -> Result<(), C> {
        let vote = vote.clone();
        let saved = self.blocking(move |store| store.change(|state| state.vote = Some(vote)));
        Ok(saved.await.map_err(StorageIOError::write_vote)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<C::NodeId>>, C> {
        Ok(self.shared.lock().state.vote.clone())
    }

    async fn save_committed(&mut self, committed: Option<LogId<C::NodeId>>) -> Result<(), C> {
        // A hint: it goes to the disk with the next vote or purge.
        self.shared.lock().state.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<C::NodeId>>, C> {
        Ok(self.shared.lock().state.committed.clone())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<C>) -> Result<(), C>
    where
        I: IntoIterator<Item = Entry<C>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut ids, mut payloads) = (Vec::new(), Vec::new());
        for entry in entries {
            let payload = postcard::to_stdvec(&entry);
            let payload =
                payload.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
            payloads.push(Arc::from(payload));
            ids.push(entry.log_id);
        }
        let (Some(first), Some(last)) = (ids.first().map(|id| id.index), ids.pop()) else {
            callback.log_io_completed(Ok(()));
            return Ok(());
        };
        let appended = self.blocking(move |store| store.append_at(first, last, payloads, callback));
        Ok(appended.await.map_err(StorageIOError::write_logs)?)
    }

    async fn truncate(&mut self, log_id: LogId<C::NodeId>) -> Result<(), C> {
        let truncated = self.blocking(move |store| store.truncate_to(Lsn(log_id.index)));
        Ok(truncated.await.map_err(StorageIOError::write_logs)?)
    }

    async fn purge(&mut self, log_id: LogId<C::NodeId>) -> Result<(), C> {
        let purged = self.blocking(move |store| store.purge_to(log_id));
        Ok(purged.await.map_err(StorageIOError::write_logs)?)
    }
}
