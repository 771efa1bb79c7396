//! Background work, in slices: flushing, compacting, removing files.
//!
//! Each call does a bounded piece and returns, so that whoever calls can be a thread of its own, a
//! writer that helps, or a simulator that steps. Two threads may call at the same time: a flush and a
//! compaction then run side by side, and a third thread finds nothing to do. A piece can take long in
//! one way only: the last slice of a table waits for its sync.
//!
//! An install is the same for all: the tables are opened, one edit goes to the manifest, and the
//! state is replaced. Files that the edit makes obsolete are removed when nobody reads them any more.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};

use crate::compaction::Compaction;
use crate::compaction::picker::{Task, pick};
use crate::engine::{LIST_IS_SOUND, TEXT_IS_SOUND};
use crate::flush::Flush;
use crate::manifest::edit::{Edit, Flushed};
use crate::manifest::version::Version;
use crate::stats::Counters;
use crate::table::{Table, TableId, TableMeta};
use crate::view::State;
use crate::{Engine, Error, Index, Result};

/// What a call of [`Engine::work`] found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worked {
    /// Nothing: calling again makes sense only after something was sealed, synced or dropped.
    Idle,
    /// A piece of work; there may be more.
    Done,
}

/// About how many bytes of cells one slice looks at. At 100 MB/s that is some milliseconds.
const SLICE_LEN: usize = 256 << 10;

/// How many files one slice removes at most.
const REMOVALS_PER_SLICE: usize = 8;

/// The state of compaction.
#[derive(Default)]
pub(crate) struct Compacting {
    /// The one under way.
    job: Option<Compaction>,
    /// The version in which nothing was found to do.
    idle_at: Option<u64>,
}

impl Compacting {
    /// Gives up the job under way: what it merges is going.
    pub(crate) fn abandon(&mut self) {
        if let Some(job) = self.job.take() {
            job.abandon();
        }
    }
}

impl Engine {
    /// Does one bounded piece of background work, a flush before a compaction. Only memtables whose
    /// entries are all at or below `synced` are flushed: a table never holds what the log could
    /// still lose.
    ///
    /// # Errors
    ///
    /// What the disk refused, or damage. After [`is_full`](strandline_wal::Error::is_full) everything
    /// is as it was, and the work may be tried again. Damage that a compaction meets is returned
    /// once; compaction then rests until the engine is opened again, and reads and flushes go on.
    /// [`Error::ReadOnly`] means that the manifest takes no edits any more.
    pub fn work(&self, synced: Index) -> Result<Worked> {
        if self.flush_work(synced)? == Worked::Done {
            return Ok(Worked::Done);
        }
        self.compact_work()
    }

    /// Like [`work`](Engine::work), for flushes only.
    ///
    /// # Errors
    ///
    /// As for [`work`](Engine::work).
    pub fn flush_work(&self, synced: Index) -> Result<Worked> {
        let mut flushing = match self.flushing.try_lock() {
            Ok(flushing) => flushing,
            Err(TryLockError::WouldBlock) => return Ok(Worked::Idle),
            Err(TryLockError::Poisoned(_)) => panic!("a flush that panicked is not followed"),
        };
        if flushing.is_none() {
            *flushing = self.next_flush(synced)?;
        }
        let Some(flush) = flushing.as_mut() else { return Ok(Worked::Idle) };
        match flush.step(SLICE_LEN) {
            Ok(false) => return Ok(Worked::Done),
            Ok(true) => {}
            Err(error) => {
                flushing.take().expect("under way").abandon();
                return Err(error);
            }
        }
        let mut flush = flushing.take().expect("under way");
        match flush.finish() {
            Ok(tables) => {
                let tables = tables.to_vec();
                self.install_flush(&flush, &tables)?;
                Ok(Worked::Done)
            }
            Err(error) => {
                flush.abandon();
                Err(error)
            }
        }
    }

