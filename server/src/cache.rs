//! Values that were read or written lately, by data key: so that most reads of one key, and most
//! looks at what a write replaces, cost one look into a hash table.
//!
//! What is found here is exactly what the newest applied entry left. Three rules make it so:
//!
//! - Before an entry becomes visible, the machine takes the keys that it writes out of the cache and
//!   marks their shard as *being written* ([`Cache::begin_write`]).
//! - When the entry is visible the machine puts in what it wrote and takes the mark away
//!   ([`Cache::finish_write`]), before anybody is told that the entry is applied.
//! - A reader that finds nothing takes a [`Ticket`] before it reads the store, and what it read is
//!   put in only if no write of the shard has begun in between, and none was under way.
//!
//! So a reader cannot put in what it read before a write after that write, and nobody sees a value,
//! and later an older one.
//!
//! Memory is bounded by two generations: new and used entries live in the younger one; when that
//! has grown to half the bound it becomes the older one, and what is still in the one before is
//! forgotten. Large values are left to the store's own cache of blocks.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::key::hash_in;
use crate::value::Stored;

/// How many parts with a lock of their own there are. The writing thread and a few reading threads
/// seldom meet in one.
const SHARDS: usize = 64;
/// The largest value that is kept here, in bytes: copying a larger one costs more than finding it.
const VALUE_LEN_KEPT_MAX: usize = 8 << 10;
/// What an entry takes beyond its key and value, roughly.
const ENTRY_OVERHEAD: usize = 96;

/// Allows what was read to be put in.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// How many writes of the shard had begun; none if one was under way.
    writes: Option<u64>,
}

/// What the cache knows of a key.
#[derive(Debug)]
pub enum Found {
    /// The newest value, or that there is none.
    Hit(Option<Stored>),
    /// Nothing.
    Miss(Ticket),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Cache {
    shards: Vec<Mutex<Shard>>,
    /// The most bytes of one generation of one shard.
    generation_len_max: AtomicUsize,
}

/// Takes the hash that is in a data key already.
#[derive(Clone, Debug, Default)]
struct FromKey;

/// See [`FromKey`].
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl BuildHasher for FromKey {
    type Hasher = KeyHasher;
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher::default()
    }
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash_in(bytes);
    }
    fn write_usize(&mut self, _: usize) {}
    fn finish(&self) -> u64 {
        self.0
    }
}

type Generation = HashMap<Box<[u8]>, Option<Stored>, FromKey>;

#[derive(Debug, Default)]
struct Shard {
    young: Generation,
    old: Generation,
    /// The size of `young` in bytes.
    young_len: usize,
    /// How many writes have begun.
    writes: u64,
    /// How many of them are under way.
    writing: usize,
    hits: u64,
    misses: u64,
}

/// What an entry takes, roughly, in bytes.
fn len_of(key: &[u8], value: Option<&Stored>) -> usize {
    key.len() + value.map_or(0, |stored| stored.payload().len()) + ENTRY_OVERHEAD
}

impl Shard {
    fn insert(&mut self, key: Box<[u8]>, value: Option<Stored>, generation_len_max: usize) {
        let len = len_of(&key, value.as_ref());
        if len > generation_len_max {
            self.remove(&key);
            return;
        }
        if self.young_len + len > generation_len_max {
            self.old = std::mem::take(&mut self.young);
            self.young_len = 0;
        }
        self.old.remove(&key);
        let key_len = key.len();
        if let Some(before) = self.young.insert(key, value) {
            let payload_len = before.map_or(0, |stored| stored.payload().len());
            self.young_len -= key_len + payload_len + ENTRY_OVERHEAD;
        }
        self.young_len += len;
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(before) = self.young.remove(key) {
            self.young_len -= len_of(key, before.as_ref());
        } else {
            self.old.remove(key);
        }
    }
}

