//! Damage in a sealed segment of an open log: found while the log is in use, and mended with records
//! from elsewhere.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::simulated::{Fault, SimulatedDisk, Survival};
use strandline_wal::record::{Kind, Record};
use strandline_wal::{Damage, Error, Lsn, Wal};

mod common;
use common::{DIR, options};

/// Where the groups of the second segment stand: two blocks and a bit each, and a marker.
const BLOCK: u64 = 4096;

fn open(disk: &Arc<SimulatedDisk>) -> Wal {
    Wal::open(disk.mount(), Path::new(DIR), options()).unwrap().0
}

fn payload(lsn: u64) -> Vec<u8> {
    vec![u8::try_from(lsn % 251).unwrap(); 5000]
}

/// A log of three sealed segments and an active one; groups of one record, and a marker after the
/// twelfth.
fn written(disk: &Arc<SimulatedDisk>) -> Wal {
    let wal = open(disk);
    while wal.stats().segments_in_use < 4 {
        let lsn = wal.append(&payload(wal.last().0 + 1)).unwrap();
        wal.wait(lsn).unwrap();
        wal.prepare(lsn.0 == 12).unwrap();
    }
    // Opened anew, it reads from the disk.
    wal.close().unwrap();
    drop(wal);
    open(disk)
}

/// Everything that can be read, and the first error.
fn read(wal: &Wal) -> (BTreeMap<u64, Vec<u8>>, Option<Error>) {
    let mut found = BTreeMap::new();
    let mut reader = wal.reader(wal.first());
    loop {
        match reader.next_records() {
            Ok(Some(records)) => {
                for record in records.iter() {
                    let (lsn, record) = record.unwrap();
                    found.insert(lsn.0, record.payload.to_vec());
                }
            }
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error)),
        }
    }
}

fn is_whole(wal: &Wal) -> bool {
    let (found, error) = read(wal);
    error.is_none() && (1..=wal.last().0).all(|lsn| found.get(&lsn) == Some(&payload(lsn)))
}

/// A whole round of verification, a little at a time.
fn scrub(wal: &Wal) -> Vec<Damage> {
    let mut damages = Vec::new();
    loop {
        let step = wal.scrub(3 * BLOCK).unwrap();
        // A group or a gap more than asked for.
        assert!(step.bytes < 12 * BLOCK, "a step is bounded: {step:?}");
        damages.extend(step.damages);
        if step.finished {
            return damages;
        }
    }
}

fn repair(wal: &Wal, first: Lsn, end: Lsn) -> Result<strandline_wal::Repaired, Error> {
    let payloads: Vec<_> = (first.0..end.0).map(payload).collect();
    let records: Vec<_> =
        payloads.iter().map(|payload| Record { kind: Kind::ENTRY, payload }).collect();
    wal.repair(first, &records)
}

/// The second segment in use, and where in it the group of a position stands.
fn place(disk: &Arc<SimulatedDisk>, lsn: u64) -> (PathBuf, u64) {
    for file in disk.files() {
        let content = disk.visible_content(&file.path).unwrap();
        for offset in (BLOCK..file.len).step_by(4096) {
            let at = usize::try_from(offset).unwrap();
            let first = u64::from_le_bytes(content[at + 24..at + 32].try_into().unwrap());
            let count = content[at + 32];
            if content[at..at + 4] == *b"SLGR" && first == lsn && count > 0 {
                return (file.path, offset);
            }
        }
    }
    panic!("position {lsn} is nowhere");
}

#[test]
fn a_sound_log_is_gone_through_and_nothing_is_found() {
    let disk = SimulatedDisk::new(1);
    let wal = written(&disk);
    assert_eq!(scrub(&wal), vec![]);
    assert_eq!(scrub(&wal), vec![], "and once more");
    let records = repair(&wal, Lsn(1), Lsn(3)).unwrap();
    assert_eq!(records.places, 0, "there is nothing to mend");
}

/// Bits of the body, of the header, of a marker, and a block that cannot be read.
#[test]
fn damage_is_found_and_mended_and_the_records_are_proven() {
    for (lsn, bit, first, end) in [
        (10, 8 * 100, 10, 11),
        (10, 8 * 4200, 10, 11),
        (10, 8 * 6, 10, 11),
        (10, 8 * 40, 10, 11),
        (12, 8 * (2 * BLOCK + 20), 13, 13),
    ] {
        let disk = SimulatedDisk::new(2);
        let wal = written(&disk);
        let (path, offset) = place(&disk, lsn);
        disk.flip_bit(&path, offset * 8 + bit);
        let damages = scrub(&wal);
        assert_eq!(damages.len(), 1, "bit {bit}: {damages:?}");
        assert_eq!((damages[0].first, damages[0].end), (Lsn(first), Lsn(end)), "bit {bit}");
        assert_eq!(damages[0].path, path);
        assert_eq!(wal.damages(), damages);
        assert!(!is_whole(&wal), "bit {bit}");
        let done = repair(&wal, Lsn(first), Lsn(end)).unwrap();
        assert_eq!((done.records, done.proven), (end - first, end - first), "bit {bit}");
        assert!(is_whole(&wal), "bit {bit}");
        assert_eq!(scrub(&wal), vec![]);
        assert_eq!(wal.damages(), vec![]);
        disk.set_survival(Survival::NOTHING);
        disk.power_cut();
        drop(wal);
        assert!(is_whole(&open(&disk)), "bit {bit}: it was durable");
    }
}

