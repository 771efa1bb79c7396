//! What random runs once found, each as one small test that needs no luck.
//!
//! Each says what was lost and why. `survives nothing` means that a power cut takes everything that
//! was not synced, which is the harshest of the lawful ends.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::simulated::{Fault, SimulatedDisk, Survival};
use strandline_wal::{Error, Lsn, Recovery, Tail, Wal};

mod common;
use common::{DIR, options};

const FIRST_SEGMENT: &str = "/log/0000000000000001.segment";
/// Where the first group of a segment stands.
const FIRST_GROUP: u64 = 4096;

fn disk(seed: u64) -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(seed);
    disk.set_survival(Survival::NOTHING);
    disk
}

fn open(disk: &Arc<SimulatedDisk>) -> Result<(Wal, Recovery), Error> {
    Wal::open(disk.mount(), Path::new(DIR), options())
}

/// Appends one record and waits until it is acknowledged.
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

/// Lost: the whole log, refused as corrupt. A trimmed segment was removed at once, but only the next
/// segment's header says what was trimmed; after a crash before that one there was a hole between
/// what the newest header called trimmed and the oldest segment found.
#[test]
fn a_trimmed_segment_stays_until_a_header_says_that_it_was_trimmed() {
    let disk = disk(1);
    let (wal, _) = open(&disk).unwrap();
    // Eight segments of five groups: more than the log keeps as spares when they are trimmed.
    while wal.last() < Lsn(40) {
        write(&wal, &[wal.last().0.to_le_bytes()[0]; 9000]);
    }
    let before = contents(&wal);
    assert!(wal.stats().segments_in_use >= 8, "{:?}", wal.stats());
    wal.trim(Lsn(39));
    wal.prepare(false).unwrap();
    assert!(wal.first() > Lsn(30), "whole segments were trimmed");
    let first = wal.first();
    disk.power_cut();
    drop(wal);
    let (wal, _) = open(&disk).unwrap();
    let found = contents(&wal);
    assert!(before.range(first.0..).all(|(lsn, payload)| found.get(lsn) == Some(payload)));
}

/// Lost: acknowledged records, with the file they were in. The killed process had made a spare; its
/// name was in the cache only. After the restart the spare was put to use without syncing the
/// directory, and a power cut took the name.
#[test]
fn what_a_killed_process_left_behind_is_named_durably_before_it_is_used() {
    let mut named_in_the_cache_only = 0;
    for at in 1..40 {
        let disk = disk(at);
        disk.fail_at(at, Fault::Kill);
        let opened = open(&disk);
        disk.clear_faults();
        disk.restart();
        drop(opened);
        let is_segment = |path: &Path| path.extension().is_some();
        let files = disk.files().into_iter();
        let files: Vec<_> = files.filter(|file| is_segment(&file.path)).collect();
        named_in_the_cache_only += files.iter().filter(|file| file.durable_len.is_none()).count();

        let (wal, _) = open(&disk).unwrap();
        // Into the second segment, and not so far that another spare is made: that syncs the names.
        let mut last = Lsn(0);
        while last < Lsn(20) {
            last = write(&wal, &[7; 3000]);
        }
        disk.power_cut();
        drop(wal);
        let (wal, _) = open(&disk).unwrap_or_else(|error| panic!("killed at {at}: {error}"));
        assert_eq!(wal.last(), Lsn(20), "killed at operation {at}");
        assert!(contents(&wal).values().all(|payload| *payload == [7; 3000]));
    }
    assert!(named_in_the_cache_only > 0, "the case was not met");
}

