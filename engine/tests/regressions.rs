//! What random runs and reviews once found, each as one small test that needs no luck.
//!
//! Each says what was lost and why.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use strandline_engine::{Db, KeyspaceId};
use strandline_wal::disk::simulated::{SimulatedDisk, Survival};

mod common;
use common::{Nothing, options};

/// Lost: a new store with its first acknowledged writes. Its directory was made outside of the disk's
/// seam, without a sync of the parent; the disk then found it there and did not sync its name either.
/// So the simulated disk must be all that a new store needs, and a power cut that keeps nothing
/// unsynced must leave the store.
#[test]
fn the_directory_of_a_new_store_outlives_a_power_cut() {
    let dir = Path::new("/not/there/yet");
    let disk = SimulatedDisk::new(1);
    disk.set_survival(Survival::NOTHING);
    let open = || Db::open_with(disk.mount(), dir, options(), Box::new(Nothing)).unwrap();

    let db = open();
    db.put(KeyspaceId::DEFAULT, b"key", b"value").unwrap();
    disk.power_cut();
    drop(db);

    let db = open();
    assert_eq!(db.get(KeyspaceId::DEFAULT, b"key").unwrap().as_deref(), Some(&b"value"[..]));
    assert!(!dir.exists(), "nothing was made on the real disk");
}