/// The segment that is being written is ended first. A replica that took part in nothing until its log
/// was whole waited for ever: nothing else would have ended it. Found by the cluster simulator,
/// profile `default`, seed 380.
#[test]
fn damage_in_the_active_segment_is_mended_too() {
    for is_full in [false, true] {
        let disk = SimulatedDisk::new(6);
        let wal = written(&disk);
        let last = wal.last().0;
        let (path, offset) = place(&disk, last);
        disk.flip_bit(&path, offset * 8 + 800);
        let damages = scrub(&wal);
        assert_eq!((damages[0].first, damages[0].end), (Lsn(last), Lsn(last + 1)));
        assert!(matches!(repair(&wal, Lsn(last), Lsn(last + 2)), Err(Error::OutOfRange { .. })));
        if is_full {
            disk.set_full(true);
            assert!(repair(&wal, Lsn(last), Lsn(last + 1)).unwrap_err().is_full());
            disk.set_full(false);
        }
        let done = repair(&wal, Lsn(last), Lsn(last + 1)).unwrap();
        assert_eq!((done.records, done.proven), (1, 1));
        assert!(is_whole(&wal));
        let lsn = wal.append(&payload(last + 1)).unwrap();
        wal.wait(lsn).unwrap();
        assert_eq!(scrub(&wal), vec![]);
        disk.set_survival(Survival::NOTHING);
        disk.power_cut();
        drop(wal);
        let wal = open(&disk);
        assert_eq!(wal.last(), lsn);
        assert!(is_whole(&wal));
    }
}

/// Several groups in a row with their headers: nothing proves what stood there.
#[test]
fn a_run_of_lost_groups_is_mended_on_trust() {
    let disk = SimulatedDisk::new(3);
    let wal = written(&disk);
    let (path, offset) = place(&disk, 10);
    disk.corrupt(&path, offset, &[0xff; 4 * 4096]);
    let damages = scrub(&wal);
    assert_eq!((damages[0].first, damages[0].end), (Lsn(10), Lsn(12)));
    assert!(matches!(repair(&wal, Lsn(10), Lsn(11)), Err(Error::OutOfRange { .. })));
    let done = repair(&wal, Lsn(9), Lsn(13)).unwrap();
    assert_eq!((done.places, done.records, done.proven), (1, 2, 0));
    assert!(is_whole(&wal));
    drop(wal);
    let wal = open(&disk);
    assert!(is_whole(&wal));
    assert_eq!(scrub(&wal), vec![]);
}

/// Damage in the segments beside is left as it is: what was offered for one was refused for what nobody had found
/// yet in the next one. In the same segment nothing is written around it. Found by the cluster simulator, profile
/// `damage`, seed 31107702.
#[test]
fn damage_that_nothing_is_offered_for_stays() {
    let disk = SimulatedDisk::new(7);
    let wal = written(&disk);
    let end = wal.segment_end(Lsn(10)).unwrap();
    for lsn in [end.0 - 3, end.0 - 1, end.0] {
        let (path, offset) = place(&disk, lsn);
        disk.flip_bit(&path, offset * 8 + 800);
    }
    let refused = repair(&wal, Lsn(end.0 - 1), end).unwrap_err();
    assert!(matches!(refused, Error::OutOfRange { .. }), "{refused}");
    let done = repair(&wal, Lsn(end.0 - 3), end).unwrap();
    assert_eq!((done.places, done.records), (2, 2));
    let damages = scrub(&wal);
    assert_eq!((damages.len(), damages[0].first), (1, end), "{damages:?}");
    assert_eq!(repair(&wal, end, end.next()).unwrap().places, 1);
    assert!(is_whole(&wal));
}

#[test]
fn what_cannot_have_been_there_is_refused() {
    for bit in [8 * 100, 8 * 6] {
        let disk = SimulatedDisk::new(4);
        let wal = written(&disk);
        let (path, offset) = place(&disk, 10);
        disk.flip_bit(&path, offset * 8 + bit);
        let before = disk.visible_content(&path);
        let other = payload(11);
        let offered = wal.repair(Lsn(10), &[Record { kind: Kind::ENTRY, payload: &other }]);
        if bit == 8 * 100 {
            // The header is whole and has the checksum.
            assert!(matches!(offered, Err(Error::Mismatch { lsn: 10, .. })), "{offered:?}");
            assert_eq!(disk.visible_content(&path), before, "nothing has changed");
        } else {
            // The chain does not tell one wrong record from two right groups.
            assert_eq!(offered.unwrap().proven, 0);
        }
    }
}

