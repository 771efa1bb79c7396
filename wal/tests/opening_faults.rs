//! What goes wrong while a log is opened costs nothing that was acknowledged, wherever it does.
//!
//! A log of many segments, of which some hold nothing any more, whose end is unproven: its process was killed
//! with writes under way. Each operation of its opening fails once, in each way there is. Then it is opened
//! again, and once more after a power cut, with nothing written between.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::read_back::read;
use common::{DIR, options};
use strandline_wal::disk::simulated::{Fault, SimulatedDisk, Survival};
use strandline_wal::{Lsn, Wal};

fn payload(lsn: u64) -> Vec<u8> {
    vec![u8::try_from(lsn % 251).unwrap(); 3000]
}

fn open(disk: &Arc<SimulatedDisk>) -> strandline_wal::Result<Wal> {
    Ok(Wal::open(disk.mount(), Path::new(DIR), options())?.0)
}

/// The disk with the log, and the positions that it must hold: all from the first to the second, which was
/// acknowledged.
fn killed(seed: u64) -> (Arc<SimulatedDisk>, Lsn, Lsn) {
    let disk = SimulatedDisk::new(seed);
    let wal = open(&disk).unwrap();
    let append = |count: u64| {
        for _ in 0..count {
            let lsn = wal.append(&payload(wal.last().0 + 1)).unwrap();
            wal.wait(lsn).unwrap();
            wal.prepare(false).unwrap();
        }
    };
    append(60);
    wal.trim(Lsn(25));
    wal.prepare(false).unwrap();
    append(40);
    disk.set_stepped(true);
    let acknowledged = wal.last();
    let mut last = acknowledged;
    for _ in 0..4 {
        last = wal.append(&payload(last.0 + 1)).unwrap();
        wal.request(last);
        wal.pump().unwrap();
    }
    let first = wal.first();
    disk.kill();
    disk.restart();
    drop(wal);
    disk.set_stepped(false);
    (disk, first, acknowledged)
}

/// What an opening finds.
fn opened(disk: &Arc<SimulatedDisk>, first: Lsn, case: &str) -> (Wal, Vec<u64>) {
    let wal = open(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
    let found = read(&wal, first, payload).unwrap_or_else(|error| panic!("{case}: {error}"));
    (wal, found)
}

#[test]
fn each_operation_of_an_opening_may_fail() {
    let mut failed: BTreeMap<String, u64> = BTreeMap::new();
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        for stepped in [false, true] {
            let (written, first, acknowledged) = killed(u64::try_from(number).unwrap());
            for at in 1.. {
                let case = format!("{fault:?} at operation {at}, stepped: {stepped}");
                let disk = written.fork(at);
                disk.set_survival(Survival::of(500));
                disk.set_stepped(stepped);
                let end = disk.operations() + at;
                disk.fail_at(end, fault);
                let result = open(&disk);
                let is_met = disk.operations() >= end;
                *failed.entry(format!("{fault:?}")).or_default() += u64::from(result.is_err());
                drop(result);
                disk.clear_faults();
                match disk.is_down() {
                    true => drop(disk.restart()),
                    false => disk.kill(),
                }
                let (wal, found) = opened(&disk, first, &case);
                let expected: Vec<u64> = (first.0..=acknowledged.0).collect();
                assert!(found.starts_with(&expected), "{case}: {found:?}");
                disk.set_survival(Survival::NOTHING);
                disk.power_cut();
                drop(wal);
                let (_, again) = opened(&disk, first, &case);
                assert_eq!(again, found, "{case}");
                if !is_met {
                    break;
                }
            }
        }
    }
    // The headers, the end of the log, and of the crashes all there is.
    assert!(failed.values().all(|count| *count > 10), "{failed:?}");
}
