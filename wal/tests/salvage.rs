//! Making a damaged log at rest open again.
//!
//! Goal: whatever is damaged, a plan changes nothing and says all; with consent the log opens, and holds
//! everything but what the plan said it would not. Method: the small log of the corruption matrix is
//! damaged in one place, or in two, planned, mended, opened and read; and at every operation of a salvage
//! the power fails, or the process is killed, or the disk refuses.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::Disk;
use strandline_wal::disk::simulated::{Fault, SimulatedDisk, Survival};
use strandline_wal::{Lsn, Positions, Salvage, Wal, verify};

mod common;
use common::small_log::{End, Log, payload as small_payload, written};
use common::{DIR, options};

const BLOCK: usize = 4096;

fn contents(disk: &SimulatedDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = disk.files().into_iter().filter(|file| file.path.extension().is_some());
    files.map(|file| (file.path.clone(), disk.visible_content(&file.path).unwrap())).collect()
}

/// All records that can be read: those before the first that refuses, and those behind it.
fn readable(wal: &Wal) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut from = wal.first();
    while from <= wal.durable() {
        let mut reader = wal.reader(from);
        match reader.next_records() {
            Ok(Some(records)) => {
                for record in records.iter() {
                    let (lsn, record) = record.unwrap();
                    found.insert(lsn.0, record.payload.to_vec());
                }
                from = reader.next_lsn();
            }
            Ok(None) => break,
            Err(_) => from = from.next(),
        }
    }
    found
}

fn is_in(positions: &[Positions], lsn: u64) -> bool {
    positions.iter().any(|range| (range.first.0..=range.last.0).contains(&lsn))
}

/// Plans, mends with consent, opens and reads.
fn mend(log: &Log, disk: &Arc<SimulatedDisk>, needed: u64, what: &str) -> Option<Salvage> {
    let before = contents(disk);
    let plan = Salvage::plan(&**disk, Path::new(DIR), Lsn(needed)).unwrap();
    assert_eq!(contents(disk), before, "{what}: a plan changes nothing");
    let refused = {
        let disk = disk.fork(1);
        Wal::open(disk, Path::new(DIR), options()).err()
    };
    if let Some(error) = &refused {
        assert!(!plan.damages.is_empty(), "{what}: it does not open ({error}), and all is well");
        assert!(plan.is_needed() || plan.unclear.is_some(), "{what}: {error}: {plan:?}");
    }
    let verified = verify(&**disk, Path::new(DIR)).unwrap();
    assert_eq!(verified.damages.len(), plan.damages.len(), "{what}");
    if plan.unclear.is_some() {
        return None;
    }
    if plan.cut.is_some() {
        let refused = Salvage::apply(&**disk, Path::new(DIR), Lsn(needed), None).unwrap();
        assert!(!refused.is_applied, "{what}");
        assert_eq!(contents(disk), before, "{what}: not without consent");
    }
    let consent = plan.cut.map(|cut| cut.first);
    let done = Salvage::apply(&**disk, Path::new(DIR), Lsn(needed), consent).unwrap();
    assert_eq!(done.is_applied, plan.is_needed(), "{what}");
    // A power cut changes nothing in what was done.
    disk.set_survival(Survival::NOTHING);
    disk.power_cut();
    check(log, disk, needed, &plan, what);
    let after = contents(disk);
    for (from, to) in &done.aside {
        let (kept, was) = (&after[to], &before[from]);
        assert!(kept.len() == was.len(), "{what}: {} is not kept", from.display());
    }
    Some(plan)
}

/// The log opens and holds what the plan left to it.
fn check(log: &Log, disk: &Arc<SimulatedDisk>, needed: u64, plan: &Salvage, what: &str) {
    let wal = opened_as_planned(log, disk, needed, plan, what);
    // It takes appends, and shows them again.
    let next = wal.last().next();
    let lsn = wal.append(b"behind").unwrap();
    assert_eq!(lsn, next);
    wal.wait(lsn).unwrap();
    wal.close().unwrap();
    let again = verify(&**disk, Path::new(DIR)).unwrap();
    let is_known = !plan.unreadable.is_empty() || again.damages.is_empty() || !plan.is_needed();
    assert!(is_known, "{what}: {:?}\n{plan:#?}", again.damages);
}

