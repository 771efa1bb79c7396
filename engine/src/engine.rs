//! The engine: committed entries in, consistent reads out.
//!
//! ```text
//!   apply ---> active memtable --seal--> sealed memtables --flush--> level 0 --compact--> 1 .. 6
//!                    ^                        ^                         ^
//!                    +------------------ get, view ---------------------+
//! ```
//!
//! The engine has no log and no threads. Whoever owns the log applies its committed entries in order,
//! from one thread at a time, and replays those after [`flushed`](Engine::flushed) when it opens the
//! engine again. Flushing, compacting and removing files happens in bounded slices inside
//! [`work`](Engine::work), in whichever thread calls it.
//!
//! Readers take no lock for longer than it takes to copy a pointer. Everything that they read hangs
//! on one `State`, which is replaced as a whole; a batch becomes visible when `applied` moves past
//! its index. In all cases the state is read *before* `applied`: a state that is older than the index
//! lacks the newest entries as a whole, but one that is newer than the index might have dropped
//! versions that the index needs.
//!
//! The order of locks: a job (`flushing`, `compacting`), then `manifest`, then `state`, then the pins
//! and lists, which take no other.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};

use strandline_wal::disk::Disk;

use crate::compaction::merge::Place;
use crate::compaction::pacing::{self, Backlog, PRESSURE_MAX};
use crate::compaction::picker;
use crate::flush::{Flush, Sealed};
use crate::keyspace::Keyspaces;
use crate::manifest::Manifest;
use crate::manifest::edit::MACHINE_STATE_LEN_MAX;
use crate::manifest::version::Version;
use crate::memtable::{Memtable, Scratch};
use crate::scrub::Scrub;
use crate::stats::{Counters, LevelStats};
use crate::table::{BlockCache, Table, TableId, TableMeta};
use crate::view::{Pins, State};
use crate::work::Compacting;
use crate::{Batch, Index, KeyspaceId, Options, Result, Stats, Value, View};