    fn next_flush(&self, synced: Index) -> Result<Option<Flush>> {
        let state = self.state();
        let Some(oldest) = state.sealed.last().filter(|oldest| oldest.last <= synced) else {
            return Ok(None);
        };
        self.manifest().check()?;
        let floor = self.pins.floor(|| self.applied());
        let keyspaces = Arc::new(state.keyspaces.as_of(oldest.last));
        let place = self.place.clone();
        Ok(Some(Flush::new(Arc::clone(oldest), &state.version, floor, keyspaces, place)))
    }

    fn install_flush(&self, flush: &Flush, tables: &[TableMeta]) -> Result<()> {
        let sealed = flush.sealed();
        let keyspaces = self.state().keyspaces.as_of(sealed.last);
        let edit = Edit {
            flushed: Some(Flushed {
                index: sealed.last,
                machine_state: sealed.machine_state.clone(),
            }),
            keyspaces: keyspaces.changed_since(&self.manifest().contents().keyspaces),
            added: tables.iter().map(|table| (0, table.clone())).collect(),
            ..Edit::default()
        };
        self.install(edit, tables, |state| {
            let flushed = state.sealed.pop().expect("what is being flushed is sealed");
            assert!(Arc::ptr_eq(&flushed, sealed), "memtables are flushed oldest first");
        })?;
        Counters::add(&self.counters.flushes, 1);
        Counters::add(&self.counters.flushed_bytes, tables.iter().map(|table| table.size).sum());
        Ok(())
    }

    /// Like [`work`](Engine::work), without flushes.
    ///
    /// # Errors
    ///
    /// As for [`work`](Engine::work).
    pub fn compact_work(&self) -> Result<Worked> {
        let mut compacting = match self.compacting.try_lock() {
            Ok(compacting) => compacting,
            Err(TryLockError::WouldBlock) => return Ok(Worked::Idle),
            Err(TryLockError::Poisoned(_)) => panic!("a compaction that panicked is not followed"),
        };
        let worked = self.compact_slice(&mut compacting);
        if let Err(error) = &worked {
            if let Some(job) = compacting.job.take() {
                job.abandon();
            }
            let ends = match error {
                Error::Wal(strandline_wal::Error::Corruption { .. }) => true,
                // Of an input; one of the tables that it wrote is only written again.
                Error::Wal(error) => error.is_unreadable() && self.damage().is_some(),
                _ => false,
            };
            if ends {
                // It is met once: compaction rests from here on.
                *self.compaction_damage.write().expect(TEXT_IS_SOUND) = Some(error.to_string());
            }
        }
        if worked? == Worked::Done {
            return Ok(Worked::Done);
        }
        drop(compacting);
        Ok(self.remove_obsolete())
    }

    fn compact_slice(&self, compacting: &mut Compacting) -> Result<Worked> {
        if let Some(job) = compacting.job.as_mut() {
            if job.step(SLICE_LEN)? {
                job.finish()?;
                let mut job = compacting.job.take().expect("under way");
                self.install_compaction(&mut job)?;
            }
            return Ok(Worked::Done);
        }
        let state = self.state();
        let version = &state.version;
        if self.is_compaction_damaged() || compacting.idle_at == Some(version.number) {
            return Ok(Worked::Idle);
        }
        let Some(task) = pick(&version.shape(), &version.keyspaces, &self.options) else {
            compacting.idle_at = Some(version.number);
            return Ok(Worked::Idle);
        };
        self.manifest().check()?;
        match task {
            Task::Remove(removed) => {
                self.install(Edit { removed, ..Edit::default() }, &[], |_| ())?;
            }
            Task::Move { from, table } => self.move_down(version, from, table)?,
            Task::Merge(inputs) => {
                let floor = self.pins.floor(|| self.applied());
                let (place, table_size) = (self.place.clone(), self.options.table_size);
                compacting.job = Some(Compaction::new(version, inputs, floor, place, table_size));
            }
        }
        Ok(Worked::Done)
    }

    fn move_down(&self, version: &Version, from: u8, id: TableId) -> Result<()> {
        let level = &version.levels[usize::from(from)];
        let table = level.iter().find(|table| table.meta().id == id);
        let meta = table.expect("the picker knows the version's tables").meta().clone();
        let edit =
            Edit { removed: vec![(from, id)], added: vec![(from + 1, meta)], ..Edit::default() };
        self.install(edit, &[], |_| ())?;
        Counters::add(&self.counters.moves, 1);
        Ok(())
    }