fn opened_as_planned(
    log: &Log,
    disk: &Arc<SimulatedDisk>,
    needed: u64,
    plan: &Salvage,
    what: &str,
) -> Wal {
    let opened = Wal::open(disk.mount(), Path::new(DIR), options());
    let (wal, _) = opened.unwrap_or_else(|error| panic!("{what}: {error}\n{plan:#?}"));
    let found = readable(&wal);
    for (lsn, payload) in &found {
        if plan.doubtful.is_some_and(|range| is_in(&[range], *lsn))
            && *payload == small_payload(*lsn, 1)
        {
            continue;
        }
        assert_eq!(log.records.get(lsn), Some(payload), "{what}: other bytes at {lsn}");
    }
    for lsn in log.records.keys().filter(|lsn| !found.contains_key(lsn)) {
        let is_named = plan.cut.is_some_and(|cut| *lsn >= cut.first.0)
            || plan.let_go.is_some_and(|range| is_in(&[range], *lsn))
            || is_in(&plan.unreadable, *lsn)
            // What opens without a salvage is the corruption matrix's business.
            || (!plan.is_needed() && Some(*lsn) >= log.unclaimed && log.unclaimed.is_some());
        assert!(is_named, "{what}: {lsn} is gone, and was not named\n{plan:#?}");
        assert!(
            plan.cut.is_some() || *lsn < needed || !plan.is_needed(),
            "{what}: {lsn} was needed"
        );
    }
    wal
}

/// A prime, so that all places have their turn over several logs.
fn stride(in_debug: usize) -> usize {
    if cfg!(debug_assertions) { in_debug } else { 1 }
}

fn segments(log: &Log) -> Vec<PathBuf> {
    contents(&log.disk).into_keys().collect()
}

/// A bit in every block, and one in every header.
#[test]
fn a_bit_anywhere() {
    for (end, needed) in
        [(End::Closed, 1), (End::Killed, 1), (End::Closed, 10_000), (End::Idle, 25)]
    {
        let log = written(end);
        let needed = u64::min(needed, log.records.keys().next_back().unwrap() + 1);
        let mut cuts = 0;
        for path in segments(&log) {
            let len = log.disk.visible_content(&path).unwrap().len();
            let places = (0..len)
                .step_by(BLOCK)
                .flat_map(|block| [block, block + 9, block + 50, block + 70]);
            for at in places.step_by(stride(7)) {
                let disk = log.disk.fork(1);
                disk.flip_bit(&path, u64::try_from(at * 8 + at % 8).unwrap());
                let what = format!("{end:?}, {needed} on: byte {at} of {}", path.display());
                let plan = mend(&log, &disk, needed, &what);
                cuts += u64::from(plan.is_some_and(|plan| plan.cut.is_some()));
            }
        }
        println!("{end:?}, needed from {needed} on: {cuts} were cut");
    }
}

/// Blocks that are gone, unreadable or others, and files that are gone, or cut off.
#[test]
fn a_block_or_a_file() {
    for (end, needed) in [(End::Closed, 1), (End::Killed, 25)] {
        let log = written(end);
        for path in segments(&log) {
            let content = log.disk.visible_content(&path).unwrap();
            for at in (0..content.len()).step_by(BLOCK * stride(5)) {
                let offset = u64::try_from(at).unwrap();
                let behind = (at + BLOCK) % content.len();
                let what = format!("{end:?}: block {at} of {}", path.display());
                for (name, bytes) in [
                    ("zeros", vec![0; BLOCK]),
                    ("ones", vec![0xff; BLOCK]),
                    ("the next block", content[behind..behind + BLOCK].to_vec()),
                    ("three blocks", vec![0xff; (3 * BLOCK).min(content.len() - at)]),
                ] {
                    let disk = log.disk.fork(1);
                    disk.corrupt(&path, offset, &bytes);
                    if is_said(&log, &disk) {
                        mend(&log, &disk, needed, &format!("{what}: {name}"));
                    }
                }
                let disk = log.disk.fork(1);
                disk.make_unreadable(&path, offset);
                mend(&log, &disk, needed, &format!("{what}: unreadable"));
            }
            if path == log.newest {
                continue;
            }
            let disk = log.disk.fork(1);
            disk.remove(&path).unwrap();
            mend(&log, &disk, needed, &format!("{end:?}: {} gone", path.display()));
        }
    }
}

