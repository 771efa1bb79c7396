//! The catalogue of keyspaces, by index.
//!
//! Creating and dropping a keyspace is an entry of the log like any other write. So the catalogue is
//! part of the state as of an index: it becomes durable with the flush that covers its index, in the
//! same edit of the manifest, and what came later is replayed from the log. A replayed entry then
//! meets exactly the catalogue that it met the first time. Were a creation durable by itself, an
//! entry replayed before it would see a keyspace that did not exist yet, and a log that lost an
//! unsynced tail would leave a keyspace that nobody created.
//!
//! Numbers are given in the order of creation and never used again; a dropped keyspace stays in the
//! catalogue, which is how compaction knows which cells to leave out. Nothing is assumed of the
//! number of keyspaces but that people create them by hand: thousands, not millions.

use crate::{Error, Index, KeyspaceId, Result};

/// The name of the keyspace that is always there.
pub const KEYSPACE_DEFAULT_NAME: &str = "default";

/// The longest name of a keyspace, in bytes. A name is for people; 255 is what file systems take.
pub const KEYSPACE_NAME_LEN_MAX: usize = 255;

/// One keyspace, there or dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keyspace {
    /// Its number; also its position in the catalogue.
    pub id: KeyspaceId,
    /// What people call it.
    pub name: String,
    /// The entry that created it; 0 for the one that is always there.
    pub created: Index,
    /// The entry that dropped it.
    pub dropped: Option<Index>,
}

/// All keyspaces that were ever created.
///
/// Invariant: a keyspace stands at the position that its number says, and no two that are there
/// have the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keyspaces {
    all: Vec<Keyspace>,
}

impl Keyspaces {
    /// The catalogue of a new engine.
    pub(crate) fn new() -> Self {
        let default = Keyspace {
            id: KeyspaceId::DEFAULT,
            name: KEYSPACE_DEFAULT_NAME.to_owned(),
            created: Index(0),
            dropped: None,
        };
        Self { all: vec![default] }
    }

    /// The number of the keyspace of this name, if it is there.
    pub(crate) fn find(&self, name: &str) -> Option<KeyspaceId> {
        self.live().find(|keyspace| keyspace.name == name).map(|keyspace| keyspace.id)
    }

    /// Whether this keyspace is there.
    pub(crate) fn is_live(&self, id: KeyspaceId) -> bool {
        id == KeyspaceId::DEFAULT || self.get(id).is_some_and(|keyspace| keyspace.dropped.is_none())
    }

    /// Whether this keyspace was there once and is no more.
    pub(crate) fn is_dropped(&self, id: KeyspaceId) -> bool {
        self.get(id).is_some_and(|keyspace| keyspace.dropped.is_some())
    }

    /// Whether any keyspace was dropped.
    pub(crate) fn has_dropped(&self) -> bool {
        self.all.iter().any(|keyspace| keyspace.dropped.is_some())
    }

