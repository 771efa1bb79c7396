//! Checkpoints: the engine's durable state at an index, to be kept or sent elsewhere, and taken over.
//!
//! A checkpoint is the set of tables of one version and a manifest that names them; taking one costs
//! nothing, and holding it keeps its files. What is only in memtables is not in it: the log has that.
//!
//! Taking one over: its files lie in a directory beside the state, complete and synced. The checksum of
//! every table is held against its manifest's, and the file gets a second name, with a number of this
//! engine. Then one edit of the manifest puts all of them in the place of all that was there. A crash
//! before that edit leaves the old state and some names that the next opening removes; after it, the new
//! state.
//!
//! A table of a checkpoint goes by the name of its content, so that whoever has the same file already,
//! from an earlier checkpoint, does not need it again.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use strandline_wal::canary;

use crate::engine::LIST_IS_SOUND;
use crate::manifest::contents::Contents;
use crate::manifest::edit::{Edit, Flushed};
use crate::manifest::encode_base;
use crate::manifest::replay::{corruption, replay};
use crate::memtable::Memtable;
use crate::table::{Table, TableId, TableMeta};
use crate::{Engine, Error, Index, Result};

/// The name under which a checkpoint's manifest goes.
const MANIFEST_NAME: &str = "manifest";

/// The engine's durable state at an index.
pub struct Checkpoint {
    tables: Vec<Arc<Table>>,
    manifest: Vec<u8>,
    index: Index,
    machine_state: Vec<u8>,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFile {
    /// Its name, which is also the one it needs where it is taken over.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// CRC-32 over all of it.
    pub checksum: u32,
}

impl Checkpoint {
    /// Everything up to here is in it.
    pub fn index(&self) -> Index {
        self.index
    }

    /// The machine's state at that index.
    pub fn machine_state(&self) -> &[u8] {
        &self.machine_state
    }

    /// The same without its tables: where it is, and the machine's state, for who keeps no other.
    #[must_use]
    pub fn without_tables(self) -> Checkpoint {
        let contents = Contents {
            flushed: self.index,
            machine_state: self.machine_state.clone(),
            ..Contents::new()
        };
        let (manifest, _) = encode_base(&contents, 1, 1);
        Checkpoint { tables: Vec::new(), manifest, ..self }
    }

    /// Its files, the manifest first.
    pub fn files(&self) -> Vec<CheckpointFile> {
        let len = u64::try_from(self.manifest.len()).expect("lengths fit 64 bits");
        let checksum = crc32fast::hash(&self.manifest);
        let manifest = CheckpointFile { name: MANIFEST_NAME.into(), len, checksum };
        let table = |table: &Arc<Table>| {
            let meta = table.meta();
            let (name, len) = (meta.content_name(), meta.size);
            CheckpointFile { name, len, checksum: meta.checksum }
        };
        std::iter::once(manifest).chain(self.tables.iter().map(table)).collect()
    }

    /// A part of the file at this place in the list; none if there is no such part.
    ///
    /// # Errors
    ///
    /// If it cannot be read: then so is the state that it is part of.
    pub fn read(&self, file: usize, offset: u64, len: usize) -> Result<Option<&[u8]>> {
        let Ok(start) = usize::try_from(offset) else { return Ok(None) };
        let range = start..start.saturating_add(len);
        let Some(table) = file.checked_sub(1) else { return Ok(self.manifest.get(range)) };
        let Some(table) = self.tables.get(table) else { return Ok(None) };
        table.touch(range.clone())?;
        Ok(table.bytes().get(range))
    }
}

/// A checkpoint that is being taken over.
pub struct Adoption {
    contents: Contents,
    staging: PathBuf,
    /// Tables that have no name here yet, with their levels.
    waiting: VecDeque<(u8, TableMeta)>,
    /// Tables that have, and their new numbers.
    made: Vec<(u8, TableMeta)>,
}

/// How far a checkpoint has been taken over.
#[derive(Debug)]
pub enum Adopted {
    /// There are more tables.
    Part,
    /// All tables are here.
    All,
    /// This file is not what the manifest says, and is to be brought anew; then go on.
    Damaged {
        /// Its name in the checkpoint.
        name: String,
        /// What is wrong with it.
        error: Error,
    },
}

impl Adoption {
    /// Everything up to here is in it.
    pub fn index(&self) -> Index {
        self.contents.flushed
    }

