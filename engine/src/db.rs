//! The embedded face: a store in a directory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use strandline_wal::disk::{Disk, RealDisk, Rung};
use strandline_wal::{Lsn, Recovery, Wal};

use crate::background::{Background, Threads};
use crate::commit::Committer;
use crate::engine::Engine;
use crate::view::View;
use crate::{
    Batch, Changes, Entry, Error, Index, KeyspaceId, Machine, Options, Result, Value, VerifyReport,
    Worked, keyspace_entry,
};

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is in memory: a crash of the process or the machine may lose it. Asked for by name.
    Memory,
    /// When it is on this machine's disk: it survives a power cut.
    #[default]
    Disk,
}

/// When an entry is committed, so that it is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Commit {
    /// When it is durable in this store's log.
    #[default]
    WhenDurable,
    /// When it is durable and [`Db::commit`] says so: for a replica, which waits for a quorum. The
    /// replica alone appends to the log, through [`Db::log`], and trims it.
    WhenTold,
    /// As [`WhenTold`](Commit::WhenTold), and what entries write is dropped: for a replica that keeps a
    /// log and no state. The machine sees every entry, and its own state is kept.
    WithoutState,
}

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct DbOptions {
    /// Settings of the log.
    pub wal: strandline_wal::Options,
    /// Settings of the tables.
    pub engine: Options,
    /// How durable writes are made; probed by default.
    pub rung: Option<Rung>,
    /// When entries are committed.
    pub commit: Commit,
    /// Whether a state that is damaged is opened all the same: nothing of it is read, and it waits to be
    /// replaced by a checkpoint. For a replica that has peers. Default false.
    pub opens_damaged: bool,
    /// Whether the store runs threads of its own. Without them the caller steps it with
    /// [`Db::work`]. Default true.
    pub background: bool,
}

impl Default for DbOptions {
    fn default() -> Self {
        Self {
            wal: strandline_wal::Options::default(),
            engine: Options::default(),
            rung: None,
            commit: Commit::default(),
            opens_damaged: false,
            background: true,
        }
    }
}

/// A store: an ordered map from keys to values, in one directory. A cheap handle that can be cloned
/// and sent; the store closes when the last one is dropped.
///
/// ```
/// use strandline_engine::{Db, DbOptions, Durability, KeyspaceId, Batch};
///
/// let dir = std::env::temp_dir().join(format!("strandline-db-doc-{}", std::process::id()));
/// let db = Db::open(&dir, DbOptions::default())?;
/// db.put(KeyspaceId::DEFAULT, b"tide", b"high")?; // returns when it is on disk
/// let mut batch = Batch::new();
/// batch.put(KeyspaceId::DEFAULT, b"moon", b"full")?;
/// batch.delete(KeyspaceId::DEFAULT, b"tide")?;
/// db.write(&batch, Durability::Disk)?;
/// assert!(db.get(KeyspaceId::DEFAULT, b"tide")?.is_none());
/// db.close()?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Db {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) wal: Wal,
    pub(crate) engine: Arc<Engine>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) background: Arc<Background>,
    /// Joined first when the store is dropped or closed.
    threads: Mutex<Option<Threads>>,
    recovery: Recovery,
    commit: Commit,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever wanted to know of errors called `close`.
        let _ = self.wal.close();
    }
}

/// A store without commands of its own: batches only.
struct Batches;

impl Machine for Batches {
    fn apply(&mut self, entry: &Entry<'_>, _: &mut Changes<'_>) -> Result<()> {
        Err(Error::Malformed {
            what: "entry",
            offset: 0,
            reason: format!(
                "kind {} at index {}: this directory was written by a server, open it with one",
                entry.header.kind.0, entry.index
            ),
        })
    }
}

/// Where a replication group keeps its files below a store's directory.
pub fn group_dir(dir: &Path) -> PathBuf {
    dir.join("groups").join("1")
}

/// Where a group keeps its log.
pub fn log_dir(dir: &Path) -> PathBuf {
    group_dir(dir).join("log")
}

/// Where a group keeps its tables and manifest.
pub fn state_dir(dir: &Path) -> PathBuf {
    group_dir(dir).join("state")
}

impl Db {
    /// Opens the store in `dir`, which is created if it is missing. Replays what is not in tables yet:
    /// the time it takes does not grow with the store.
    ///
    /// # Errors
    ///
    /// If the directory is in use, damaged, foreign or newer than this program, or cannot be read.
    pub fn open(dir: &Path, options: DbOptions) -> Result<Db> {
        let disk = RealDisk::open(dir, options.rung)?;
        Db::open_with(Arc::new(disk), dir, options, Box::new(Batches))
    }