/// What takes the last group and all that claims it away leaves a log that opens: that is the business of
/// the corruption matrix.
fn is_said(log: &Log, disk: &Arc<SimulatedDisk>) -> bool {
    let opened = Wal::open(disk.fork(1), Path::new(DIR), options());
    let last = log.records.keys().next_back();
    opened.map_or(true, |(wal, _)| Some(&wal.last().0) == last)
}

/// Two places at once: all of it is reported, and the log opens.
#[test]
fn two_places() {
    let log = written(End::Closed);
    let paths = segments(&log);
    for (number, (one, other)) in
        paths.iter().flat_map(|one| paths.iter().map(move |other| (one, other))).enumerate()
    {
        for (at, to) in [(4_u64, 40), (4, 4100), (4160, 12_300), (4100, 4100), (20_500, 4)] {
            let disk = log.disk.fork(1);
            disk.corrupt(one, at, &[0xa5; 40]);
            disk.corrupt(other, to, &[0x5a; 40]);
            if !is_said(&log, &disk) {
                continue;
            }
            for needed in [1, 20, 30] {
                let what = format!("{number}: {} {at}, {} {to}", one.display(), other.display());
                mend(&log, &disk.fork(1), needed, &what);
            }
        }
    }
}

/// A log whose newest header, whose first groups and whose middle file are gone, each as it needs a
/// salvage of another kind.
fn damaged(log: &Log) -> Vec<(&'static str, Arc<SimulatedDisk>)> {
    let header = log.disk.fork(1);
    header.corrupt(&log.newest, 0, &[0xff; 64]);
    let group = log.disk.fork(1);
    group.corrupt(&log.newest, 4096, &[0xff; 64]);
    let both = log.disk.fork(1);
    both.corrupt(&log.newest, 0, &[0xff; 8192]);
    let middle = log.disk.fork(1);
    let other = segments(log).into_iter().find(|path| {
        let content = log.disk.visible_content(path).unwrap();
        *path != log.newest && content[6] == 2
    });
    middle.corrupt(&other.unwrap(), 4096, &[0; 16384]);
    vec![("header", header), ("group", group), ("both", both), ("middle", middle)]
}

/// After a fault at every operation the log is damaged as before, or mended; the same again mends it, and
/// never is less there than the plan said.
#[test]
fn a_crash_at_every_operation() {
    for end in [End::Closed, End::Killed] {
        let log = written(end);
        for (name, damaged) in damaged(&log) {
            let plan = Salvage::plan(&*damaged, Path::new(DIR), Lsn(1)).unwrap();
            assert!(plan.is_needed(), "{name}: {plan:?}");
            let consent = plan.cut.map(|cut| cut.first);
            for fault in Fault::ALL {
                for (ahead, survival) in
                    (1..).zip([Survival::NOTHING, Survival::of(500)].iter().cycle())
                {
                    let disk = damaged.fork(ahead);
                    disk.set_survival(*survival);
                    let at = disk.operations() + ahead;
                    disk.fail_at(at, fault);
                    let _ = Salvage::apply(&*disk, Path::new(DIR), Lsn(1), consent);
                    let is_past = disk.operations() < at;
                    disk.clear_faults();
                    disk.restart();
                    let what = format!("{end:?}, {name}: {fault:?} at operation {ahead}");
                    // Whoever opens it now is refused, or finds what the plan left.
                    if Wal::open(disk.fork(1), Path::new(DIR), options()).is_ok() {
                        opened_as_planned(&log, &disk.fork(1), 1, &plan, &what);
                    }
                    let again = Salvage::apply(&*disk.mount(), Path::new(DIR), Lsn(1), consent);
                    again.unwrap_or_else(|error| panic!("{what}: {error}"));
                    disk.set_survival(Survival::NOTHING);
                    disk.power_cut();
                    check(&log, &disk, 1, &plan, &what);
                    if is_past {
                        break;
                    }
                }
            }
        }
    }
}