    /// The keyspaces that are there, by number.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Keyspace> {
        self.all.iter().filter(|keyspace| keyspace.dropped.is_none())
    }

    fn get(&self, id: KeyspaceId) -> Option<&Keyspace> {
        self.all.get(usize::try_from(id.0).ok()?)
    }

    /// The number of the keyspace `name`, created at `index` if it is not there.
    ///
    /// # Errors
    ///
    /// If the name is empty or too long, or there is no number left.
    pub(crate) fn create(&mut self, index: Index, name: &str) -> Result<KeyspaceId> {
        if name.is_empty() || name.len() > KEYSPACE_NAME_LEN_MAX {
            let len = name.len();
            return Err(Error::InvalidOption {
                reason: format!(
                    "a keyspace's name of {len} bytes: names have 1 to {KEYSPACE_NAME_LEN_MAX}"
                ),
            });
        }
        if let Some(id) = self.find(name) {
            return Ok(id);
        }
        let id = match u32::try_from(self.all.len()) {
            // The last number is left out so that every keyspace has a successor.
            Ok(id) if id < u32::MAX => KeyspaceId(id),
            _ => {
                return Err(Error::InvalidOption {
                    reason: "all numbers of keyspaces are used".into(),
                });
            }
        };
        self.all.push(Keyspace { id, name: name.to_owned(), created: index, dropped: None });
        Ok(id)
    }

    /// Drops a keyspace at `index`; one that is dropped already stays as it is.
    ///
    /// # Errors
    ///
    /// If there never was one, or it is the one that is always there.
    pub(crate) fn drop(&mut self, index: Index, id: KeyspaceId) -> Result<()> {
        let position = usize::try_from(id.0).unwrap_or(usize::MAX);
        match self.all.get_mut(position) {
            Some(keyspace) if id != KeyspaceId::DEFAULT => {
                keyspace.dropped.get_or_insert(index);
                Ok(())
            }
            _ => Err(Error::UnknownKeyspace { keyspace: format!("{} that can be dropped", id.0) }),
        }
    }

    /// The catalogue as it was at `index`.
    pub(crate) fn as_of(&self, index: Index) -> Keyspaces {
        let mut all = self.all.clone();
        all.retain(|keyspace| keyspace.created <= index);
        for keyspace in &mut all {
            keyspace.dropped = keyspace.dropped.filter(|dropped| *dropped <= index);
        }
        Self { all }
    }

    /// The keyspaces of this catalogue that `older`, an earlier state of it, does not have alike.
    pub(crate) fn changed_since(&self, older: &Keyspaces) -> Vec<Keyspace> {
        let changed = |keyspace: &&Keyspace| older.get(keyspace.id) != Some(*keyspace);
        self.all.iter().filter(changed).cloned().collect()
    }

    /// Takes over a keyspace as another catalogue has it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as text for a report of damage.
    pub(crate) fn put(&mut self, keyspace: Keyspace) -> std::result::Result<(), String> {
        let position = usize::try_from(keyspace.id.0).unwrap_or(usize::MAX);
        let has_name = (1..=KEYSPACE_NAME_LEN_MAX).contains(&keyspace.name.len());
        let is_taken = self.find(&keyspace.name).is_some_and(|id| id != keyspace.id);
        if !has_name || (is_taken && keyspace.dropped.is_none()) {
            return Err(format!("keyspace {} with a name that it cannot have", keyspace.id.0));
        }
        if position == self.all.len() {
            self.all.push(keyspace);
            return Ok(());
        }
        let is_fixed = keyspace.id == KeyspaceId::DEFAULT;
        match self.all.get_mut(position) {
            Some(old)
                if !is_fixed && old.name == keyspace.name && old.created == keyspace.created =>
            {
                *old = keyspace;
                Ok(())
            }
            _ => Err(format!("keyspace {} where {} are known", keyspace.id.0, self.all.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_in_order_and_never_again() {
        let mut keyspaces = Keyspaces::new();
        let a = keyspaces.create(Index(3), "a").unwrap();
        assert_eq!((a, keyspaces.create(Index(4), "a").unwrap()), (KeyspaceId(1), a));
        keyspaces.drop(Index(5), a).unwrap();
        assert_eq!(keyspaces.find("a"), None);
        assert!(keyspaces.is_dropped(a));
        assert_eq!(keyspaces.create(Index(6), "a").unwrap(), KeyspaceId(2));
        assert!(keyspaces.drop(Index(7), KeyspaceId::DEFAULT).is_err());
        assert!(keyspaces.drop(Index(7), KeyspaceId(9)).is_err());
        assert!(keyspaces.create(Index(7), "").is_err());
    }

    #[test]
    fn the_catalogue_of_an_index_does_not_know_what_came_later() {
        let mut keyspaces = Keyspaces::new();
        let a = keyspaces.create(Index(3), "a").unwrap();
        keyspaces.drop(Index(5), a).unwrap();
        assert_eq!(keyspaces.as_of(Index(2)), Keyspaces::new());
        assert!(keyspaces.as_of(Index(4)).is_live(a));
        assert!(!keyspaces.as_of(Index(5)).is_live(a));
        let older = keyspaces.as_of(Index(4));
        let mut copy = older.clone();
        for keyspace in keyspaces.changed_since(&older) {
            copy.put(keyspace).unwrap();
        }
        assert_eq!(copy, keyspaces);
    }
}