/// Lost: the whole log, refused as corrupt. The marker of a killed process was in the cache only.
/// Nothing behind it claimed it, for a marker has no position, and recovery wrote only records once
/// more. The next group went behind it; a power cut took the marker and left a hole before a group
/// which said that everything before it was durable.
#[test]
fn a_marker_that_was_in_the_cache_only_is_written_once_more() {
    let mut in_the_cache_only = 0;
    for seed in 0..16 {
        let disk = disk(seed);
        let (wal, _) = open(&disk).unwrap();
        write(&wal, b"before");
        disk.fail_at(disk.operations() + 1, Fault::Kill);
        wal.prepare(true).unwrap_err();
        disk.restart();
        drop(wal);
        let differs = |content: Option<Vec<u8>>| content.unwrap()[8192..8196] == *b"SLGR";
        let (seen, durable) = (
            differs(disk.visible_content(Path::new(FIRST_SEGMENT))),
            differs(disk.durable_content(Path::new(FIRST_SEGMENT))),
        );
        in_the_cache_only += u32::from(seen && !durable);

        let (wal, _) = open(&disk).unwrap();
        write(&wal, b"after");
        disk.power_cut();
        drop(wal);
        let (wal, _) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let expected = [(1, b"before".to_vec()), (2, b"after".to_vec())];
        assert_eq!(contents(&wal), BTreeMap::from(expected), "seed {seed}");
    }
    assert!(in_the_cache_only > 0, "the case was not met");
}

/// Lost: everything. The log's identity in the header of the only segment was damaged; its groups
/// did not check under that identity, so the file was taken for a spare that was cut off, and the log
/// started over, empty. Whatever is damaged there, the log refuses.
#[test]
fn the_only_header_damaged_is_no_reason_to_start_over() {
    for bit in 0..64 * 8 {
        let disk = disk(2);
        let (wal, _) = open(&disk).unwrap();
        write(&wal, b"acknowledged");
        drop(wal);
        disk.flip_bit(Path::new(FIRST_SEGMENT), bit);
        let before = disk.visible_content(Path::new(FIRST_SEGMENT));
        match open(&disk) {
            Err(Error::Corruption { path, .. }) => assert_eq!(path, Path::new(FIRST_SEGMENT)),
            other => panic!("bit {bit} of the header: {:?}", other.map(|(_, recovery)| recovery)),
        }
        assert_eq!(disk.visible_content(Path::new(FIRST_SEGMENT)), before, "the evidence stays");
    }
}

/// Lost: the last acknowledged record, without a word. Its group's header was rotten, so it did not
/// look like a group of this log, so the log ended cleanly before it. One disk cannot tell that from
/// a torn tail while no marker claims the group; it can tell it from nothing.
#[test]
fn a_rotten_header_of_the_last_group_is_no_clean_end() {
    for bit in 0..64 * 8 {
        let disk = disk(3);
        let (wal, _) = open(&disk).unwrap();
        write(&wal, b"claimed by the next");
        write(&wal, b"claimed by nothing");
        disk.kill();
        drop(wal);
        let at = FIRST_GROUP * 2;
        disk.flip_bit(Path::new(FIRST_SEGMENT), at * 8 + bit);
        let (wal, recovery) = open(&disk).unwrap();
        let path = Path::new(FIRST_SEGMENT).to_path_buf();
        let suspect = Tail::Suspect { path, offset: at, first: Lsn(2) };
        assert_eq!(recovery.tail, suspect, "bit {bit} of the last group's header");
        assert_eq!(wal.last(), Lsn(1));
    }
}

/// The same with a marker behind: it claims the group, so the log refuses.
#[test]
fn a_rotten_header_before_a_marker_is_corruption() {
    for bit in 0..64 * 8 {
        let disk = disk(4);
        let (wal, _) = open(&disk).unwrap();
        write(&wal, b"claimed by the marker");
        wal.prepare(true).unwrap();
        disk.kill();
        drop(wal);
        disk.flip_bit(Path::new(FIRST_SEGMENT), FIRST_GROUP * 8 + bit);
        match open(&disk) {
            Err(Error::Corruption { offset, .. }) => assert_eq!(offset, FIRST_GROUP, "bit {bit}"),
            other => panic!("bit {bit}: {:?}", other.map(|(_, recovery)| recovery)),
        }
    }
}

