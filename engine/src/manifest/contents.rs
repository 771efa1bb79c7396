//! What the edits of a manifest add up to: which tables at which level, how far they go, and the
//! catalogue of keyspaces. No open files; [`Version`](super::version::Version) has those.

use std::collections::BTreeMap;

use super::LEVELS;
use super::edit::{Edit, Flushed};
use super::replay::NUMBER_MAX;
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
        if edit.next_table > NUMBER_MAX {
            return Err(format!("table number {}, which is never given", edit.next_table));
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
        let flushed = edit.flushed.as_ref().map_or(self.flushed, |flushed| flushed.index);
        if flushed < self.flushed {
            return Err(format!("flushed goes back from {} to {flushed}", self.flushed));
        }
        if let Some((_, table)) = edit.added.iter().find(|(_, table)| table.index_max > flushed) {
            let (id, index) = (table.id.0, table.index_max);
            return Err(format!("adds table {id}, which goes to {index}, with {flushed} flushed"));
        }
        for keyspace in &edit.keyspaces {
            let dropped = keyspace.dropped.unwrap_or(flushed);
            if keyspace.created > dropped || dropped > flushed {
                let id = keyspace.id.0;
                return Err(format!("keyspace {id} is not one of index {flushed}"));
            }
        }
        Ok(())
    }

    /// Whether the tables of the sorted levels lie side by side, as lookups take for granted.
    ///
    /// # Errors
    ///
    /// Which do not, as text for a report of damage.
    pub(crate) fn check_levels(&self) -> Result<(), String> {
        for (level, tables) in self.levels.iter().enumerate().skip(1) {
            let mut tables: Vec<&TableMeta> = tables.values().collect();
            tables.sort_by(|a, b| a.smallest.cmp(&b.smallest));
            if let Some(pair) = tables.windows(2).find(|pair| pair[0].largest >= pair[1].smallest) {
                let [a, b] = [pair[0].id, pair[1].id];
                return Err(format!("tables {a} and {b} of level {level} overlap"));
            }
        }
        Ok(())
    }

    /// The same without any table.
    pub(crate) fn without_tables(self) -> Self {
        Self { levels: Self::new().levels, ..self }
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

    /// With overlapping tables in a sorted level the process stopped when it was opened; with a keyspace
    /// dropped after what is flushed, a flush and an opening later it was back.
    #[test]
    fn what_does_not_fit_together_is_refused() {
        let mut edit = sample();
        edit.removed.clear();
        let refused = |change: fn(&mut Edit)| {
            let mut changed = edit.clone();
            change(&mut changed);
            Contents::new().apply(&changed).unwrap_err()
        };
        assert!(refused(|edit| edit.keyspaces[0].dropped = Some(Index(42))).contains("keyspace 1"));
        assert!(refused(|edit| edit.keyspaces[0].created = Index(41)).contains("keyspace 1"));
        assert!(refused(|edit| edit.keyspaces[0].name.clear()).contains("keyspace 1"));
        assert!(refused(|edit| edit.keyspaces[0].id.0 = 0).contains("keyspace 0"));
        assert!(refused(|edit| edit.next_table = u64::MAX).contains("never given"));
        assert!(refused(|edit| edit.added[0].1.index_max = Index(42)).contains("table 7"));
        let mut other = edit.added[0].clone();
        other.1.id = TableId(6);
        edit.added.push(other);
        let mut contents = Contents::new();
        contents.apply(&edit).unwrap();
        assert!(contents.check_levels().unwrap_err().contains("overlap"));
    }

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