    /// The machine's state at that index.
    pub fn machine_state(&self) -> &[u8] {
        &self.contents.machine_state
    }
}

impl Engine {
    /// The state as far as it is in tables.
    pub fn checkpoint(&self) -> Checkpoint {
        // Versions change under the manifest's lock only.
        let manifest = self.manifest();
        let mut contents = manifest.contents().clone();
        if canary::is_on(canary::SNAPSHOT_NEWER_THAN_DATA) {
            contents.flushed = self.applied();
        }
        let version = Arc::clone(&self.state().version);
        let (bytes, _) = encode_base(&contents, 1, 1);
        // In the order of the manifest, so that file and table are found by place.
        let by_id = |meta: &TableMeta| {
            let found = version.tables().find(|table| table.meta().id == meta.id);
            Arc::clone(found.expect("a version has the tables of its manifest"))
        };
        Checkpoint {
            tables: contents.tables().map(|(_, meta)| by_id(meta)).collect(),
            manifest: bytes,
            index: contents.flushed,
            machine_state: contents.machine_state.clone(),
        }
    }

    /// Begins to take over a checkpoint whose files lie in `staging`.
    ///
    /// # Errors
    ///
    /// If its manifest is damaged, or too new.
    pub fn adopt(&self, staging: &Path) -> Result<Adoption> {
        let path = staging.join(MANIFEST_NAME);
        let bytes = crate::manifest::read_file(&*self.place.disk, &path)?;
        let replayed = replay(&path, &bytes)?;
        if replayed.torn_at.is_some() {
            let reason = "it is cut short".into();
            return Err(Error::Malformed { what: "checkpoint's manifest", offset: 0, reason });
        }
        let contents = replayed.contents;
        let waiting = contents.tables().map(|(level, meta)| (level, meta.clone())).collect();
        Ok(Adoption { contents, staging: staging.to_path_buf(), waiting, made: Vec::new() })
    }

    /// Checks one table of the checkpoint and gives it a name here.
    ///
    /// # Errors
    ///
    /// What the disk refuses. The checkpoint can then only be given up.
    pub fn adopt_slice(&self, adoption: &mut Adoption) -> Result<Adopted> {
        let Some((level, meta)) = adoption.waiting.front() else { return Ok(Adopted::All) };
        let name = meta.content_name();
        let number = self.place.next_table.fetch_add(1, Ordering::Relaxed);
        let here = TableMeta { id: TableId(number), ..meta.clone() };
        let level = *level;
        let path = self.table_path(here.id);
        self.place.disk.link(&adoption.staging.join(&name), &path)?;
        if let Err(error) = self.check_file(&here) {
            self.place.disk.remove(&path)?;
            return Ok(Adopted::Damaged { name, error });
        }
        adoption.waiting.pop_front();
        adoption.made.push((level, here));
        Ok(if adoption.waiting.is_empty() { Adopted::All } else { Adopted::Part })
    }

    /// Whether a table's file is, byte by byte, what its entry in a manifest says.
    fn check_file(&self, meta: &TableMeta) -> Result<()> {
        let table = self.open_table(meta)?;
        table.touch(0..table.bytes().len())?;
        let found = crc32fast::hash(table.bytes());
        if found == meta.checksum {
            return Ok(());
        }
        let path = self.table_path(meta.id);
        let expected = format!("a file with the checksum {:#010x}", meta.checksum);
        Err(corruption(&path, 0, expected, format!("{found:#010x}")).into())
    }

    /// The path of the file that goes by this name in checkpoints, if it is part of the state.
    pub fn find_file(&self, name: &str) -> Option<PathBuf> {
        let state = self.state();
        let mut tables = state.version.tables();
        if let Some(found) = tables.find(|table| table.meta().content_name() == name) {
            return Some(self.table_path(found.meta().id));
        }
        let rubble = self.rubble.lock().expect(LIST_IS_SOUND);
        rubble.iter().find(|(known, _)| known == name).map(|(_, path)| path.clone())
    }