/// Lost: nothing yet, but the last group of a log that was closed looked like a torn one when it was
/// rotten: it filled its segment, and there was no room for the marker. Found by the corruption matrix
/// of the benches, whose forty records fill three segments exactly.
#[test]
fn the_last_group_is_claimed_where_no_marker_fits_behind_it() {
    for closes in [true, false] {
        let disk = disk(6);
        let (wal, _) = open(&disk).unwrap();
        for number in 0..14 {
            write(&wal, &[number; 100]);
        }
        assert_eq!(wal.stats().segments_in_use, 1, "it is just full");
        match closes {
            true => wal.close().unwrap(),
            false => wal.prepare(true).unwrap(),
        }
        disk.kill();
        drop(wal);
        let (sound, recovery) = open(&disk).unwrap();
        assert_eq!((recovery.closed, recovery.last), (closes, Lsn(14)));
        disk.kill();
        drop(sound);
        disk.flip_bit(Path::new(FIRST_SEGMENT), 14 * FIRST_GROUP * 8 + 100);
        match open(&disk) {
            Err(Error::Corruption { .. }) => {}
            // Sealed segments are checked when they are read.
            Ok((wal, recovery)) => {
                assert_eq!(recovery.last, Lsn(14), "closed: {closes}");
                let mut reader = wal.reader(Lsn(14));
                assert!(matches!(reader.next_records(), Err(Error::Corruption { .. })));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Lost: time, eleven seconds of it. Groups of the active segment were read one by one, with two
/// transfers of the disk each, so a store that was killed after many small groups replayed them at
/// the pace of the disk. The reads are counted: a stretch holds hundreds of small groups.
#[test]
fn small_groups_are_not_read_one_by_one() {
    let disk = disk(5);
    let options = || strandline_wal::Options { segment_size: 2 << 20, ..options() };
    let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options()).unwrap();
    while wal.last() < Lsn(500) {
        write(&wal, b"a group of its own");
    }
    disk.kill();
    drop(wal);
    let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options()).unwrap();
    let before = disk.counters().reads;
    assert_eq!(contents(&wal).len(), 500);
    let reads = disk.counters().reads - before;
    assert!(reads < 20, "{reads} reads for 500 groups of one block");
}

/// Lost: a spare of the next life, and with it what was acknowledged in it. A log that had stopped
/// after failed writes still made spares when its last handle went, or when it was asked to, long after it was
/// closed. Its number for the next file was the one that the new log had just given: the file was
/// there, and making it again failed, and what was "made" was removed.
#[test]
fn a_log_that_stopped_and_was_closed_leaves_the_directory_to_the_next_one() {
    let disk = disk(7);
    let (old, _) = open(&disk).unwrap();
    write(&old, b"kept");
    disk.fail_writes_from(disk.operations() + 1, u64::MAX);
    let lsn = old.append(b"fails twice").unwrap();
    assert!(matches!(old.wait(lsn), Err(Error::Poisoned { .. })));
    assert!(matches!(old.append(b"refused"), Err(Error::Poisoned { .. })));
    disk.clear_faults();
    assert!(matches!(old.close(), Err(Error::Poisoned { .. })), "closed, and why it had stopped");
    assert!(matches!(old.append(b"refused"), Err(Error::Closed)));
    let (new, _) = open(&disk).unwrap();
    while new.stats().segments_in_use < 3 {
        write(&new, &[1; 9000]);
    }
    let before = disk.operations();
    old.prepare(true).unwrap();
    old.close().unwrap();
    drop(old);
    assert_eq!(disk.operations(), before, "nothing is done in a directory that is another's");
    let last = write(&new, b"acknowledged");
    disk.power_cut();
    drop(new);
    let (again, _) = open(&disk).unwrap();
    assert_eq!(contents(&again).get(&last.0).unwrap(), b"acknowledged");
}
