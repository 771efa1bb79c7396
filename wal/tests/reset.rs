//! A log that begins anew after a snapshot: as it was or as it is to be, never a mixture.
//!
//! Method: a workload that fills some segments, resets the log and appends again, with each fault at
//! every operation in turn; then the log is opened and read.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{DIR, options};
use strandline_wal::disk::simulated::{Fault, SimulatedDisk, Survival};
use strandline_wal::{Error, Lsn, Wal};

const OLD_COUNT: u64 = 28;
const NEW_COUNT: u64 = 5;

/// What a run has been told.
#[derive(Default)]
struct Told {
    /// Acknowledged records of the old log.
    old: u64,
    reset_begun: bool,
    reset_done: bool,
    /// Acknowledged records of the new log.
    new: u64,
}

fn payload(is_new: bool, at: u64) -> Vec<u8> {
    let mut payload = vec![u8::from(is_new); 3000];
    payload[..8].copy_from_slice(&at.to_le_bytes());
    payload
}

fn work(disk: &Arc<SimulatedDisk>, first: u64, told: &mut Told) -> Result<(), Error> {
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options())?;
    for at in 1..=OLD_COUNT {
        let lsn = wal.append(&payload(false, at))?;
        wal.wait(lsn)?;
        told.old = at;
        wal.prepare(false)?;
    }
    wal.trim(Lsn(OLD_COUNT / 4));
    told.reset_begun = true;
    wal.reset(Lsn(first))?;
    told.reset_done = true;
    assert_eq!((wal.first(), wal.last(), wal.durable()), (Lsn(first), Lsn(first - 1), wal.last()));
    for at in first..first + NEW_COUNT {
        let lsn = wal.append(&payload(true, at))?;
        assert_eq!(lsn, Lsn(at));
        wal.wait(lsn)?;
        told.new = at;
        wal.prepare(true)?;
    }
    wal.close()
}

fn check(disk: &Arc<SimulatedDisk>, first: u64, told: &Told) {
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options()).unwrap();
    // The old log never stood at or behind its count when the new one begins there.
    let is_new = match told.reset_done {
        true => true,
        false => told.reset_begun && (wal.first(), wal.last()) == (Lsn(first), Lsn(first - 1)),
    };
    let (begin, acknowledged) = match is_new {
        true => (first, told.new.max(first - 1)),
        false => (wal.first().0, told.old),
    };
    assert_eq!(wal.first().0, begin);
    assert!(wal.last().0 >= acknowledged, "{} after {acknowledged}", wal.last());
    assert!(is_new || begin <= OLD_COUNT / 4 + 1, "the old log begins at {begin}");
    let mut next = begin;
    let mut reader = wal.reader(Lsn(begin));
    while let Some(records) = reader.next_records().unwrap() {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            assert_eq!(lsn, Lsn(next));
            assert_eq!(record.payload, payload(is_new, next), "position {next}");
            next += 1;
        }
    }
    assert_eq!(next, wal.last().0 + 1);
    // And it goes on.
    let lsn = wal.append(&payload(is_new, next)).unwrap();
    wal.wait(lsn).unwrap();
    assert_eq!(lsn, Lsn(next));
    wal.close().unwrap();
}

#[test]
fn every_fault_at_every_operation_leaves_one_log_or_the_other() {
    // Ahead of the old log, at its very end, and before: a log with a conflicting suffix.
    for first in [100, OLD_COUNT + 1, 15] {
        let operations = {
            let disk = SimulatedDisk::new(3);
            work(&disk, first, &mut Told::default()).unwrap();
            disk.operations()
        };
        let mut runs = 0;
        for fault in Fault::ALL {
            for at in 1..=operations {
                for survival in [Survival::NOTHING, Survival::of(500)] {
                    let disk = SimulatedDisk::new(at);
                    disk.set_survival(survival);
                    disk.fail_at(at, fault);
                    let mut told = Told::default();
                    let _ = work(&disk, first, &mut told);
                    disk.clear_faults();
                    if disk.restart().is_none() {
                        disk.power_cut();
                    }
                    check(&disk, first, &told);
                    disk.power_cut();
                    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options()).unwrap();
                    assert!(
                        wal.last().0 > told.new.max(if told.reset_done { first - 1 } else { 0 })
                    );
                    runs += 1;
                }
            }
        }
        println!("{runs} runs over {operations} operations, first {first}");
    }
}

/// A thread that may not wait: nothing is durable until the disk says so, and nothing blocks.
#[test]
fn a_pumped_log_never_waits() {
    let disk = SimulatedDisk::new(1);
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options()).unwrap();
    disk.set_stepped(true);
    let mut refused = 0;
    let mut appended = 0;
    for _ in 0..200 {
        match wal.try_append_all(&[&payload(true, appended + 1)]).unwrap() {
            Some(lsn) => {
                appended += 1;
                assert_eq!(lsn, Lsn(appended));
            }
            None => {
                refused += 1;
                disk.complete_one();
            }
        }
        wal.pump().unwrap();
    }
    assert!(refused > 0 && wal.durable() < wal.last());
    while !disk.in_flight().is_empty() {
        disk.complete_one();
        wal.pump().unwrap();
    }
    assert_eq!(wal.durable(), Lsn(appended));
}