/// Whoever has another record where a sound one stands has others where damaged ones stood, too. A peer had
/// what was committed, and this log what was not: one of three was put between the two that were whole. Found by
/// the cluster simulator, profile `damage`, seed 31127943.
#[test]
fn what_is_offered_for_sound_records_is_what_stands_there() {
    let disk = SimulatedDisk::new(4);
    let wal = written(&disk);
    for lsn in [10, 14] {
        let (path, offset) = place(&disk, lsn);
        disk.corrupt(&path, offset, &[0xff; 100]);
    }
    let damages = scrub(&wal);
    assert_eq!((damages[0].first, damages[1].end), (Lsn(10), Lsn(15)));
    let before: Vec<_> = disk.files().iter().map(|f| disk.visible_content(&f.path)).collect();
    let payloads: Vec<_> = (9..16).map(payload).collect();
    for (other, kind) in [(9, Kind::ENTRY), (12, Kind::ENTRY), (15, Kind::ENTRY), (12, Kind::EDIT)]
    {
        let record = |(lsn, payload)| match lsn == other {
            true => Record { kind, payload: if kind == Kind::EDIT { payload } else { b"other" } },
            false => Record { kind: Kind::ENTRY, payload },
        };
        let records: Vec<Record<'_>> =
            (9..).zip(payloads.iter().map(Vec::as_slice)).map(record).collect();
        let refused = wal.repair(Lsn(9), &records).unwrap_err();
        assert!(matches!(refused, Error::Mismatch { lsn, .. } if lsn == other), "{refused}");
    }
    let after: Vec<_> = disk.files().iter().map(|f| disk.visible_content(&f.path)).collect();
    assert_eq!(before, after, "nothing has changed");
    assert_eq!(repair(&wal, Lsn(9), Lsn(16)).unwrap().places, 2);
    assert!(is_whole(&wal));
}

#[test]
fn a_full_disk_refuses_a_repair_and_nothing_else() {
    let disk = SimulatedDisk::new(5);
    let wal = written(&disk);
    let (path, offset) = place(&disk, 10);
    disk.flip_bit(&path, offset * 8 + 800);
    disk.set_full(true);
    assert!(matches!(repair(&wal, Lsn(10), Lsn(11)), Err(Error::Full { .. })));
    let lsn = wal.append(&payload(wal.last().0 + 1)).unwrap();
    wal.wait(lsn).unwrap();
    disk.set_full(false);
    repair(&wal, Lsn(10), Lsn(11)).unwrap();
    assert!(is_whole(&wal));
}

/// Every fault at every operation of a repair: the damaged segment or the mended one is there, and
/// the log goes on. Afterwards the segment is trimmed and put to use again.
#[test]
fn a_repair_that_is_cut_off_leaves_one_or_the_other() {
    let mut mended = 0;
    for fault in Fault::ALL {
        for ahead in 1.. {
            let disk = SimulatedDisk::new(ahead);
            disk.set_survival(Survival::of(500));
            let wal = written(&disk);
            let (path, offset) = place(&disk, 10);
            disk.flip_bit(&path, offset * 8 + 800);
            let before = disk.operations();
            disk.fail_at(before + ahead, fault);
            let outcome = repair(&wal, Lsn(10), Lsn(11));
            let is_past = disk.operations() < before + ahead;
            assert!(outcome.is_ok() || !is_past, "{fault:?}: {outcome:?}");
            disk.clear_faults();
            let last = wal.last();
            if disk.restart().is_none() {
                // It lives on: what was replaced is put to use again, then the power fails.
                wal.trim(Lsn(last.0 - 1));
                wal.prepare(false).unwrap();
                while wal.last() < Lsn(last.0 + 30) {
                    let lsn = wal.append(&payload(wal.last().0 + 1)).unwrap();
                    wal.wait(lsn).unwrap();
                }
                let (_, error) = read(&wal);
                assert!(error.is_none(), "{fault:?} at {ahead}: {error:?}");
                let (first, last) = (wal.first(), wal.last());
                disk.power_cut();
                drop(wal);
                let wal = open(&disk);
                let (found, error) = read(&wal);
                assert!(error.is_none(), "{fault:?} at {ahead}: {error:?}");
                let is_there = |lsn| found.get(&lsn) == Some(&payload(lsn));
                assert!((first.0..=last.0).all(is_there), "{fault:?} at {ahead}");
            } else {
                drop(wal);
                let wal = open(&disk);
                assert_eq!(wal.last(), last, "{fault:?} at {ahead}");
                let left = disk.files().iter().any(|file| file.path.ends_with("replacement"));
                assert!(!left, "nothing is left over");
                mended += u32::from(is_whole(&wal));
                repair(&wal, Lsn(10), Lsn(11)).unwrap();
                assert!(is_whole(&wal), "{fault:?} at {ahead}");
            }
            if is_past {
                break;
            }
        }
    }
    assert!(mended > 0);
}
