//! Taking over a whole state: received beside the old one, checked, and put in its place when the node
//! opens again.
//!
//! The old state is served until the new one is complete and every checksum in it is right. Then the
//! [standing file](super::standing_file) says so, and the node opens anew: it drops log and state, takes
//! over the copy, and only then says that it has. A crash on the way begins that again from the copy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_engine::{Adopted, Adoption, Db, Error, Index, Result, log_dir, state_dir};
use strandline_wal::SpareDirectory;
use strandline_wal::disk::{Disk, File, OpenMode};

use super::frame::CopyFile;
use super::lineage::Lineage;
use super::standing_file::{Content, StandingFile};

/// The directory, beside log and state.
pub const INCOMING_DIR: &str = "copy.incoming";
/// The lock of a log's directory, which stays where it is.
const LOCK_FILE: &str = "LOCK";

/// A copy that is being received.
#[derive(Debug)]
pub struct Incoming {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// As of this entry.
    pub index: Index,
    /// Up to that entry.
    pub lineage: Lineage,
    files: Vec<CopyFile>,
    /// The file that is being written, its place, and how much of it is there.
    open: Option<(usize, Arc<dyn File>, u64)>,
    /// Bytes that have come.
    pub received: u64,
}

/// Whether a primary may have a file of this name written here.
fn is_ours(place: usize, name: &str) -> bool {
    let is_of_table = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    match place {
        0 => name == "manifest",
        _ => name
            .strip_suffix(".table")
            .is_some_and(|stem| (1..=64).contains(&stem.len()) && stem.bytes().all(is_of_table)),
    }
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::Malformed { what: "copy", offset: 0, reason: reason.into() }
}

fn clear(disk: &dyn Disk, dir: &Path, kept: &str) -> Result<()> {
    disk.create_dir_all(dir)?;
    for name in disk.list(dir)? {
        if name != kept {
            disk.remove(&dir.join(name))?;
        }
    }
    Ok(disk.sync_dir(dir)?)
}

impl Incoming {
    /// Prepares the directory below a group's.
    ///
    /// # Errors
    ///
    /// If the files are none of a copy, or what the disk refuses.
    pub fn begin(
        disk: Arc<dyn Disk>,
        group_dir: &Path,
        index: Index,
        lineage: Lineage,
        files: Vec<CopyFile>,
    ) -> Result<Self> {
        if files.iter().enumerate().any(|(place, file)| !is_ours(place, &file.name)) {
            return Err(malformed("a file that is not one of a copy"));
        }
        if files.is_empty() != (index == Index(0)) || lineage.until(index) != lineage {
            return Err(malformed("it does not say as of when it is"));
        }
        let dir = group_dir.join(INCOMING_DIR);
        clear(&*disk, &dir, "")?;
        Ok(Self { disk, dir, index, lineage, files, open: None, received: 0 })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.len))
    }

    /// Whether it has no bytes: the primary has none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Writes the next part: files come one after the other, each from its beginning.
    ///
    /// # Errors
    ///
    /// If it is not the next part, or what the disk refuses.
    pub fn write(&mut self, place: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let next = match &self.open {
            Some((at, _, len)) if *len < self.files[*at].len => (*at, *len),
            Some((at, ..)) => (at + 1, 0),
            None => (0, 0),
        };
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let file = self.files.get(place).filter(|_| (place, offset) == next);
        let fits = |file: &&CopyFile| offset.saturating_add(len) <= file.len && len > 0;
        let Some(file) = file.filter(fits) else {
            return Err(malformed("a part that is not the next one"));
        };
        if offset == 0 {
            let file = self.disk.open(&self.dir.join(&file.name), OpenMode::Create)?;
            if let Some((_, before, _)) = self.open.replace((place, file, 0)) {
                before.sync()?;
            }
        }
        let (_, file, written) = self.open.as_mut().expect("it was opened with its first part");
        file.write_at(bytes, offset)?;
        *written += len;
        self.received += len;
        Ok(())
    }

    /// All has come: makes it durable and checks it, table by table.
    ///
    /// # Errors
    ///
    /// If something is missing or damaged, or what the disk refuses.
    pub fn finish(self, db: &Db) -> Result<(Index, Lineage)> {
        let is_whole = self.received == self.len();
        if !is_whole {
            return Err(malformed("it ended too early"));
        }
        if let Some((_, file, _)) = &self.open {
            file.sync()?;
        }
        self.disk.sync_dir(&self.dir)?;
        if !self.is_empty() {
            // The names that this gives are removed when the store opens again.
            if adopt(db, &self.dir)?.index() != self.index {
                return Err(malformed("it is not as of when it says"));
            }
        }
        Ok((self.index, self.lineage))
    }
}