/// A deterministic, ordered key-value state. See the module's documentation.
pub struct Engine {
    pub(crate) place: Place,
    pub(crate) options: Options,
    pub(crate) cache: Arc<BlockCache>,
    /// What is read.
    state: RwLock<Arc<State>>,
    /// The last entry that was applied; what is above it is not visible.
    pub(crate) applied: AtomicU64,
    /// What the applier keeps between entries. Held while it applies one.
    pub(crate) applier: Mutex<Scratch>,
    pub(crate) pins: Arc<Pins>,
    manifest: Mutex<Manifest>,
    /// The number of the manifest in use, for who must not wait for an install.
    pub(crate) manifest_number: AtomicU64,
    /// The last flushed entry that the manifest is known to hold durably.
    pub(crate) confirmed: AtomicU64,
    /// The flush under way.
    pub(crate) flushing: Mutex<Option<Flush>>,
    /// The compaction under way.
    pub(crate) compacting: Mutex<Compacting>,
    /// The damage that ended compaction, until the state is replaced.
    pub(crate) compaction_damage: RwLock<Option<String>>,
    /// The damage because of which everything is applied again.
    pub(crate) rebuilt: OnceLock<strandline_wal::Error>,
    /// How far the tables have been verified in this round.
    pub(crate) scrub: Mutex<Scrub>,
    /// What a hollow state has lain in: files that may be sound, by the names that they have in
    /// checkpoints.
    pub(crate) rubble: Mutex<Vec<(String, PathBuf)>>,
    /// Tables that the version has no more, but somebody may still read.
    pub(crate) obsolete: Mutex<Vec<Arc<Table>>>,
    /// Tables of edits that failed, and may or may not be in a manifest that may come back.
    pub(crate) uncertain: Mutex<Vec<TableId>>,
    pub(crate) counters: Counters,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Engine")
            .field("dir", &self.place.dir)
            .field("applied", &self.applied())
            .field("flushed", &self.flushed())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the engine in `dir`, which is made if it is not there. Reads the manifest and the ends
    /// of the tables, no data; removes files that no manifest names.
    ///
    /// # Errors
    ///
    /// Options that cannot work, damage, a newer format, or what the disk refuses. A full disk is
    /// not an error unless the engine is new.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Engine> {
        options.validate()?;
        disk.create_dir_all(dir)?;
        let names = disk.list(dir)?;
        let manifest = Manifest::open(&disk, dir, &names)?;
        let contents = manifest.contents();
        if manifest.is_confirmed() {
            remove_orphans(&*disk, dir, &names, &manifest);
        }
        let cache = BlockCache::new(options.block_cache_size);
        let open = |meta: &TableMeta| open_table(&disk, dir, meta, &cache);
        let version = Arc::new(Version::open(contents, open)?);
        Ok(Self::of(disk, dir, options, (manifest, &names), cache, version))
    }

    /// The engine over a manifest and the version that it says.
    pub(crate) fn of(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        (manifest, names): (Manifest, &[String]),
        cache: Arc<BlockCache>,
        version: Arc<Version>,
    ) -> Engine {
        let contents = manifest.contents();
        // A file that could not be removed keeps its number.
        let seen = names.iter().filter_map(|name| crate::manifest::table_of_name(name));
        let unused = seen.map(|id| id.0.saturating_add(1)).max().unwrap_or(0);
        let next_table = Arc::new(AtomicU64::new(contents.next_table.max(unused)));
        let flushed = version.flushed;
        let confirmed = if manifest.is_confirmed() { flushed } else { Index(0) };
        let state = State {
            active: Arc::new(Memtable::new()),
            sealed: Vec::new(),
            keyspaces: Arc::clone(&version.keyspaces),
            version,
            missing: None,
        };
        Engine {
            place: Place { disk, dir: dir.to_path_buf(), options: options.table(), next_table },
            options,
            cache,
            state: RwLock::new(Arc::new(state)),
            applied: AtomicU64::new(flushed.0),
            applier: Mutex::new(Scratch::default()),
            pins: Arc::default(),
            manifest_number: AtomicU64::new(manifest.number()),
            manifest: Mutex::new(manifest),
            confirmed: AtomicU64::new(confirmed.0),
            flushing: Mutex::new(None),
            compacting: Mutex::default(),
            compaction_damage: RwLock::default(),
            rebuilt: OnceLock::new(),
            scrub: Mutex::default(),
            rubble: Mutex::default(),
            obsolete: Mutex::default(),
            uncertain: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Everything up to this entry is in tables: a replay starts after it.
    pub fn flushed(&self) -> Index {
        self.state().version.flushed
    }

    /// The log may be trimmed up to this entry. It is [`flushed`](Engine::flushed), except between
    /// an opening on a full disk and the next flush, when the manifest that was read is not yet known
    /// to be durable.
    pub fn trimmable(&self) -> Index {
        Index(self.confirmed.load(Ordering::Acquire))
    }

    /// The machine's state as of [`flushed`](Engine::flushed).
    pub fn machine_state(&self) -> Vec<u8> {
        self.manifest().contents().machine_state.clone()
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> Index {
        Index(self.applied.load(Ordering::Acquire))
    }

    /// Takes in what the entry at `index` changes; readers see all of it or nothing. Changes of a
    /// keyspace that is not there have no effect. An empty batch only moves `applied`.
    ///
    /// # Errors
    ///
    /// None at present: what is applied is in the log, and is kept in memory until it is flushed.
    ///
    /// # Panics
    ///
    /// If `index` is not above [`applied`](Engine::applied).
    pub fn apply(&self, index: Index, ops: &Batch) -> Result<()> {
        let mut scratch = self.applier.lock().expect("an applier that panicked is not followed");
        assert!(index > self.applied(), "entries are applied in order, each once");
        if !ops.is_empty() {
            let state = self.state();
            let ops = ops.ops().filter(|op| state.keyspaces.is_live(op.keyspace));
            state.active.insert(index, ops, &mut scratch);
        }
        self.applied.store(index.0, Ordering::Release);
        Ok(())
    }

    /// Whether the active memtable is large enough to be sealed.
    pub fn wants_seal(&self) -> bool {
        self.state().active.size() >= self.options.memtable_size
    }

    /// Seals the active memtable, so that it can be flushed; `machine_state` is the machine's state
    /// as of [`applied`](Engine::applied). Called by the applier, between entries. Does nothing if
    /// nothing was applied since the last time.
    ///
    /// # Panics
    ///
    /// If the machine's state is over its limit of 8 MiB.
    pub fn seal(&self, machine_state: Vec<u8>) {
        assert!(machine_state.len() <= MACHINE_STATE_LEN_MAX, "a machine's state is small");
        let _applier = self.applier.lock().expect("an applier that panicked is not followed");
        let last = self.applied();
        self.replace_state(|state| {
            let sealed_last =
                state.sealed.first().map_or(state.version.flushed, |sealed| sealed.last);
            assert!(sealed_last <= last, "applied does not go back");
            if sealed_last < last {
                let memtable = std::mem::replace(&mut state.active, Arc::new(Memtable::new()));
                state.sealed.insert(0, Arc::new(Sealed { memtable, last, machine_state }));
            }
        });
    }

    /// How much the work that has piled up presses on writers: 0 to [`PRESSURE_MAX`] per mille. A
    /// writer that spends that share of its time in [`work`](Engine::work) keeps the balance.
    pub fn pressure(&self) -> u32 {
        let state = self.state();
        let mut memtable_bytes = state.active.size();
        for sealed in &state.sealed {
            memtable_bytes += sealed.memtable.size();
        }
        let mut backlog = Backlog {
            memtable_bytes: u64::try_from(memtable_bytes).unwrap_or(u64::MAX),
            sealed: state.sealed.len(),
            ..Backlog::default()
        };
        // Waiting for a compaction that will never come would be waiting for ever.
        if !self.is_compaction_damaged() {
            backlog.level_0 = state.version.levels[0].len();
            backlog.debt = picker::debt(&state.version.bytes, &self.options);
        }
        pacing::pressure(&backlog, &self.options)
    }

    /// Whether so much work has piled up that writers have to help or wait.
    pub fn stalled(&self) -> bool {
        self.pressure() >= PRESSURE_MAX
    }

    /// A consistent read of everything that is applied.
    pub fn view(&self) -> View {
        // While this is held nothing is sealed, so the state has all that is applied.
        let state = self.state.read().expect(STATE_IS_SOUND);
        View::new(Arc::clone(&state), &self.pins, || self.applied())
    }

    /// The newest value of `key`, without the cost of a view.
    ///
    /// # Errors
    ///
    /// If a table is damaged or cannot be read.
    pub fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Value>> {
        let state = self.state();
        let applied = self.applied();
        state.get(keyspace, key, applied)
    }

    /// The entry that changed `key` last: put or deleted it. Exact for changes after the index of any
    /// view that is held, which is what a transaction asks that read through the view; an older
    /// change may be forgotten.
    ///
    /// # Errors
    ///
    /// If a table is damaged or cannot be read.
    pub fn last_change(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Index>> {
        let state = self.state();
        let applied = self.applied();
        state.last_change(keyspace, key, applied)
    }

    /// Creates the keyspace `name`, as the entry at `index` says, and gives its number; one that is
    /// there already is given as it is. Numbers are given in the order of creation, so they are alike
    /// on every replica. It becomes durable with the flush that covers `index`; until then the entry
    /// is in the log. Called by the applier, which then applies an empty batch at `index`.
    ///
    /// # Errors
    ///
    /// If the name is empty or too long.
    pub fn create_keyspace(&self, index: Index, name: &str) -> Result<KeyspaceId> {
        self.change_keyspaces(|keyspaces| keyspaces.create(index, name))
    }

    /// Drops a keyspace, as the entry at `index` says: nothing in it can be read from now on, except
    /// in views that were taken before. Its space is given back by compaction. Dropping one that is
    /// dropped does nothing.
    ///
    /// # Errors
    ///
    /// If there never was one, or it is the default one.
    pub fn drop_keyspace(&self, index: Index, id: KeyspaceId) -> Result<()> {
        self.change_keyspaces(|keyspaces| keyspaces.drop(index, id))
    }

    fn change_keyspaces<T>(&self, change: impl FnOnce(&mut Keyspaces) -> Result<T>) -> Result<T> {
        let _applier = self.applier.lock().expect("an applier that panicked is not followed");
        let mut keyspaces = Keyspaces::clone(&self.state().keyspaces);
        let answer = change(&mut keyspaces)?;
        self.replace_state(|state| state.keyspaces = Arc::new(keyspaces));
        Ok(answer)
    }

    /// The number of the keyspace of this name, if it is there.
    pub fn keyspace(&self, name: &str) -> Option<KeyspaceId> {
        self.state().keyspaces.find(name)
    }

    /// Whether this keyspace is there: what is written to one that is not has no effect.
    pub fn has_keyspace(&self, id: KeyspaceId) -> bool {
        self.state().keyspaces.is_live(id)
    }

    /// The keyspaces that are there, by number.
    pub fn keyspaces(&self) -> Vec<(KeyspaceId, String)> {
        let state = self.state();
        state.keyspaces.live().map(|keyspace| (keyspace.id, keyspace.name.clone())).collect()
    }

    /// A digest of all that can be read now; see [`View::digest`].
    ///
    /// # Errors
    ///
    /// If a table is damaged or cannot be read.
    pub fn digest(&self) -> Result<u64> {
        self.view().digest()
    }

    /// What the engine holds, and what it has done since it was opened. Never waits for background
    /// work: neither a job's lock nor the manifest's is taken.
    pub fn stats(&self) -> Stats {
        // Each lock in a statement of its own: within one expression the guards would be held together.
        let obsolete_tables = self.obsolete.lock().expect(LIST_IS_SOUND).len();
        let views = self.pins.count();
        let state = self.state();
        let levels = state.version.levels.iter().zip(state.version.bytes);
        let memory = |memtable: &Memtable| u64::try_from(memtable.size()).unwrap_or(u64::MAX);
        let counters = &self.counters;
        Stats {
            levels: levels
                .map(|(level, bytes)| LevelStats { tables: level.len(), bytes })
                .collect(),
            active_bytes: memory(&state.active),
            sealed: state.sealed.len(),
            sealed_bytes: state.sealed.iter().map(|sealed| memory(&sealed.memtable)).sum(),
            block_cache_bytes: u64::try_from(self.cache.size()).unwrap_or(u64::MAX),
            views,
            obsolete_tables,
            flushes: Counters::read(&counters.flushes),
            flushed_bytes: Counters::read(&counters.flushed_bytes),
            compactions: Counters::read(&counters.compactions),
            compaction_read_bytes: Counters::read(&counters.compaction_read_bytes),
            compaction_written_bytes: Counters::read(&counters.compaction_written_bytes),
            moves: Counters::read(&counters.moves),
            tables_removed: Counters::read(&counters.tables_removed),
            manifest: self.manifest_number.load(Ordering::Relaxed),
            compaction_error: self.compaction_damage.read().expect(TEXT_IS_SOUND).clone(),
        }
    }

    /// Whether damage has ended compaction.
    pub(crate) fn is_compaction_damaged(&self) -> bool {
        self.compaction_damage.read().expect(TEXT_IS_SOUND).is_some()
    }

    /// What is read now.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().expect(STATE_IS_SOUND))
    }

    /// Replaces what is read.
    pub(crate) fn replace_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.write().expect(STATE_IS_SOUND);
        let mut changed = State::clone(&state);
        let answer = change(&mut changed);
        let old = std::mem::replace(&mut *state, Arc::new(changed));
        drop(state);
        // What only the old state held is given back after the lock.
        drop(old);
        answer
    }

    /// The manifest, for as long as the guard is held.
    pub(crate) fn manifest(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock().expect("nobody panics while holding the manifest")
    }

    /// The path of a table.
    pub(crate) fn table_path(&self, id: TableId) -> PathBuf {
        self.place.dir.join(crate::table::file_name(id))
    }

    /// Opens a table that was written.
    pub(crate) fn open_table(&self, meta: &TableMeta) -> Result<Arc<Table>> {
        open_table(&self.place.disk, &self.place.dir, meta, &self.cache)
    }
}

/// Why the lock of the state is never poisoned.
const STATE_IS_SOUND: &str = "nobody panics while holding the state, which is replaced whole";
/// Why the lock of the text about compaction is never poisoned.
pub(crate) const TEXT_IS_SOUND: &str = "nobody panics while holding a text";
/// Why the locks of lists of tables are never poisoned.
pub(crate) const LIST_IS_SOUND: &str = "nobody panics while holding a list of tables";

fn open_table(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    meta: &TableMeta,
    cache: &Arc<BlockCache>,
) -> Result<Arc<Table>> {
    Table::open(disk, dir, meta.clone(), Arc::clone(cache)).map_err(|error| match error {
        crate::Error::Wal(error) => {
            or_missing(&dir.join(crate::table::file_name(meta.id)), error).into()
        }
        other => other,
    })
}

/// What the disk has said to opening a table: if there is none, one is missing.
pub(crate) fn or_missing(path: &Path, error: strandline_wal::Error) -> strandline_wal::Error {
    match error.is_not_found() {
        true => {
            let expected = "a table that the manifest names".into();
            crate::manifest::replay::corruption(path, 0, expected, "no such file".into())
        }
        false => error,
    }
}

/// Removes what a crash left behind. What cannot be removed does no harm, and is tried again the
/// next time; files with names that are not ours are left alone.
pub(crate) fn remove_orphans(disk: &dyn Disk, dir: &Path, names: &[String], manifest: &Manifest) {
    use crate::manifest::{CURRENT_TEMPORARY, manifest_number, table_of_name};
    let in_use: std::collections::BTreeSet<TableId> =
        manifest.contents().tables().map(|(_, table)| table.id).collect();
    for name in names {
        let is_orphan = match (table_of_name(name), manifest_number(name)) {
            (Some(id), _) => !in_use.contains(&id),
            (_, Some(number)) => number != manifest.number(),
            _ => name == CURRENT_TEMPORARY,
        };
        if is_orphan {
            let _ = disk.remove(&dir.join(name));
        }
    }
}
