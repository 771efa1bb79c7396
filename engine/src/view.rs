//! Views: consistent reads at an index, for as long as anyone wants.
//!
//! A view holds the memtables and the version that were there when it was taken, and reads in them
//! at its index; whatever is written, flushed, compacted or dropped later leaves it as it is. It
//! borrows nothing, so it can be kept, sent to other threads, and iterated while writes go on. It
//! keeps the files that it needs from being removed: a view that is held for ever costs space for
//! ever, which the statistics show.
//!
//! Every view also registers its index. Compaction keeps what readers at registered indexes can see,
//! so an index that is pinned stays readable in later versions too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::flush::Sealed;
use crate::iter::Cursor;
use crate::iter::merge::MergeCursor;
use crate::iter::visible::{Visible, visible_value};
use crate::key::full_key;
use crate::keyspace::Keyspaces;
use crate::manifest::version::Version;
use crate::memtable::Memtable;
use crate::{Index, KeyspaceId, Pair, Range, Read, Result, Value};

/// Everything that is read, at one moment: replaced as a whole, never changed, except that the
/// active memtable grows.
#[derive(Clone)]
pub(crate) struct State {
    /// The memtable that is written.
    pub active: Arc<Memtable>,
    /// The memtables that wait for their flush, newest first.
    pub sealed: Vec<Arc<Sealed>>,
    /// The tables.
    pub version: Arc<Version>,
    /// The catalogue as of the last entry.
    pub keyspaces: Arc<Keyspaces>,
    /// Why the state is hollow, if it is: then nothing is read.
    pub missing: Option<Arc<strandline_wal::Error>>,
}

impl State {
    /// The value of `key` as of `at`, which is not below what was flushed.
    pub(crate) fn get(&self, keyspace: KeyspaceId, key: &[u8], at: Index) -> Result<Option<Value>> {
        self.check()?;
        if !self.keyspaces.is_live(keyspace) {
            return Ok(None);
        }
        let full_key = full_key(keyspace, key);
        for memtable in self.memtables() {
            if let Some(newest) = memtable.get(&full_key, at) {
                return visible_value(newest.kind, || newest.value);
            }
        }
        match self.version.get(&full_key, at)? {
            Some(found) => visible_value(found.kind, || found.value),
            None => Ok(None),
        }
    }

    /// The entry at or below `at` that changed `key` last.
    pub(crate) fn last_change(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        at: Index,
    ) -> Result<Option<Index>> {
        self.check()?;
        let full_key = full_key(keyspace, key);
        let newest = self.memtables().find_map(|memtable| memtable.get(&full_key, at));
        match newest {
            Some(newest) => Ok(Some(newest.index)),
            None => Ok(self.version.get(&full_key, at)?.map(|found| found.index)),
        }
    }

    /// Whether there is something to be read in.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.missing {
            Some(error) => Err(error.duplicate().into()),
            None => Ok(()),
        }
    }

    fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        std::iter::once(&*self.active).chain(self.sealed.iter().map(|sealed| &*sealed.memtable))
    }

    fn range(&self, keyspace: KeyspaceId, range: &Range, at: Index) -> Pairs<'_> {
        if let Err(error) = self.check() {
            return Box::new(std::iter::once(Err(error)));
        }
        if !self.keyspaces.is_live(keyspace) {
            return Box::new(std::iter::empty());
        }
        let mut cursors: Vec<Box<dyn Cursor + '_>> = Vec::new();
        for memtable in self.memtables() {
            cursors.push(Box::new(memtable.cursor()));
        }
        for cursor in self.version.cursors() {
            cursors.push(cursor);
        }
        Box::new(Visible::new(MergeCursor::new(cursors), at, keyspace, range))
    }
}

type Pairs<'a> = Box<dyn Iterator<Item = Result<Pair>> + 'a>;

/// The indexes at which views are held, with how many each.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    held: Mutex<BTreeMap<Index, usize>>,
}