/// Checks every file of the copy in `dir` and gives it a name in the store.
fn adopt(db: &Db, dir: &Path) -> Result<Adoption> {
    let mut adoption = db.adopt(dir)?;
    loop {
        match db.adopt_slice(&mut adoption)? {
            Adopted::Part => {}
            Adopted::All => return Ok(adoption),
            Adopted::Damaged { error, .. } => return Err(error),
        }
    }
}

/// Before a store is opened: if a copy is to take its place, drops its log, in both of its directories, and
/// its state.
///
/// # Errors
///
/// If another process has the store open, or what the disk refuses.
pub fn make_room(file: &StandingFile, dir: &Path, spare: Option<&SpareDirectory>) -> Result<()> {
    if file.get().copy.is_none() {
        return Ok(());
    }
    let disk = file.disk();
    let (log, state) = (log_dir(dir), state_dir(dir));
    disk.create_dir_all(&log)?;
    let lock = disk.lock(&log.join(LOCK_FILE))?;
    clear(&**disk, &state, "")?;
    if let Some(spare) = spare {
        spare.disk.create_dir_all(&spare.dir)?;
        let _lock = spare.disk.lock(&spare.dir.join(LOCK_FILE))?;
        clear(&*spare.disk, &spare.dir, LOCK_FILE)?;
    }
    clear(&**disk, &log, LOCK_FILE)?;
    drop(lock);
    Ok(())
}

/// After an empty store was opened: takes over the copy that is to take its place, if there is one.
///
/// # Errors
///
/// If it is damaged, or what the disk refuses: opening again begins anew.
pub fn take_over(file: &mut StandingFile, db: &Db) -> Result<()> {
    let Some(index) = file.get().copy else { return Ok(()) };
    let incoming = file.dir().join(INCOMING_DIR);
    if index > Index(0) {
        db.install(&adopt(db, &incoming)?)?;
    }
    assert_eq!(db.applied(), index, "the copy is as of when it says");
    let content = Content { copy: None, ..file.get().clone() };
    file.save(content)?;
    tracing::info!(%index, "a whole state was taken over from the primary");
    let disk = file.disk().clone();
    clear(&*disk, &incoming, "")
}

#[cfg(test)]
mod tests {
    use strandline_engine::{
        Batch, Changes, DbOptions, Durability, Entry, KeyspaceId, Machine, group_dir,
    };
    use strandline_wal::disk::SimulatedDisk;
    use strandline_wal::disk::simulated::{Fault, Survival};

    use super::*;
    use crate::backup::lineage::Generation;

    const DIR: &str = "/node";

    /// Batches are the engine's own.
    struct NoCommands;

    impl Machine for NoCommands {
        fn apply(&mut self, _: &Entry<'_>, _: &mut Changes<'_>) -> Result<()> {
            panic!("there are only batches")
        }
    }

    fn open_db(disk: &Arc<SimulatedDisk>) -> Result<Db> {
        let mut options = DbOptions { background: false, ..DbOptions::default() };
        options.wal.segment_size = 256 << 10;
        options.wal.group_size_max = 16 << 10;
        Db::open_with(disk.clone(), Path::new(DIR), options, Box::new(NoCommands))
    }

    /// As a store is opened.
    fn open(disk: &Arc<SimulatedDisk>) -> Result<(Db, StandingFile)> {
        let mut file = StandingFile::open(disk.clone(), Path::new(DIR), 7)?;
        make_room(&file, Path::new(DIR), None)?;
        let db = open_db(disk)?;
        take_over(&mut file, &db)?;
        Ok((db, file))
    }

    fn put(db: &Db, name: &str, count: usize) {
        for number in 0..count {
            let mut batch = Batch::new();
            let key = format!("{name} {number}");
            batch.put(KeyspaceId::DEFAULT, key.as_bytes(), &[b'v'; 100]).unwrap();
            db.write(&batch, Durability::Disk).unwrap();
        }
    }

    fn lineage() -> Lineage {
        Lineage::from_list(vec![Generation { id: 9, first: Index(1) }]).unwrap()
    }

