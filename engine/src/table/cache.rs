//! The block cache: decompressed blocks, bounded in bytes, shared by all tables of a store.
//!
//! Only blocks that had to be decompressed are kept here; the others are read in place from the
//! mapped file and cached by the operating system.
//!
//! The cache is divided into shards, each with its own lock and its share of the bytes. A shard evicts
//! by CLOCK: a hit marks the block, a hand goes round and drops the first block that is not marked,
//! taking away marks as it passes. A hit so needs only a shared lock and one store. New blocks are
//! not marked: one pass over everything, as a range read makes, drops itself first.
//!
//! A block is known by who opened its table and by its offset. The owner's number is given anew each
//! time a table is opened, so a block cannot outlive its file under the same name: after a restore,
//! or in a second store that shares the cache, table 12 may be another file.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::findings::Findings;

/// Locks of a large cache: many more than threads that read at once.
const SHARDS_MAX: usize = 16;

/// A shard has at least this many bytes, so that blocks well over the usual size still fit.
const SHARD_SIZE_MIN: usize = 512 << 10;

/// Memory of an entry besides its bytes: slot, map entry, allocation headers; counted in the bound.
const ENTRY_OVERHEAD: usize = 128;

/// A decompressed block.
#[derive(Debug)]
pub(super) struct DecodedBlock(pub(super) Box<[u8]>);

impl AsRef<[u8]> for DecodedBlock {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Who opened a table, and a block's offset in it.
type Key = (u64, u64);

/// Decompressed blocks, bounded in bytes.
#[derive(Debug)]
pub(crate) struct BlockCache {
    shards: Box<[RwLock<Shard>]>,
    /// The next number for one who opens a table.
    owner_next: AtomicU64,
    /// What was found damaged in tables that read through the cache.
    pub(crate) findings: Findings,
}

#[derive(Debug)]
struct Shard {
    slots: Vec<Option<Slot>>,
    /// Invariant: holds for every full slot its key, and nothing else.
    places: HashMap<Key, usize, BuildHasherDefault<KeyHasher>>,
    /// Invariant: exactly the empty slots.
    free: Vec<usize>,
    /// The slot that the next eviction looks at first.
    hand: usize,
    /// Invariant: the sum of all slots' charges, at most `size_max`.
    size: usize,
    size_max: usize,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    block: Arc<DecodedBlock>,
    /// Whether it was read since the hand passed.
    marked: AtomicBool,
}

impl Slot {
    fn charge(&self) -> usize {
        charge(&self.block)
    }
}

fn charge(block: &DecodedBlock) -> usize {
    block.0.len() + ENTRY_OVERHEAD
}

impl BlockCache {
    /// A cache of at most `capacity_bytes`; 0 keeps nothing.
    pub(crate) fn new(capacity_bytes: usize) -> Arc<Self> {
        let shards = (capacity_bytes / SHARD_SIZE_MIN).clamp(1, SHARDS_MAX);
        let shard = || {
            RwLock::new(Shard {
                slots: Vec::new(),
                places: HashMap::default(),
                free: Vec::new(),
                hand: 0,
                size: 0,
                size_max: capacity_bytes / shards,
            })
        };
        Arc::new(Self {
            shards: (0..shards).map(|_| shard()).collect(),
            owner_next: AtomicU64::new(0),
            findings: Findings::default(),
        })
    }

    /// How many bytes are kept now.
    pub(crate) fn size(&self) -> usize {
        let size =
            |shard: &RwLock<Shard>| shard.read().unwrap_or_else(PoisonError::into_inner).size;
        self.shards.iter().map(size).sum()
    }

    /// A number for one who opens a table.
    pub(super) fn owner(&self) -> u64 {
        self.owner_next.fetch_add(1, Ordering::Relaxed)
    }

    /// The block, if it is here.
    pub(super) fn get(&self, key: Key) -> Option<Arc<DecodedBlock>> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        let slot = shard.slots[*shard.places.get(&key)?].as_ref()?;
        // Storing only what changes keeps a hot block's cache line shared between the cores.
        if !slot.marked.load(Ordering::Relaxed) {
            slot.marked.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&slot.block))
    }

    /// Keeps a block, at the expense of others. One that is larger than a shard is not kept.
    pub(super) fn insert(&self, key: Key, block: &Arc<DecodedBlock>) {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        shard.insert(key, block);
        debug_assert!(shard.size <= shard.size_max, "the cache keeps its bound");
    }

    fn shard(&self, key: Key) -> &RwLock<Shard> {
        let mut hasher = KeyHasher::default();
        std::hash::Hash::hash(&key, &mut hasher);
        let shards = u64::try_from(self.shards.len()).expect("at most SHARDS_MAX");
        // The map uses the lowest and the highest seven bits; these lie between.
        let shard = (hasher.finish() >> 32) % shards;
        &self.shards[usize::try_from(shard).expect("less than SHARDS_MAX")]
    }
}

impl Shard {
    fn insert(&mut self, key: Key, block: &Arc<DecodedBlock>) {
        let charge = charge(block);
        // Another reader may have been faster; both have the same bytes.
        if charge > self.size_max || self.places.contains_key(&key) {
            return;
        }
        while self.size + charge > self.size_max {
            self.evict_one();
        }
        let slot = Slot { key, block: Arc::clone(block), marked: AtomicBool::new(false) };
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        assert!(self.slots[place].is_none(), "a free slot is empty");
        self.slots[place] = Some(slot);
        self.places.insert(key, place);
        self.size += charge;
    }

    /// Drops the first block from the hand on that is not marked: within two rounds, as the first
    /// one takes all marks away and the lock is exclusive.
    fn evict_one(&mut self) {
        assert!(self.size > 0, "there is a block to drop");
        loop {
            let place = self.hand % self.slots.len();
            self.hand = place + 1;
            let Some(slot) = &mut self.slots[place] else { continue };
            if std::mem::take(slot.marked.get_mut()) {
                continue;
            }
            let dropped = self.slots[place].take().expect("found full just above");
            self.places.remove(&dropped.key);
            self.free.push(place);
            self.size -= dropped.charge();
            return;
        }
    }
}

/// Hashes pairs of our own numbers. Nobody outside chooses them, so it need not resist anyone.
#[derive(Clone, Copy, Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0.rotate_left(29) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0xD1B5_4A32_D192_ED03)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(len: usize) -> Arc<DecodedBlock> {
        Arc::new(DecodedBlock(vec![0; len].into()))
    }

    #[test]
    fn the_bound_is_kept_whatever_comes() {
        for capacity in [0, 1_000, 600_000, 2 << 20] {
            let cache = BlockCache::new(capacity);
            for round in 0..2_000_u64 {
                let len = usize::try_from(round * 7919 % 5_000).unwrap();
                cache.insert((round % 7, round), &block(len));
                cache.get((round % 7, round.saturating_sub(3)));
                assert!(cache.size() <= capacity);
            }
            cache.insert((9, 9), &block(capacity + 1));
            assert!(cache.get((9, 9)).is_none(), "larger than all of the cache");
            assert!(cache.size() <= capacity);
        }
    }

    #[test]
    fn what_is_read_stays_and_what_is_not_goes() {
        let cache = BlockCache::new(100_000);
        cache.insert((1, 0), &block(1_000));
        for offset in 1..1_000 {
            cache.insert((1, offset), &block(1_000));
            assert!(cache.get((1, 0)).is_some(), "the block that is read all the time is there");
        }
        assert!(cache.get((1, 1)).is_none(), "the one that was read once is not");
        assert!(cache.get((2, 0)).is_none(), "nor that of another owner");
    }
}