    /// Puts the checkpoint in the place of everything that is here, atomically. Called by the applier,
    /// between entries. Views that were taken before stay as they are.
    ///
    /// # Errors
    ///
    /// What the disk refuses: then the old state goes on, or the new one is found when the engine is
    /// opened again.
    pub(crate) fn install_adoption(&self, adoption: &Adoption) -> Result<()> {
        assert!(adoption.waiting.is_empty(), "all tables are written");
        let index = adoption.index();
        assert!(index >= self.applied(), "a checkpoint does not lead back");
        let (damage, was_hollow) = (self.damage(), self.is_hollow());
        // Work under way would install what belongs to the old state.
        let mut flushing = self.flushing.lock().expect("a flush that panicked is not followed");
        if let Some(flush) = flushing.take() {
            flush.abandon();
        }
        let mut compacting =
            self.compacting.lock().expect("a compaction that panicked is not followed");
        compacting.abandon();
        if let Some(damage) = &damage {
            self.set_aside(damage);
        }
        if !canary::is_on(canary::SNAPSHOT_NOT_SYNCED) {
            self.place.disk.sync_dir(&self.place.dir)?;
        }
        let edit = {
            let manifest = self.manifest();
            let contents = manifest.contents();
            Edit {
                flushed: Some(Flushed {
                    index,
                    machine_state: adoption.contents.machine_state.clone(),
                }),
                keyspaces: adoption.contents.keyspaces.changed_since(&contents.keyspaces),
                removed: contents.tables().map(|(level, table)| (level, table.id)).collect(),
                added: adoption.made.clone(),
                ..Edit::default()
            }
        };
        let tables: Vec<TableMeta> = adoption.made.iter().map(|(_, meta)| meta.clone()).collect();
        let _applier = self.applier.lock().expect("an applier that panicked is not followed");
        self.install(edit, &tables, |state| {
            state.active = Arc::new(Memtable::new());
            state.sealed.clear();
            state.keyspaces = Arc::clone(&state.version.keyspaces);
            state.missing = None;
        })?;
        self.applied.store(index.0, Ordering::Release);
        if damage.is_some() {
            self.clear_rubble(was_hollow);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use strandline_wal::disk::simulated::{Fault, SimulatedDisk, Survival};
    use strandline_wal::disk::{Disk, OpenMode};

    use super::*;
    use crate::{Batch, KeyspaceId, Options, Worked};

    const DIR: &str = "/engine";
    const STAGING: &str = "/staging";

    fn open(disk: &Arc<SimulatedDisk>) -> Result<Engine> {
        Engine::open(disk.clone(), Path::new(DIR), Options::default())
    }

    fn put(engine: &Engine, index: u64, key: &str) {
        let mut batch = Batch::new();
        let value = format!("{key} at {index}");
        batch.put(KeyspaceId::DEFAULT, key.as_bytes(), value.as_bytes()).unwrap();
        engine.apply(Index(index), &batch).unwrap();
    }

    fn flush(engine: &Engine) {
        engine.seal(format!("state at {}", engine.applied()).into_bytes());
        while engine.work(engine.applied()).unwrap() == Worked::Done {}
    }

    /// A state with three tables, a keyspace and tombstones, at index 60.
    fn source() -> Engine {
        let engine = open(&SimulatedDisk::new(1)).unwrap();
        engine.create_keyspace(Index(1), "more").unwrap();
        engine.apply(Index(1), &Batch::new()).unwrap();
        for index in 2..=60 {
            put(&engine, index, &format!("key {}", index % 25));
            if index % 20 == 0 {
                flush(&engine);
            }
        }
        engine
    }

    fn stage(disk: &Arc<SimulatedDisk>, checkpoint: &Checkpoint) -> Result<()> {
        disk.create_dir_all(Path::new(STAGING))?;
        for (place, file) in checkpoint.files().into_iter().enumerate() {
            let path = Path::new(STAGING).join(&file.name);
            if disk.exists(&path)? {
                disk.remove(&path)?;
            }
            let len = usize::try_from(file.len).unwrap();
            let bytes = checkpoint.read(place, 0, len).unwrap().unwrap();
            let file = disk.open(&path, OpenMode::Create)?;
            file.write_at(bytes, 0)?;
            file.sync()?;
        }
        Ok(disk.sync_dir(Path::new(STAGING))?)
    }

    fn take_over(disk: &Arc<SimulatedDisk>, checkpoint: &Checkpoint) -> Result<Engine> {
        let engine = open(disk)?;
        for index in 1..=5 {
            put(&engine, index, "old");
        }
        engine.seal(b"old state".to_vec());
        while engine.work(Index(5))? == Worked::Done {}
        put(&engine, 6, "in memory");
        stage(disk, checkpoint)?;
        let mut adoption = engine.adopt(Path::new(STAGING))?;
        while !matches!(engine.adopt_slice(&mut adoption)?, Adopted::All) {}
        engine.install_adoption(&adoption)?;
        Ok(engine)
    }

    #[test]
    fn a_checkpoint_takes_the_place_of_all_that_was_there() {
        let source = source();
        let checkpoint = source.checkpoint();
        let disk = SimulatedDisk::new(2);
        let engine = take_over(&disk, &checkpoint).unwrap();
        assert_eq!(engine.digest().unwrap(), source.digest().unwrap());
        assert_eq!((engine.applied(), engine.flushed()), (Index(60), Index(60)));
        assert_eq!(engine.machine_state(), b"state at 60");
        assert_eq!(engine.keyspace("more"), source.keyspace("more"));
        for engine in [&engine, &source] {
            put(engine, 61, "after");
            flush(engine);
        }
        assert_eq!(engine.digest().unwrap(), source.digest().unwrap());
        drop(engine);
        let engine = open(&disk).unwrap();
        assert_eq!(engine.digest().unwrap(), source.digest().unwrap());
        engine.verify().unwrap();
    }

    #[test]
    fn every_fault_at_every_operation_leaves_one_state_or_the_other() {
        let source = source();
        let checkpoint = source.checkpoint();
        let wanted = source.digest().unwrap();
        let operations = {
            let disk = SimulatedDisk::new(2);
            take_over(&disk, &checkpoint).unwrap();
            disk.operations()
        };
        for fault in [Fault::PowerCut, Fault::Kill, Fault::Eio] {
            for at in 1..=operations {
                let disk = SimulatedDisk::new(at);
                disk.set_survival(Survival::of(500));
                disk.fail_at(at, fault);
                let _ = take_over(&disk, &checkpoint);
                disk.clear_faults();
                if disk.restart().is_none() {
                    disk.power_cut();
                }
                let engine = open(&disk).unwrap();
                engine.verify().unwrap();
                match engine.flushed() {
                    Index(60) => assert_eq!(engine.digest().unwrap(), wanted, "{fault:?} at {at}"),
                    flushed => assert!(flushed <= Index(5), "{fault:?} at {at}: {flushed}"),
                }
            }
        }
    }

    #[test]
    fn a_damaged_table_is_refused() {
        let checkpoint = source().checkpoint();
        let disk = SimulatedDisk::new(3);
        let engine = open(&disk).unwrap();
        stage(&disk, &checkpoint).unwrap();
        let name = checkpoint.files()[1].name.clone();
        disk.flip_bit(&Path::new(STAGING).join(&name), 8 * 100);
        let mut adoption = engine.adopt(Path::new(STAGING)).unwrap();
        let (damaged, error) = loop {
            match engine.adopt_slice(&mut adoption).unwrap() {
                Adopted::Damaged { name, error } => break (name, error),
                Adopted::Part => {}
                Adopted::All => panic!("the damage was not seen"),
            }
        };
        assert_eq!(damaged, name, "{error}");
        // It is brought anew, and the rest goes on from there.
        disk.flip_bit(&Path::new(STAGING).join(name), 8 * 100);
        while !matches!(engine.adopt_slice(&mut adoption).unwrap(), Adopted::All) {}
        engine.install_adoption(&adoption).unwrap();
        engine.verify().unwrap();
    }

    /// What was taken over is the same file, and is found by the name of its content.
    #[test]
    fn files_that_are_here_already_are_found() {
        let source = source();
        let disk = SimulatedDisk::new(4);
        let engine = take_over(&disk, &source.checkpoint()).unwrap();
        for file in source.checkpoint().files().iter().skip(1) {
            let path = engine.find_file(&file.name).unwrap();
            assert_eq!(crc32fast::hash(&disk.visible_content(&path).unwrap()), file.checksum);
        }
        assert_eq!(engine.checkpoint().files()[1..], source.checkpoint().files()[1..]);
        assert!(engine.find_file("another").is_none());
        // And from there to a third.
        let disk = SimulatedDisk::new(5);
        let third = take_over(&disk, &engine.checkpoint()).unwrap();
        assert_eq!(third.digest().unwrap(), source.digest().unwrap());
        third.verify().unwrap();
    }
}