    /// A backup with a state of its own, longer than what it is sent: received, checked and staged.
    fn staged(source: &Db) -> Result<Arc<SimulatedDisk>> {
        let disk = SimulatedDisk::new(2);
        let (db, mut file) = open(&disk)?;
        put(&db, "own", 90);
        db.flush()?;
        put(&db, "own, in the log", 9);
        let checkpoint = source.checkpoint();
        let files = checkpoint.files();
        let named = files.iter().map(|file| CopyFile { name: file.name.clone(), len: file.len });
        let group = group_dir(Path::new(DIR));
        let index = checkpoint.index();
        let mut incoming =
            Incoming::begin(disk.clone(), &group, index, lineage(), named.collect())?;
        for (place, file) in files.iter().enumerate() {
            let mut offset = 0;
            while offset < file.len {
                let len = usize::try_from((file.len - offset).min(1000)).unwrap();
                incoming.write(
                    place,
                    offset,
                    checkpoint.read(place, offset, len).unwrap().unwrap(),
                )?;
                offset += 1000;
            }
        }
        let (index, lineage) = incoming.finish(&db)?;
        let content = Content { copy: Some(index), lineage, ..file.get().clone() };
        file.save(content)?;
        db.close()?;
        Ok(disk)
    }

    fn source() -> Db {
        let db = open_db(&SimulatedDisk::new(1)).unwrap();
        put(&db, "first", 30);
        db.flush().unwrap();
        put(&db, "second", 30);
        db.flush().unwrap();
        db
    }

    #[test]
    fn whatever_happens_the_copy_takes_the_place_of_all_there_was() {
        let source = source();
        let wanted = source.digest().unwrap();
        let operations = {
            let disk = staged(&source).unwrap();
            let before = disk.operations();
            open(&disk).unwrap();
            before..disk.operations()
        };
        assert!(operations.end > operations.start + 20);
        for fault in [Fault::PowerCut, Fault::Kill, Fault::Eio] {
            for at in operations.clone() {
                let disk = staged(&source).unwrap();
                disk.set_survival(Survival::of(500));
                disk.fail_at(at, fault);
                drop(open(&disk));
                disk.clear_faults();
                if disk.restart().is_none() {
                    disk.power_cut();
                }
                let (db, file) = open(&disk).unwrap();
                assert_eq!(db.digest().unwrap(), wanted, "{fault:?} at {at}");
                assert_eq!((db.applied(), file.get().copy), (Index(60), None));
                assert_eq!(file.get().lineage, lineage());
                put(&db, "after", 1);
                assert_eq!(db.applied(), Index(61));
                drop((db, file));
                disk.power_cut();
                assert_eq!(open(&disk).unwrap().0.applied(), Index(61));
            }
        }
    }

    #[test]
    fn an_empty_copy_leaves_nothing() {
        let disk = SimulatedDisk::new(3);
        let (db, mut file) = open(&disk).unwrap();
        put(&db, "own", 5);
        let content = Content { copy: Some(Index(0)), ..file.get().clone() };
        file.save(content).unwrap();
        db.close().unwrap();
        drop((db, file));
        let (db, _) = open(&disk).unwrap();
        assert_eq!((db.applied(), db.log().last().0), (Index(0), 0));
        assert!(db.get(KeyspaceId::DEFAULT, b"own 1").unwrap().is_none());
    }

    #[test]
    fn what_is_no_copy_is_refused() {
        let disk = SimulatedDisk::new(4);
        let (db, _) = open(&disk).unwrap();
        let begin = |index, files: &[(&str, u64)]| {
            let files =
                files.iter().map(|(name, len)| CopyFile { name: (*name).into(), len: *len });
            let group = group_dir(Path::new(DIR));
            Incoming::begin(disk.clone(), &group, Index(index), lineage(), files.collect())
        };
        let table = "0000000000000001.table";
        for (index, files) in [
            (5, &[][..]),
            (0, &[("manifest", 5)]),
            (5, &[("../../etc", 5)]),
            (5, &[("manifest", 5), ("../../etc/x.table", 5)]),
        ] {
            assert!(begin(index, files).is_err(), "{index} {files:?}");
        }
        let mut incoming = begin(5, &[("manifest", 5), (table, 4)]).unwrap();
        for (place, offset, bytes) in [(1, 0, &b"x"[..]), (0, 1, b"x"), (0, 0, b"123456")] {
            assert!(incoming.write(place, offset, bytes).is_err(), "{place} {offset}");
        }
        incoming.write(0, 0, b"12345").unwrap();
        assert!(incoming.write(0, 5, b"6").is_err());
        incoming.write(1, 0, b"12").unwrap();
        assert!(incoming.finish(&db).is_err(), "it is not whole");
        let mut incoming = begin(5, &[("manifest", 5)]).unwrap();
        incoming.write(0, 0, b"12345").unwrap();
        assert!(incoming.finish(&db).is_err(), "it is none");
    }
}
