//! Opening a store whose manifest, `CURRENT` or tables hold anything.
//!
//! An input is either a manifest, put where a small store has its own, or says what happens to a file
//! of that store. The files are described and verified, and the store is opened, read, written,
//! flushed and compacted. A store that opens after damage of a kind that disks do has all that it had: what the
//! manifest has lost is in the log, or opening fails.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use strandline_engine::{
    Batch, Db, Durability, Error, KeyspaceId, Worked, inspect_manifest, inspect_table, state_dir,
    verify_state,
};
use strandline_wal::disk::{Disk, SimulatedDisk};

use crate::damage::{Damage, edit};
use crate::segment::replace;
use crate::{Choices, seal, store};

/// A store at rest.
struct Rest {
    disk: Arc<SimulatedDisk>,
    /// Of all that it holds.
    digest: u64,
}

/// See the module's documentation.
pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let rests = rests();
    let what = choices.below(rests.len() + 1);
    let rest = &rests[what.saturating_sub(1)];
    let disk = rest.disk.fork(1);
    if what == 0 {
        let is_sealed = choices.any::<bool>();
        let mut file = choices.rest().to_vec();
        if is_sealed {
            seal::manifest(&mut file);
        }
        replace(&disk, &manifest_of(&disk), &file);
        visit(&disk);
        return;
    }
    let damage = damage(&disk, &mut choices);
    let digest = visit(&disk);
    match damage {
        Damage::Forged => {}
        Damage::None => assert_eq!(digest, Some(rest.digest), "a good store opens"),
        _ => assert!(digest.is_none_or(|digest| digest == rest.digest), "something is lost"),
    }
}

fn damage(disk: &SimulatedDisk, choices: &mut Choices<'_>) -> Damage {
    let tables = files(disk, ".table");
    let (path, seal): (PathBuf, fn(&mut [u8])) = match choices.below(6) {
        0 => (state_dir(Path::new(store::DIR)).join("CURRENT"), seal::current),
        1 if !tables.is_empty() => (tables[choices.below(tables.len())].clone(), seal::table),
        _ => (manifest_of(disk), seal::manifest),
    };
    let mut file = disk.visible_content(&path).expect("it is there");
    let damage = edit(choices, &mut file, 64, seal);
    replace(disk, &path, &file);
    damage
}

/// The files of the store whose names have `part` in them.
fn files(disk: &SimulatedDisk, part: &str) -> Vec<PathBuf> {
    let files = disk.files().into_iter().map(|file| file.path);
    let has_part = |path: &PathBuf| path.to_str().is_some_and(|path| path.contains(part));
    files.filter(has_part).collect()
}

fn manifest_of(disk: &SimulatedDisk) -> PathBuf {
    let manifests = files(disk, "MANIFEST-");
    manifests.into_iter().next_back().expect("a store has a manifest")
}

/// Does with the store what can be done; returns the digest of what it held when it was opened.
fn visit(disk: &Arc<SimulatedDisk>) -> Option<u64> {
    let dyn_disk: Arc<dyn Disk> = Arc::clone(disk) as _;
    let text = inspect_manifest(&**disk, &manifest_of(disk)).expect("it can be read");
    assert!(text.ends_with("end\n"), "it is described to its end");
    for table in files(disk, ".table") {
        let _ = inspect_table(&dyn_disk, &table);
    }
    let verified = verify_state(&dyn_disk, &state_dir(Path::new(store::DIR)));
    let verified = verified.expect("the directory can be listed");
    let db = store::open(disk).ok()?;
    assert!(verified.manifest, "a manifest that is taken was readable before");
    let digest = match db.digest() {
        Ok(digest) => digest,
        Err(_) => {
            assert!(!verified.is_clean(), "damage is seen by who looks for it");
            return None;
        }
    };
    assert!(db.verify().is_ok_and(|report| !verified.is_clean() || report.is_clean()));
    // A compaction stops the process when cells are out of order behind right checksums.
    if verified.is_clean() {
        let after = go_on(&db).expect("a store that verifies takes writes");
        drop(db);
        let db = store::open(disk).expect("what was opened and closed opens");
        assert_eq!(db.digest().expect("it was read before"), after, "what was there stays");
    }
    Some(digest)
}

/// Writes, flushes and compacts.
fn go_on(db: &Db) -> Result<u64, Error> {
    for number in 0..6_u8 {
        let mut batch = Batch::new();
        batch.put(KeyspaceId::DEFAULT, &[b'k', number], &[number; 300])?;
        batch.delete(KeyspaceId::DEFAULT, &[b'c', number])?;
        db.write(&batch, Durability::Disk)?;
        db.flush()?;
    }
    let mut slices = 0;
    while db.work()? == Worked::Done {
        slices += 1;
        assert!(slices < 10_000, "compaction comes to an end");
    }
    let digest = db.digest()?;
    db.close()?;
    Ok(digest)
}

/// Good stores, made once.
fn rests() -> &'static [Rest] {
    static RESTS: OnceLock<Vec<Rest>> = OnceLock::new();
    RESTS.get_or_init(|| vec![rest(false), rest(true)])
}

/// A store with keyspaces, tables on several levels and a manifest of some records, closed in order. It
/// ends with a flush, or with entries that are in the log only.
fn rest(ends_with_entries: bool) -> Rest {
    let disk = SimulatedDisk::new(1);
    let write = || -> Result<u64, Error> {
        let db = store::open(&disk)?;
        let users = db.create_keyspace("users")?;
        let gone = db.create_keyspace("gone")?;
        for round in 0..5_u8 {
            for number in 0..12_u8 {
                let mut batch = Batch::new();
                batch.put(KeyspaceId::DEFAULT, &[b'c', number], &[round; 90])?;
                batch.put(users, &[b'u', number, round], &[number; 30])?;
                batch.delete(users, &[b'u', number, round.wrapping_sub(2)])?;
                batch.put(gone, &[round], b"gone")?;
                db.write(&batch, Durability::Disk)?;
            }
            db.flush()?;
            while db.work()? == Worked::Done {}
        }
        db.drop_keyspace(gone)?;
        db.flush()?;
        while db.work()? == Worked::Done {}
        if ends_with_entries {
            db.put(users, b"last", b"words")?;
        }
        let digest = db.digest()?;
        db.close()?;
        Ok(digest)
    };
    let digest = write().expect("a disk without faults");
    Rest { disk, digest }
}

/// A file of a good store, as it stands: the first whose name has `part` in it.
pub(crate) fn sample(part: &str) -> Vec<u8> {
    let disk = &rests()[0].disk;
    let files = files(disk, part);
    disk.visible_content(&files[0]).expect("it was listed")
}
