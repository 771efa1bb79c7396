//! What a write command sees and changes while its entry is applied.
//!
//! Time is the entry's and so is randomness, so that every replica computes the same. A key that has
//! expired at the entry's time is treated as absent, and is overwritten or deleted when met.

use strandline_engine::{Changes, Db, Index, KeyspaceId, Read, Result, keyspace_create_entry};
use strandline_replication::Sessions;

use crate::cache::{Cache, Entry, Found};
use crate::databases::Databases;
use crate::key;
use crate::value::{Stored, string_header};

/// The keyspace of the keys.
pub const DATA: KeyspaceId = KeyspaceId::DEFAULT;
/// The keyspace that orders keys by their expiry: the first that is ever created.
pub const EXPIRY: KeyspaceId = KeyspaceId(1);
/// The keyspace of the first answers of numbered requests: the second.
pub const ANSWERS: KeyspaceId = KeyspaceId(2);
/// The keyspaces that every server's state needs beside the default one, in the order of creation.
pub const KEYSPACES: [(&str, KeyspaceId); 2] = [("expiry", EXPIRY), ("answers", ANSWERS)];

/// The entries that create those which are not there: the first of every server's log.
pub fn keyspaces_missing(db: &Db) -> Vec<Vec<u8>> {
    let missing = KEYSPACES.iter().filter(|(name, _)| db.keyspace(name).is_none());
    missing.map(|(name, _)| keyspace_create_entry(name).expect("a short name is a name")).collect()
}

/// One write command in execution.
pub struct Apply<'a, 'c> {
    /// The state that it reads and changes.
    pub changes: &'a mut Changes<'c>,
    /// What was written lately.
    pub cache: &'a Cache,
    /// Takes what is written, to be put into the cache when it is visible.
    pub written: &'a mut Vec<Entry>,
    /// Memory to work in.
    pub scratch: &'a mut Vec<u8>,
    /// Where the databases are.
    pub databases: &'a mut Databases,
    /// The sessions whose requests are numbered.
    pub sessions: &'a mut Sessions,
    /// In which database.
    pub database: usize,
    /// The entry's index.
    pub index: Index,
    /// The entry's time.
    pub time_ms: u64,
}

/// A place for a value: a key, and what is there.
#[derive(Debug)]
pub struct Place {
    /// In which database.
    database: usize,
    /// The data key.
    data_key: Vec<u8>,
    /// What is stored there, expired or not.
    stored: Option<Stored>,
    /// Whether that has expired.
    expired: bool,
}

impl Place {
    /// What a client sees there.
    pub fn live(&self) -> Option<&Stored> {
        if self.expired { None } else { self.stored.as_ref() }
    }

    /// The bytes that a client sees there; none if there are not any.
    pub fn payload(&self) -> &[u8] {
        self.live().map_or(&[], Stored::payload)
    }

    /// When what is stored there expires, whether it has or not.
    pub fn stored_expire_ms(&self) -> Option<u64> {
        self.stored.as_ref().and_then(Stored::expire_ms)
    }

    /// When what a client sees there expires.
    pub fn expire_ms(&self) -> Option<u64> {
        self.live().and_then(Stored::expire_ms)
    }
}

impl Apply<'_, '_> {
    /// Looks up a key of the current database.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn find(&self, user_key: &[u8]) -> Result<Place> {
        self.find_in(self.database, user_key)
    }

    /// Looks up a key of any database.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn find_in(&self, database: usize, user_key: &[u8]) -> Result<Place> {
        let data_key = key::data_key(self.databases.get(database).space, user_key);
        // What this entry has written itself is not in the cache any more.
        let stored = match self.cache.find(&data_key) {
            Found::Hit(stored) => stored,
            Found::Miss(_) => self.changes.get(DATA, &data_key)?.map(Stored::decode).transpose()?,
        };
        let expired = stored.as_ref().is_some_and(|stored| stored.is_expired(self.time_ms));
        Ok(Place { database, data_key, stored, expired })
    }

    /// Stores a string. An expiry that has passed deletes the key instead.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn put(&mut self, place: &Place, payload: &[u8], expire_ms: Option<u64>) -> Result<()> {
        if expire_ms.is_some_and(|expire_ms| expire_ms <= self.time_ms) {
            return self.delete(place);
        }
        let header = string_header(expire_ms);
        self.changes.put_parts(DATA, &place.data_key, [&header, payload])?;
        self.cache.begin_write(&place.data_key);
        let entry = Entry::with_scratch(&place.data_key, Some([&header, payload]), self.scratch);
        self.written.push(entry);
        let before = place.stored.as_ref().map(Stored::expire_ms);
        if before.is_none() {
            self.databases.get_mut(place.database).keys += 1;
        }
        self.change_expiry(place, before.flatten(), expire_ms)
    }

    /// Deletes the key, if it is there.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn delete(&mut self, place: &Place) -> Result<()> {
        let Some(stored) = &place.stored else { return Ok(()) };
        self.changes.delete(DATA, &place.data_key)?;
        self.cache.begin_write(&place.data_key);
        self.written.push(Entry::new(&place.data_key, None));
        self.databases.get_mut(place.database).keys -= 1;
        self.change_expiry(place, stored.expire_ms(), None)
    }

    fn change_expiry(
        &mut self,
        place: &Place,
        before: Option<u64>,
        after: Option<u64>,
    ) -> Result<()> {
        if before == after {
            return Ok(());
        }
        if let Some(before) = before {
            self.changes.delete(EXPIRY, &key::expiry_key(before, &place.data_key))?;
            self.databases.get_mut(place.database).expires -= 1;
        }
        if let Some(after) = after {
            self.changes.put(EXPIRY, &key::expiry_key(after, &place.data_key), &[])?;
            self.databases.get_mut(place.database).expires += 1;
        }
        Ok(())
    }
}
