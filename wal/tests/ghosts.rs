//! What a failed write left on the disk, or in the cache only, comes to light after a later power cut.
//!
//! A failed durable write leaves the disk with the new bytes or the old, and the page cache likewise,
//! each by itself. So a log that is opened again may read the old bytes where the disk has the new:
//! a *ghost*, which nothing shows until the power fails. An opening trusts no cache: it writes once
//! more whatever it goes by, ghosts included.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::simulated::{SimulatedDisk, Survival};
use strandline_wal::{Lsn, Wal};

mod common;
use common::{DIR, options};

fn open(disk: &Arc<SimulatedDisk>) -> Wal {
    Wal::open(disk.mount(), Path::new(DIR), options()).unwrap().0
}

fn write(wal: &Wal, payload: &[u8]) -> Lsn {
    let lsn = wal.append(payload).unwrap();
    wal.wait(lsn).unwrap();
    lsn
}

fn contents(wal: &Wal) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut reader = wal.reader(wal.first());
    while let Some(records) = reader.next_records().unwrap() {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            found.insert(lsn.0, record.payload.to_vec());
        }
    }
    found
}

/// How many headers are newer in the cache than on the disk, and the other way round.
fn in_doubt(disk: &SimulatedDisk) -> (usize, usize) {
    let incarnation = |content: &[u8]| content.get(16..24).map(<[u8]>::to_vec);
    let (mut cached, mut ghosts) = (0, 0);
    for file in disk.files() {
        let seen = incarnation(&disk.visible_content(&file.path).unwrap());
        let durable = incarnation(&disk.durable_content(&file.path).unwrap());
        // Little-endian, and all of them small.
        cached += usize::from(seen > durable);
        ghosts += usize::from(seen < durable);
    }
    (cached, ghosts)
}

/// Lost: acknowledged records, or the log did not open. The headers of the last two segments that
/// could be put to use failed; one of them was on the disk but not in the cache. The log was opened
/// by the cache and went on elsewhere; after a power cut the ghost was the newest segment and voided
/// what had been acknowledged since, or stood, empty, in the middle of the log. Found by the cluster
/// simulator, profile `default`, seed 80369.
#[test]
fn a_header_that_failed_does_not_come_to_light_later() {
    headers_fail(false);
}

/// The same with a segment that had been trimmed: no later header said so yet, so by its old header,
/// in the cache, it was a sealed part of the log.
#[test]
fn nor_does_one_of_a_segment_that_was_used_before() {
    headers_fail(true);
}

fn headers_fail(trims: bool) {
    let mut met = (0, 0);
    for seed in 0..80 {
        let disk = SimulatedDisk::new(seed);
        // The sectors of the failed writes reach the disk in one half of the runs.
        disk.set_survival(Survival::of(500));
        let wal = open(&disk);
        while wal.stats().segments_in_use < 2 {
            write(&wal, &[1; 9000]);
        }
        // Fill the active segment; there is no spare to be had but the two that are ready.
        for _ in 0..5 {
            write(&wal, &[2; 9000]);
        }
        let acknowledged = wal.durable();
        if trims {
            wal.trim(Lsn(acknowledged.0 - 5));
            wal.prepare(false).unwrap();
        }
        wal.append(&[3; 9000]).unwrap();
        disk.fail_writes_from(0, 8);
        wal.sync().unwrap_err();
        disk.clear_faults();
        disk.kill();
        drop(wal);
        let (cached, ghosts) = in_doubt(&disk);
        met = (met.0 + cached, met.1 + ghosts);

        disk.set_survival(Survival::NOTHING);
        let wal = open(&disk);
        assert!(wal.last() >= acknowledged, "seed {seed}");
        for _ in 0..9 {
            write(&wal, &[4; 9000]);
        }
        let before = contents(&wal);
        disk.power_cut();
        drop(wal);
        let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options())
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(contents(&wal).len(), before.len(), "seed {seed}");
        assert_eq!(contents(&wal), before, "seed {seed}");
    }
    assert!(met.0 > 10 && met.1 > 10, "the case was not met: {met:?}");
}

/// Shown: a record that an earlier opening had shown to be absent. Its write failed, and so did the
/// rewrite; the group was on the disk but not in the cache. Its chain fits wherever the same records
/// come before it.
#[test]
fn a_group_that_failed_does_not_come_to_light_later() {
    let mut met = 0;
    for seed in 0..120 {
        let disk = SimulatedDisk::new(seed);
        disk.set_survival(Survival::EVERYTHING);
        disk.set_stepped(true);
        let wal = open(&disk);
        write(&wal, b"before");
        // Two groups in flight; both fail, and so do all headers after them.
        wal.append(b"first").unwrap();
        wal.request(wal.last());
        disk.fail_writes_from(0, 12);
        // A group of its own, submitted while the first is in flight.
        wal.append(&[7; 8000]).unwrap();
        wal.sync().unwrap_err();
        disk.clear_faults();
        disk.kill();
        drop(wal);

        disk.set_survival(Survival::NOTHING);
        let wal = open(&disk);
        let shown = contents(&wal);
        // Half of the runs go on with the very record that had failed.
        let mut expected = shown.clone();
        if seed % 2 == 0 && shown.len() == 1 {
            met += 1;
            write(&wal, b"first");
            expected.insert(2, b"first".to_vec());
        }
        disk.power_cut();
        drop(wal);
        assert_eq!(contents(&open(&disk)), expected, "seed {seed}");
    }
    assert!(met > 10, "the case was not met");
}