impl Cache {
    /// Empty, and staying so until it is given room.
    pub fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, generation_len_max: AtomicUsize::new(0) }
    }

    /// Changes how many bytes may be kept.
    pub fn set_len_max(&self, len_max: usize) {
        self.generation_len_max.store(len_max / SHARDS / 2, Ordering::Relaxed);
    }

    fn shard(&self, data_key: &[u8]) -> MutexGuard<'_, Shard> {
        // Bits that the table inside the shard uses last.
        let hash = hash_in(data_key) >> 32;
        let place = usize::try_from(hash).unwrap_or(0) % SHARDS;
        lock(&self.shards[place])
    }

    /// What is known of a key.
    pub fn find(&self, data_key: &[u8]) -> Found {
        let mut shard = self.shard(data_key);
        if let Some(found) = shard.young.get(data_key) {
            let found = found.clone();
            shard.hits += 1;
            return Found::Hit(found);
        }
        if let Some((key, value)) = shard.old.remove_entry(data_key) {
            shard.hits += 1;
            shard.insert(key, value.clone(), self.generation_len_max.load(Ordering::Relaxed));
            return Found::Hit(value);
        }
        shard.misses += 1;
        let writes = (shard.writing == 0).then_some(shard.writes);
        Found::Miss(Ticket { writes })
    }

    /// Puts in what was read from the store after the ticket was taken, if it is still the newest.
    pub fn fill(&self, data_key: &[u8], ticket: Ticket, value: Option<&Stored>) {
        if value.is_some_and(|stored| stored.payload().len() > VALUE_LEN_KEPT_MAX) {
            return;
        }
        // What was read may share memory with a whole block: a copy keeps the value alone.
        let value = value.map(Stored::copy);
        let mut shard = self.shard(data_key);
        if shard.writing == 0 && ticket.writes == Some(shard.writes) {
            let len_max = self.generation_len_max.load(Ordering::Relaxed);
            shard.insert(data_key.into(), value, len_max);
        }
    }

    /// The key is about to be written, by an entry that is not visible yet.
    pub fn begin_write(&self, data_key: &[u8]) {
        let mut shard = self.shard(data_key);
        shard.writes += 1;
        shard.writing += 1;
        shard.remove(data_key);
    }

    /// The entry is visible; what it wrote is put in.
    pub fn finish_write(&self, data_key: Vec<u8>, value: Option<Stored>) {
        let len = value.as_ref().map_or(0, |stored| stored.payload().len());
        let mut shard = self.shard(&data_key);
        assert!(shard.writing > 0, "a write is begun before it is finished");
        shard.writing -= 1;
        if len <= VALUE_LEN_KEPT_MAX {
            let len_max = self.generation_len_max.load(Ordering::Relaxed);
            shard.insert(data_key.into(), value, len_max);
        } else {
            // An earlier write of the same run may have put in what is not the newest any more.
            shard.remove(&data_key);
        }
    }

    /// How often something was found, and how often not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(hits, misses), shard| {
            let shard = lock(shard);
            (hits + shard.hits, misses + shard.misses)
        })
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

/// What this lock guards is whole at every step.
fn lock(mutex: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::data_key;
    use crate::value::encode_string;

    fn stored(text: &str) -> Stored {
        Stored::decode(encode_string(text.as_bytes(), None).into()).unwrap()
    }

    fn cache() -> Cache {
        let cache = Cache::new();
        cache.set_len_max(1 << 20);
        cache
    }

    fn hit(cache: &Cache, key: &[u8]) -> Option<String> {
        match cache.find(key) {
            Found::Hit(found) => {
                let text =
                    found.map(|stored| String::from_utf8(stored.payload().to_vec()).unwrap());
                Some(text.unwrap_or("none".into()))
            }
            Found::Miss(_) => None,
        }
    }

    fn ticket(cache: &Cache, key: &[u8]) -> Ticket {
        match cache.find(key) {
            Found::Miss(ticket) => ticket,
            Found::Hit(_) => panic!("nothing was put in"),
        }
    }

    #[test]
    fn what_was_read_before_a_write_is_not_put_in_after_it() {
        let cache = cache();
        let key = data_key(0, b"a");
        let early = ticket(&cache, &key);
        cache.begin_write(&key);
        let during = ticket(&cache, &key);
        cache.fill(&key, early, Some(&stored("old")));
        cache.fill(&key, during, Some(&stored("old")));
        assert_eq!(hit(&cache, &key), None);
        cache.finish_write(key.clone(), Some(stored("new")));
        cache.fill(&key, early, Some(&stored("old")));
        cache.fill(&key, during, Some(&stored("old")));
        assert_eq!(hit(&cache, &key).as_deref(), Some("new"));
    }

    #[test]
    fn a_read_without_a_write_is_put_in_and_so_is_absence() {
        let cache = cache();
        let key = data_key(0, b"a");
        let first = ticket(&cache, &key);
        cache.fill(&key, first, None);
        assert_eq!(hit(&cache, &key).as_deref(), Some("none"));
        cache.begin_write(&key);
        assert_eq!(hit(&cache, &key), None);
    }

    #[test]
    fn large_values_replace_nothing_and_leave_nothing_stale() {
        let cache = cache();
        let key = data_key(0, b"a");
        cache.begin_write(&key);
        cache.begin_write(&key);
        cache.finish_write(key.clone(), Some(stored("small")));
        cache.finish_write(key.clone(), Some(stored(&"x".repeat(VALUE_LEN_KEPT_MAX + 1))));
        assert_eq!(hit(&cache, &key), None);
    }

    #[test]
    fn memory_is_bounded_and_used_entries_stay() {
        let cache = cache();
        let favourite = data_key(0, b"favourite");
        let first = ticket(&cache, &favourite);
        cache.fill(&favourite, first, Some(&stored("v")));
        for number in 0..100_000u32 {
            let key = data_key(0, &number.to_le_bytes());
            let ticket = ticket(&cache, &key);
            cache.fill(&key, ticket, Some(&stored("v")));
            assert!(hit(&cache, &favourite).is_some());
        }
        let kept: usize = cache
            .shards
            .iter()
            .map(|shard| lock(shard))
            .map(|shard| shard.young.len() + shard.old.len())
            .sum();
        assert!(kept * ENTRY_OVERHEAD <= 1 << 20, "{kept} entries are kept");
        assert!(kept > 1000);
    }
}
