//! Verification of a state that no engine has open.
//!
//! The manifest says which tables there are; each is opened and read whole, past any cache. Nothing
//! is changed, created or repaired, and nothing stops at the first damage. Files that the manifest
//! does not name were left behind by a crash and are not judged: opening removes them.
//!
//! Without a readable manifest the tables cannot be judged either: which of them belong to the state
//! is what was lost. Then the manifest's damage is the only finding.

use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::Disk;

use crate::manifest::replay::replay;
use crate::manifest::{CURRENT, manifest_name, read_current, read_file};
use crate::table::{BlockCache, Table};
use crate::{Result, VerifyReport};

/// Reads the manifest and every table in `dir`, the state of a store that is not open.
///
/// # Errors
///
/// If the directory cannot be listed. Damage, and what cannot be read, is listed in the report.
pub fn verify_state(disk: &Arc<dyn Disk>, dir: &Path) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let names = disk.list(dir)?;
    let is_new = names.iter().all(|name| crate::manifest::table_of_name(name).is_none());
    if is_new && !names.iter().any(|name| name == CURRENT) {
        // It died while its first manifest was made: there is nothing that could be damaged.
        return Ok(report);
    }
    if let Err(error) = verify_named(disk, dir, &mut report) {
        report.damage.push(error);
    }
    Ok(report)
}

fn verify_named(disk: &Arc<dyn Disk>, dir: &Path, report: &mut VerifyReport) -> Result<()> {
    let path = dir.join(manifest_name(read_current(&**disk, dir)?));
    let replayed = replay(&path, &read_file(&**disk, &path)?)?;
    // A torn tail is what a crash leaves: `replay` has made sure that nothing durable follows it.
    report.manifest = true;
    report.flushed = replayed.contents.flushed;
    // Blocks are checked past the cache, so it needs no room.
    let cache = BlockCache::new(0);
    for (_, meta) in replayed.contents.tables() {
        report.tables += 1;
        let checked = Table::open(disk, dir, meta.clone(), Arc::clone(&cache))
            .and_then(|table| table.verify());
        match checked {
            Ok(checked) => report.checked += checked,
            Err(error) => report.damage.push(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use strandline_wal::disk::{RealDisk, Rung};

    use super::*;
    use crate::{Db, DbOptions, KeyspaceId, state_dir};

    /// A closed store with two tables: its directory, the disk and the tables' paths.
    fn store() -> (tempfile::TempDir, Arc<dyn Disk>, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let options = DbOptions { background: false, ..DbOptions::default() };
        let db = Db::open(dir.path(), options).unwrap();
        for key in ["a", "b"] {
            db.put(KeyspaceId::DEFAULT, key.as_bytes(), b"value").unwrap();
            db.flush().unwrap();
        }
        db.close().unwrap();
        let disk = RealDisk::open(dir.path(), Some(Rung::PortableFsync)).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let is_table = |name: &String| crate::manifest::table_of_name(name).is_some();
        let state = state_dir(dir.path());
        let names = disk.list(&state).unwrap();
        let tables = names.iter().filter(|name| is_table(name)).map(|name| state.join(name));
        let tables = tables.collect();
        (dir, disk, tables)
    }

    #[test]
    fn a_sound_state_is_clean() {
        let (dir, disk, tables) = store();
        let report = verify_state(&disk, &state_dir(dir.path())).unwrap();
        assert!(report.is_clean() && report.manifest, "{report:?}");
        assert_eq!((report.tables, tables.len()), (2, 2));
        assert_eq!(report.checked, 2, "one cell in each");
    }

    #[test]
    fn every_damaged_table_is_listed() {
        let (dir, disk, tables) = store();
        let mut bytes = std::fs::read(&tables[0]).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&tables[0], bytes).unwrap();
        std::fs::remove_file(&tables[1]).unwrap();
        let report = verify_state(&disk, &state_dir(dir.path())).unwrap();
        assert_eq!((report.tables, report.damage.len()), (2, 2), "{report:?}");
    }

    #[test]
    fn a_lost_manifest_is_the_only_finding() {
        let (dir, disk, _) = store();
        let state = state_dir(dir.path());
        std::fs::remove_file(state.join(CURRENT)).unwrap();
        let report = verify_state(&disk, &state).unwrap();
        assert_eq!((report.tables, report.damage.len()), (0, 1), "{report:?}");
    }
}