    /// Opens the store in `dir` of `disk`, whose entries are executed by `machine`.
    ///
    /// # Errors
    ///
    /// As for [`open`](Db::open).
    pub fn open_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        mut options: DbOptions,
        machine: Box<dyn Machine>,
    ) -> Result<Db> {
        options.wal.background = options.background;
        let (wal, recovery) = Wal::open(disk.clone(), &log_dir(dir), options.wal)?;
        disk.create_dir_all(&state_dir(dir))?;
        let engine = match options.opens_damaged {
            true => Engine::open_or_hollow(disk, &state_dir(dir), options.engine, wal.first()),
            false => Engine::open(disk, &state_dir(dir), options.engine),
        };
        let engine = Arc::new(engine?);
        let told = options.commit != Commit::WhenDurable;
        if told && wal.last().0 < engine.flushed().0 {
            // A crash between the installation of a snapshot and the new beginning of the log.
            wal.reset(Lsn(engine.flushed().0 + 1))?;
        }
        let limit = if told { engine.flushed() } else { Index(u64::MAX) };
        let keeps_state = options.commit != Commit::WithoutState;
        let committer = Committer::new(engine.clone(), machine, limit, keeps_state)?;
        let committer = Arc::new(committer);
        let background = Background::new(engine.clone(), wal.clone(), !told);
        committer.replay(&wal, &|| {
            while engine.stalled() {
                let flushed = background.flush()?;
                let compacted = background.compact()?;
                if flushed == Worked::Idle && compacted == Worked::Idle {
                    break;
                }
            }
            Ok(())
        })?;
        let hook = (Arc::downgrade(&committer), Arc::downgrade(&background));
        if !told {
            wal.set_hook(Box::new(move |_| on_durable(&hook.0, &hook.1)));
        }
        let threads = match options.background {
            true => Some(background.start()?),
            false => None,
        };
        background.poke();
        let threads = Mutex::new(threads);
        let commit = options.commit;
        let inner = Inner { wal, engine, committer, background, threads, recovery, commit };
        Ok(Db { inner: Arc::new(inner) })
    }

    /// What opening the log found.
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// Sets `key` to `value`, durably.
    ///
    /// # Errors
    ///
    /// As for [`write`](Db::write).
    pub fn put(&self, keyspace: KeyspaceId, key: &[u8], value: &[u8]) -> Result<Index> {
        let mut batch = Batch::new();
        batch.put(keyspace, key, value)?;
        self.write(&batch, Durability::Disk)
    }

    /// Deletes `key`, durably.
    ///
    /// # Errors
    ///
    /// As for [`write`](Db::write).
    pub fn delete(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Index> {
        let mut batch = Batch::new();
        batch.delete(keyspace, key)?;
        self.write(&batch, Durability::Disk)
    }

    /// Applies a batch atomically and returns its index, acknowledged at `durability`.
    ///
    /// # Errors
    ///
    /// A full disk refuses before anything has changed ([`Error::is_full`]). After a failed sync that
    /// could not be mended the outcome of this write is unknown and every later one is refused.
    pub fn write(&self, batch: &Batch, durability: Durability) -> Result<Index> {
        if batch.is_empty() {
            return Ok(self.applied());
        }
        for op in batch.ops() {
            self.check_keyspace(op.keyspace)?;
        }
        let index = self.append(&[batch.as_entry()], durability)?;
        if durability == Durability::Disk {
            self.wait(index)?;
        }
        Ok(index)
    }

    /// Takes entries (an encoded [`EntryHeader`](crate::EntryHeader) and a command each), all or none,
    /// and returns the last one's index. At [`Durability::Disk`] it does not wait for them; at
    /// [`Durability::Memory`] they have been applied.
    ///
    /// # Errors
    ///
    /// As for [`write`](Db::write).
    pub fn append(&self, payloads: &[&[u8]], durability: Durability) -> Result<Index> {
        self.append_then(payloads, durability, |_| ())
    }

    /// As [`append`](Db::append), and calls `then` with the last index before any of the entries can
    /// be applied.
    ///
    /// # Errors
    ///
    /// As for [`write`](Db::write); `then` is not called.
    pub fn append_then(
        &self,
        payloads: &[&[u8]],
        durability: Durability,
        then: impl FnOnce(Index),
    ) -> Result<Index> {
        let inner = &*self.inner;
        if inner.commit != Commit::WhenDurable {
            return Err(Error::Replicated);
        }
        inner.background.admit()?;
        inner.committer.check()?;
        let lsn = inner.wal.append_then(payloads, |lsn| then(Index(lsn.0)))?;
        let index = Index(lsn.0);
        if durability == Durability::Memory && inner.committer.apply_early(index, payloads)? {
            inner.background.poke();
        }
        Ok(index)
    }

    /// Has a thread that is in [`lead`](Db::lead) make everything up to `index` durable.
    pub fn request(&self, index: Index) {
        self.inner.wal.request(Lsn(index.0));
    }

    /// Waits until everything up to `index` is durable and applied.
    ///
    /// # Errors
    ///
    /// If it cannot be made durable or applied any more.
    pub fn wait(&self, index: Index) -> Result<()> {
        if let Err(error) = self.inner.wal.wait(Lsn(index.0)) {
            let error = Error::from(error);
            self.inner.committer.log_failed(&error);
            return Err(error);
        }
        if self.applied() < index {
            self.inner.committer.check()?;
        }
        Ok(())
    }

    /// The value of `key`, or none.
    ///
    /// # Errors
    ///
    /// If a table is damaged or cannot be read.
    pub fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Value>> {
        self.inner.engine.get(keyspace, key)
    }

    /// A consistent view of everything applied so far.
    pub fn view(&self) -> View {
        self.inner.engine.view()
    }

    /// The keyspace of this name, created if it is missing.
    ///
    /// # Errors
    ///
    /// As for [`write`](Db::write).
    pub fn create_keyspace(&self, name: &str) -> Result<KeyspaceId> {
        if let Some(keyspace) = self.keyspace(name) {
            return Ok(keyspace);
        }
        let entry = keyspace_entry::create(name)?;
        let index = self.append(&[&entry], Durability::Disk)?;
        self.wait(index)?;
        self.keyspace(name).ok_or_else(|| Error::UnknownKeyspace { keyspace: name.into() })
    }

    /// Drops a keyspace with all its keys. Its number is not given again.
    ///
    /// # Errors
    ///
    /// As for [`write`](Db::write), or [`Error::UnknownKeyspace`].
    pub fn drop_keyspace(&self, keyspace: KeyspaceId) -> Result<()> {
        self.check_keyspace(keyspace)?;
        let index = self.append(&[&keyspace_entry::drop(keyspace)], Durability::Disk)?;
        self.wait(index)
    }

    /// The keyspace of this name.
    pub fn keyspace(&self, name: &str) -> Option<KeyspaceId> {
        self.inner.engine.keyspace(name)
    }

    fn check_keyspace(&self, keyspace: KeyspaceId) -> Result<()> {
        match self.inner.engine.has_keyspace(keyspace) {
            true => Ok(()),
            false => Err(Error::UnknownKeyspace { keyspace: keyspace.0.to_string() }),
        }
    }

    /// The last index that has been applied.
    pub fn applied(&self) -> Index {
        self.inner.engine.applied()
    }

    /// The last index that is on disk.
    pub fn durable(&self) -> Index {
        Index(self.inner.wal.durable().0)
    }

    /// Keeps the log from `index` on, though it is in tables: somebody reads it. None: nobody does.
    pub fn keep_from(&self, index: Option<Index>) {
        self.inner.background.keep_from(index);
    }

    /// Counters of the engine and of the log.
    pub fn stats(&self) -> (crate::Stats, strandline_wal::Stats) {
        (self.inner.engine.stats(), self.inner.wal.stats())
    }

    /// A digest of everything visible: equal state at an equal index, equal digest.
    ///
    /// # Errors
    ///
    /// If a table is damaged or cannot be read.
    pub fn digest(&self) -> Result<u64> {
        self.inner.engine.digest()
    }

    /// Reads every checksum of the tables and of the log.
    ///
    /// # Errors
    ///
    /// The first damage found.
    pub fn verify(&self) -> Result<VerifyReport> {
        let report = self.inner.engine.verify()?;
        let mut reader = self.inner.wal.reader(self.inner.wal.first());
        loop {
            match reader.next_records() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(report),
                // Trimmed while it was being read.
                Err(strandline_wal::Error::OutOfRange { first, .. }) => {
                    reader = self.inner.wal.reader(Lsn(first));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes everything that is in memory to tables, and waits for that.
    ///
    /// # Errors
    ///
    /// If the disk is full or fails.
    pub fn flush(&self) -> Result<()> {
        self.inner.wal.sync()?;
        let applied = self.applied();
        self.inner.committer.seal();
        while self.inner.engine.flushed() < applied {
            if self.inner.background.flush()? == Worked::Idle {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Does one slice of background work: for stores opened without threads of their own.
    ///
    /// # Errors
    ///
    /// If the disk is full or fails, or a table is damaged.
    pub fn work(&self) -> Result<Worked> {
        let wal = self.inner.wal.prepare(true);
        if self.inner.background.flush()? == Worked::Done {
            return Ok(Worked::Done);
        }
        let worked = self.inner.background.compact()?;
        match wal {
            Err(error) if !error.is_full() => Err(error.into()),
            _ => Ok(worked),
        }
    }

    /// Makes everything durable and gives the directory free. Other handles get errors from then on.
    ///
    /// # Errors
    ///
    /// If not everything could be made durable.
    pub fn close(&self) -> Result<()> {
        let closed = self.inner.wal.close();
        self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(closed?)
    }
}

/// The log has grown durably: apply, and see that memtables are flushed.
fn on_durable(committer: &Weak<Committer>, background: &Weak<Background>) {
    let Some(committer) = committer.upgrade() else { return };
    if committer.apply_durable()
        && let Some(background) = background.upgrade()
    {
        background.poke();
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Db").field("applied", &self.applied()).finish_non_exhaustive()
    }
}