    fn install_compaction(&self, job: &mut Compaction) -> Result<()> {
        let tables = job.finish()?.to_vec();
        let inputs = job.inputs();
        let edit = Edit {
            removed: inputs.tables.clone(),
            added: tables.iter().map(|table| (inputs.to, table.clone())).collect(),
            ..Edit::default()
        };
        self.install(edit, &tables, |_| ())?;
        let written = tables.iter().map(|table| table.size).sum();
        Counters::add(&self.counters.compactions, 1);
        Counters::add(&self.counters.compaction_read_bytes, job.input_bytes());
        Counters::add(&self.counters.compaction_written_bytes, written);
        Ok(())
    }

    /// Makes an edit durable and then visible. `tables` are the new files among those it adds; if
    /// this fails they must not be removed at once, see [`crate::manifest`].
    pub(crate) fn install(
        &self,
        mut edit: Edit,
        tables: &[TableMeta],
        change: impl FnOnce(&mut State),
    ) -> Result<()> {
        let mut manifest = self.manifest();
        edit.next_table = self.place.next_table.load(Ordering::Relaxed);
        let opened: Result<Vec<Arc<Table>>> =
            tables.iter().map(|table| self.open_table(table)).collect();
        let appended = opened.and_then(|opened| {
            manifest.append(&edit)?;
            Ok(opened)
        });
        self.manifest_number.store(manifest.number(), Ordering::Relaxed);
        let opened = match appended {
            Ok(opened) => opened,
            Err(error) => {
                let mut uncertain = self.uncertain.lock().expect(LIST_IS_SOUND);
                uncertain.extend(tables.iter().map(|table| table.id));
                return Err(error);
            }
        };
        // Versions change under the lock of the manifest only, so this one can be made from the
        // current one before readers are kept waiting.
        let old = Arc::clone(&self.state().version);
        let version = Arc::new(old.after(&edit, &opened, &manifest.contents().keyspaces));
        let kept: BTreeSet<TableId> = edit.added.iter().map(|(_, table)| table.id).collect();
        let gone: BTreeSet<TableId> = edit.removed.iter().map(|(_, id)| *id).collect();
        let is_gone = |table: &&Arc<Table>| {
            gone.contains(&table.meta().id) && !kept.contains(&table.meta().id)
        };
        let obsolete: Vec<_> = old.tables().filter(is_gone).cloned().collect();
        let flushed = version.flushed;
        self.replace_state(|state| {
            state.version = version;
            change(state);
        });
        self.confirmed.store(flushed.0, Ordering::Release);
        self.obsolete.lock().expect(LIST_IS_SOUND).extend(obsolete);
        // The edit is in a manifest that does not hold the failed ones, and no other can come back.
        let uncertain = std::mem::take(&mut *self.uncertain.lock().expect(LIST_IS_SOUND));
        for id in uncertain {
            let _ = self.place.disk.remove(&self.table_path(id));
        }
        Ok(())
    }

    /// Removes files of tables that nobody reads any more. What cannot be removed is left to the
    /// next opening.
    fn remove_obsolete(&self) -> Worked {
        let mut removed = Vec::new();
        {
            let mut obsolete = self.obsolete.lock().expect(LIST_IS_SOUND);
            // Nobody can begin to read a table of this list: no state has it any more, and whoever
            // has an older state has a share of the table.
            while removed.len() < REMOVALS_PER_SLICE
                && let Some(unread) =
                    obsolete.iter().position(|table| Arc::strong_count(table) == 1)
            {
                removed.push(obsolete.swap_remove(unread));
            }
        }
        if removed.is_empty() {
            return Worked::Idle;
        }
        for table in removed {
            let path = self.table_path(table.meta().id);
            drop(table);
            if self.place.disk.remove(&path).is_ok() {
                Counters::add(&self.counters.tables_removed, 1);
            }
        }
        Worked::Done
    }
}
