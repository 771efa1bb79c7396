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

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::key::hash_in;
use crate::value::Stored;

/// How many parts with a lock of their own there are. The writing thread and a few reading threads
/// seldom meet in one.
const SHARDS: usize = 64;
/// The largest value that is kept here, in bytes: copying a larger one costs more than finding it.
const VALUE_LEN_KEPT_MAX: usize = 8 << 10;
/// What an entry takes beyond its own bytes, roughly.
const ENTRY_OVERHEAD: usize = 64;

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

/// A key and what it has, in one piece of memory: whoever finds it has touched all of it.
///
/// ```text
/// 0         4        5
/// +---------+--------+----------+---------------+
/// | key len | exists | data key | stored value  |
/// +---------+--------+----------+---------------+
/// ```
#[derive(Clone, Debug)]
pub struct Entry(Arc<[u8]>);

/// Bytes of an entry before the key.
const KEY_START: usize = 5;

impl Entry {
    /// A key that has this value, in its stored form, or none.
    pub fn new(data_key: &[u8], value: Option<&[u8]>) -> Self {
        Self::with_scratch(data_key, value.map(|value| [value, &[]]), &mut Vec::new())
    }

    /// As [`new`](Entry::new), of a value in two parts, with memory to work in that the caller keeps for
    /// the next call.
    pub fn with_scratch(data_key: &[u8], value: Option<[&[u8]; 2]>, scratch: &mut Vec<u8>) -> Self {
        let key_len = u32::try_from(data_key.len()).expect("the engine bounds keys");
        scratch.clear();
        scratch.extend_from_slice(&key_len.to_le_bytes());
        scratch.push(u8::from(value.is_some()));
        scratch.extend_from_slice(data_key);
        for part in value.unwrap_or_default() {
            scratch.extend_from_slice(part);
        }
        Self(Arc::from(scratch.as_slice()))
    }

    fn value_start(&self) -> usize {
        let key_len = u32::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3]]);
        KEY_START + usize::try_from(key_len).expect("u32 fits")
    }

    fn key(&self) -> &[u8] {
        &self.0[KEY_START..self.value_start()]
    }

    fn value(&self) -> Option<Stored> {
        (self.0[4] != 0).then(|| Stored::in_cache(self.0.clone(), self.value_start()))
    }

    /// What it takes, roughly, in bytes.
    fn len(&self) -> usize {
        self.0.len() + ENTRY_OVERHEAD
    }
}

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

type Generation = HashSet<Entry, FromKey>;

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

impl Shard {
    fn insert(&mut self, entry: Entry, generation_len_max: usize) {
        let len = entry.len();
        if len > generation_len_max {
            self.remove(entry.key());
            return;
        }
        if self.young_len + len > generation_len_max {
            self.old = std::mem::take(&mut self.young);
            self.young_len = 0;
        }
        self.old.remove(entry.key());
        if let Some(before) = self.young.replace(entry) {
            self.young_len -= before.len();
        }
        self.young_len += len;
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(before) = self.young.take(key) {
            self.young_len -= before.len();
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
        if let Some(entry) = shard.young.get(data_key) {
            let value = entry.value();
            shard.hits += 1;
            return Found::Hit(value);
        }
        if let Some(entry) = shard.old.take(data_key) {
            let value = entry.value();
            shard.hits += 1;
            shard.insert(entry, self.generation_len_max.load(Ordering::Relaxed));
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
        let entry = Entry::new(data_key, value.map(Stored::encoded));
        let mut shard = self.shard(data_key);
        if shard.writing == 0 && ticket.writes == Some(shard.writes) {
            let len_max = self.generation_len_max.load(Ordering::Relaxed);
            shard.insert(entry, len_max);
        }
    }

    /// The key is about to be written, by an entry that is not visible yet.
    pub fn begin_write(&self, data_key: &[u8]) {
        let mut shard = self.shard(data_key);
        shard.writes += 1;
        shard.writing += 1;
        shard.remove(data_key);
    }

    /// The log entry is visible; what it wrote is put in.
    pub fn finish_write(&self, entry: Entry) {
        let mut shard = self.shard(entry.key());
        assert!(shard.writing > 0, "a write is begun before it is finished");
        shard.writing -= 1;
        if entry.len() <= VALUE_LEN_KEPT_MAX {
            let len_max = self.generation_len_max.load(Ordering::Relaxed);
            shard.insert(entry, len_max);
        } else {
            // An earlier write of the same run may have put in what is not the newest any more.
            shard.remove(entry.key());
        }
    }

    /// Forgets everything: another state takes the place of the one that was read. What is being read
    /// meanwhile is not put in.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.writes += 1;
            shard.young.clear();
            shard.old.clear();
            shard.young_len = 0;
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

    fn entry(key: &[u8], text: &str) -> Entry {
        Entry::new(key, Some(&encode_string(text.as_bytes(), None)))
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
        cache.finish_write(entry(&key, "new"));
        cache.fill(&key, early, Some(&stored("old")));
        cache.fill(&key, during, Some(&stored("old")));
        assert_eq!(hit(&cache, &key).as_deref(), Some("new"));
    }

    /// A node that took over another state went on to serve values of the one before.
    #[test]
    fn nothing_survives_a_change_of_the_whole_state() {
        let (cache, key) = (cache(), data_key(0, b"key"));
        cache.begin_write(&key);
        cache.finish_write(entry(&key, "old"));
        assert_eq!(hit(&cache, &key), Some("old".into()));
        let other = data_key(0, b"other");
        let begun = ticket(&cache, &other);
        cache.clear();
        assert_eq!(hit(&cache, &key), None);
        cache.fill(&other, begun, Some(&stored("old")));
        assert_eq!(hit(&cache, &other), None, "it was read before");
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
        cache.finish_write(entry(&key, "small"));
        cache.finish_write(entry(&key, &"x".repeat(VALUE_LEN_KEPT_MAX + 1)));
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