impl Pins {
    /// Pins the index that `now` says, which is read while no floor can be taken.
    fn pin(self: &Arc<Self>, now: impl FnOnce() -> Index) -> Pin {
        let mut held = self.held.lock().expect("nobody panics while holding the pins");
        let index = now();
        *held.entry(index).or_insert(0) += 1;
        Pin { pins: Arc::clone(self), index }
    }

    /// The newest index that all readers, held and to come, are at or above.
    pub(crate) fn floor(&self, now: impl FnOnce() -> Index) -> Index {
        let held = self.held.lock().expect("nobody panics while holding the pins");
        let now = now();
        held.keys().next().map_or(now, |oldest| now.min(*oldest))
    }

    /// How many views are held.
    pub(crate) fn count(&self) -> usize {
        self.held.lock().expect("nobody panics while holding the pins").values().sum()
    }
}

/// One held index.
struct Pin {
    pins: Arc<Pins>,
    index: Index,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.pins.held.lock().expect("nobody panics while holding the pins");
        let count = held.get_mut(&self.index).expect("a pin is registered until it is dropped");
        *count -= 1;
        if *count == 0 {
            held.remove(&self.index);
        }
    }
}

/// A consistent read at an index.
pub struct View {
    state: Arc<State>,
    pin: Pin,
}

impl std::fmt::Debug for View {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("View").field("index", &self.index()).finish_non_exhaustive()
    }
}

impl View {
    /// A view of `state` at the index that `applied` says. The caller makes sure that no memtable is
    /// sealed meanwhile, so that the state holds everything up to that index.
    pub(crate) fn new(
        state: Arc<State>,
        pins: &Arc<Pins>,
        applied: impl FnOnce() -> Index,
    ) -> View {
        let pin = pins.pin(applied);
        View { state, pin }
    }

    /// The entry up to which this view sees everything, and after which nothing.
    pub fn index(&self) -> Index {
        self.pin.index
    }

    /// What the view reads in.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// The number of the keyspace of this name, if it was there at the view's index.
    pub fn keyspace(&self, name: &str) -> Option<KeyspaceId> {
        self.state.keyspaces.find(name)
    }

    /// The keyspaces that were there at the view's index, by number.
    pub fn keyspaces(&self) -> Vec<(KeyspaceId, String)> {
        let live = self.state.keyspaces.live();
        live.map(|keyspace| (keyspace.id, keyspace.name.clone())).collect()
    }

    /// A digest of all that can be seen: equal for equal keyspaces, keys and values, whatever tables
    /// and memtables they lie in, and whatever entries wrote them. Reads everything.
    ///
    /// # Errors
    ///
    /// If a table is damaged or cannot be read.
    pub fn digest(&self) -> Result<u64> {
        let mut digest = Digest::new();
        for (id, name) in self.keyspaces() {
            digest.add(&id.0.to_le_bytes());
            digest.add(name.as_bytes());
            for pair in self.range(id, Range::all()) {
                let (key, value) = pair?;
                digest.add(&key);
                digest.add(&value);
            }
        }
        Ok(digest.finish())
    }
}

impl Read for View {
    fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Value>> {
        self.state.get(keyspace, key, self.index())
    }

    fn range<'a>(
        &'a self,
        keyspace: KeyspaceId,
        range: Range,
    ) -> Box<dyn Iterator<Item = Result<Pair>> + 'a> {
        self.state.range(keyspace, &range, self.index())
    }
}

/// A hash over a sequence of byte strings: FNV-1a with 64 bits over each one's length and bytes. Not
/// against people who want collisions; it compares replicas that trust each other.
struct Digest(u64);

impl Digest {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    fn new() -> Self {
        Self(Self::OFFSET)
    }

    fn add(&mut self, bytes: &[u8]) {
        let len = u64::try_from(bytes.len()).expect("lengths fit 64 bits").to_le_bytes();
        for byte in len.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(Self::PRIME);
        }
    }

    fn finish(self) -> u64 {
        self.0
    }
}
