//! What the edits of a manifest add up to: which tables at which level, how far they go, and the
//! catalogue of keyspaces. No open files; [`Version`](super::version::Version) has those.

use std::collections::BTreeMap;

use super::LEVELS;
use super::edit::{Edit, Flushed};
use crate::Index;
use crate::keyspace::Keyspaces;
use crate::table::{TableId, TableMeta};

/// Tables in one edit of a snapshot: keeps a record far below the largest payload even if all keys
/// are as long as keys can be.
const TABLES_PER_EDIT: usize = 256;

/// The sum of edits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The tables of each level.
    pub levels: [BTreeMap<TableId, TableMeta>; LEVELS],
    /// Everything up to here is in tables.
    pub flushed: Index,
    /// The machine's state as of `flushed`.
    pub machine_state: Vec<u8>,
    /// The catalogue as of `flushed`.
    pub keyspaces: Keyspaces,
    /// A number that no table has had yet, nor any larger one.
    pub next_table: u64,
}

impl Contents {
    /// Nothing: what a new manifest says.
    pub(crate) fn new() -> Self {
        Self {
            levels: std::array::from_fn(|_| BTreeMap::new()),
            flushed: Index(0),
            machine_state: Vec::new(),
            keyspaces: Keyspaces::new(),
            next_table: 1,
        }
    }

    /// Whether the tables of an edit fit, which must be known before it is written.
    ///
    /// # Errors
    ///
    /// Why they do not, as text for a report of damage.
    pub(crate) fn check(&self, edit: &Edit) -> Result<(), String> {
        for (level, id) in &edit.removed {
            if !self.levels[usize::from(*level)].contains_key(id) {
                return Err(format!("removes table {} from level {level}: it is not there", id.0));
            }
        }
        for (_, table) in &edit.added {
            let is_moved = edit.removed.iter().any(|(_, id)| *id == table.id);
            if !is_moved && self.levels.iter().any(|tables| tables.contains_key(&table.id)) {
                return Err(format!("adds table {}, which is there already", table.id.0));
            }
            if table.id.0 >= edit.next_table.max(self.next_table) {
                return Err(format!("adds table {}, a number not yet given", table.id.0));
            }
        }
        match &edit.flushed {
            Some(flushed) if flushed.index < self.flushed => {
                Err(format!("flushed goes back from {} to {}", self.flushed, flushed.index))
            }
            _ => Ok(()),
        }
    }

    /// Takes an edit in.
    ///
    /// # Errors
    ///
    /// Why it does not fit, as text for a report of damage; the contents are then unusable.
    pub(crate) fn apply(&mut self, edit: &Edit) -> Result<(), String> {
        self.check(edit)?;
        for (level, id) in &edit.removed {
            self.levels[usize::from(*level)].remove(id);
        }
        for (level, table) in &edit.added {
            self.levels[usize::from(*level)].insert(table.id, table.clone());
        }
        if let Some(flushed) = &edit.flushed {
            self.flushed = flushed.index;
            self.machine_state.clone_from(&flushed.machine_state);
        }
        for keyspace in &edit.keyspaces {
            self.keyspaces.put(keyspace.clone())?;
        }
        self.next_table = self.next_table.max(edit.next_table);
        Ok(())
    }

    /// Edits that add up to this, starting from nothing.
    pub(crate) fn as_edits(&self) -> Vec<Edit> {
        let first = Edit {
            next_table: self.next_table,
            flushed: Some(Flushed {
                index: self.flushed,
                machine_state: self.machine_state.clone(),
            }),
            keyspaces: self.keyspaces.changed_since(&Keyspaces::new()),
            ..Edit::default()
        };
        let mut edits = vec![first];
        let tables: Vec<_> = self.tables().map(|(level, table)| (level, table.clone())).collect();
        for added in tables.chunks(TABLES_PER_EDIT) {
            let next_table = self.next_table;
            edits.push(Edit { next_table, added: added.to_vec(), ..Edit::default() });
        }
        edits
    }

    /// All tables, with their level.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (u8, &TableMeta)> {
        (0..)
            .zip(&self.levels)
            .flat_map(|(level, tables)| tables.values().map(move |table| (level, table)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::edit::tests::sample;

    #[test]
    fn edits_add_up_and_can_be_written_again() {
        let mut contents = Contents::new();
        let mut edit = sample();
        edit.removed.clear();
        contents.apply(&edit).unwrap();
        let mut again = Contents::new();
        for edit in contents.as_edits() {
            again.apply(&edit).unwrap();
        }
        assert_eq!(contents, again);
        assert!(contents.apply(&sample()).unwrap_err().contains("removes table 2"));
        assert!(again.apply(&edit).unwrap_err().contains("there already"));
    }
}
