//! The sixteen databases: which space each lives in, and how many keys it has.
//!
//! Emptying a database does not touch its keys. It gives the database a space that was never used,
//! which takes effect at the entry's index, for all keys at once, in constant time. What lies in
//! spaces that no database has any more is garbage; it is deleted in slices by entries of its own
//! (see [`crate::housekeeping`]), and nothing can read it in between. Swapping two databases swaps
//! their spaces.
//!
//! This is the machine's own state, changed by entries only. [`Directory`] is its copy for
//! readers, brought up to date when the entries become visible.
//!
//! ```text
//! 0        4            8       12    20
//! +--------+------------+-------+-----+---------+
//! | version| next space | space | keys| expires | ... 16 times the last three
//! +--------+------------+-------+-----+---------+
//! ```

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use strandline_engine::{Error, Result};

/// How many databases there are: Redis' default.
pub const DATABASE_COUNT: usize = 16;

const STATE_VERSION: u32 = 1;
const HEADER_LEN: usize = 8;
const DATABASE_LEN: usize = 20;
/// Bytes of the encoded state.
pub const STATE_LEN: usize = HEADER_LEN + DATABASE_COUNT * DATABASE_LEN;

/// One database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Database {
    /// Where its keys lie.
    pub space: u32,
    /// How many keys it has; those count that have expired but are not deleted yet.
    pub keys: u64,
    /// How many of them have an expiry.
    pub expires: u64,
}

/// All databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Databases {
    /// By number.
    list: [Database; DATABASE_COUNT],
    /// The smallest space that was never used.
    ///
    /// Invariant: above every space in `list`.
    next_space: u32,
}

impl Default for Databases {
    fn default() -> Self {
        let mut list = [Database { space: 0, keys: 0, expires: 0 }; DATABASE_COUNT];
        let mut next_space = 0;
        for database in &mut list {
            database.space = next_space;
            next_space += 1;
        }
        Self { list, next_space }
    }
}

impl Databases {
    /// The database of this number.
    pub fn get(&self, number: usize) -> &Database {
        &self.list[number]
    }

    /// The database of this number.
    pub fn get_mut(&mut self, number: usize) -> &mut Database {
        &mut self.list[number]
    }

    /// Empties a database; returns whether it had anything.
    ///
    /// # Panics
    ///
    /// After 2^32 times.
    pub fn flush(&mut self, number: usize) -> bool {
        if self.list[number].keys == 0 {
            return false;
        }
        self.list[number] = Database { space: self.next_space, keys: 0, expires: 0 };
        self.next_space =
            self.next_space.checked_add(1).expect("databases are emptied fewer than 2^32 times");
        true
    }

    /// Exchanges two databases.
    pub fn swap(&mut self, one: usize, other: usize) {
        self.list.swap(one, other);
    }

    /// Which database lives in `space`.
    pub fn in_space(&self, space: u32) -> Option<usize> {
        self.list.iter().position(|database| database.space == space)
    }

    /// The state as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(STATE_LEN);
        bytes.extend_from_slice(&STATE_VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.next_space.to_le_bytes());
        for database in &self.list {
            bytes.extend_from_slice(&database.space.to_le_bytes());
            bytes.extend_from_slice(&database.keys.to_le_bytes());
            bytes.extend_from_slice(&database.expires.to_le_bytes());
        }
        bytes
    }

    /// The state that [`encode`](Databases::encode) gave.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let malformed = |offset, reason: String| Error::Malformed {
            what: "state of the databases",
            offset,
            reason,
        };
        if bytes.len() != STATE_LEN {
            return Err(malformed(0, format!("{} bytes where {STATE_LEN} belong", bytes.len())));
        }
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != STATE_VERSION {
            return Err(malformed(0, format!("version {} is not known", u32_at(0))));
        }
        let mut databases = Self { next_space: u32_at(4), ..Self::default() };
        for (number, database) in databases.list.iter_mut().enumerate() {
            let at = HEADER_LEN + number * DATABASE_LEN;
            *database =
                Database { space: u32_at(at), keys: u64_at(at + 4), expires: u64_at(at + 12) };
            if database.space >= databases.next_space {
                return Err(malformed(at, format!("space {} was never given", database.space)));
            }
        }
        Ok(databases)
    }
}

/// The databases as readers see them.
#[derive(Debug)]
pub struct Directory {
    /// By number; each is copied field by field, which is enough for readers of one of them.
    list: [(AtomicU32, AtomicU64, AtomicU64); DATABASE_COUNT],
}

impl Directory {
    /// The same as `databases`.
    pub fn new(databases: &Databases) -> Self {
        let directory = Self { list: Default::default() };
        directory.publish(databases);
        directory
    }

    /// Takes over what has changed.
    pub fn publish(&self, databases: &Databases) {
        for (shared, database) in self.list.iter().zip(&databases.list) {
            shared.0.store(database.space, Ordering::Release);
            shared.1.store(database.keys, Ordering::Release);
            shared.2.store(database.expires, Ordering::Release);
        }
    }

    /// The database of this number.
    pub fn get(&self, number: usize) -> Database {
        let (space, keys, expires) = &self.list[number];
        Database {
            space: space.load(Ordering::Acquire),
            keys: keys.load(Ordering::Acquire),
            expires: expires.load(Ordering::Acquire),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_comes_back() {
        let mut databases = Databases::default();
        databases.get_mut(3).keys = 1 << 40;
        databases.get_mut(3).expires = 7;
        assert!(databases.flush(3));
        assert!(!databases.flush(3), "an empty database needs no new space");
        databases.get_mut(4).keys = 1 << 40;
        databases.swap(3, 5);
        assert_eq!(databases.get(5).space, 16);
        assert_eq!(databases.in_space(3), None);
        let bytes = databases.encode();
        assert_eq!(Databases::decode(&bytes).unwrap(), databases);
        assert!(Databases::decode(&bytes[1..]).is_err());
    }
}
