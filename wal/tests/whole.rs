//! Appends that are a group of their own: made before the log is locked, and otherwise as all others.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::SimulatedDisk;
use strandline_wal::{Error, Lsn, Options, Wal};

#[path = "common/cipher.rs"]
#[allow(dead_code, unreachable_pub)]
mod cipher;

const DIR: &str = "/log";
const SEGMENT: u64 = 256 << 10;
const GROUP: usize = 16 << 10;

fn open(disk: &Arc<SimulatedDisk>) -> Wal {
    let options = Options {
        segment_size: SEGMENT,
        group_size_max: GROUP,
        background: false,
        ..Options::default()
    };
    Wal::open(disk.clone(), Path::new(DIR), options).unwrap().0
}

/// Payloads that differ in every place, by their number.
fn payload(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + number * 31) % 251).unwrap()).collect()
}

fn all(wal: &Wal) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut reader = wal.reader(Lsn(1));
    while let Some(records) = reader.next_records().unwrap() {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            found.push(record.payload.to_vec());
            assert_eq!(lsn, Lsn(u64::try_from(found.len()).unwrap()));
        }
    }
    found
}

/// Small and large, alone and in batches that are a group, more than one, or a part of one.
#[test]
fn they_stand_between_others_in_order() {
    let disk = SimulatedDisk::new(3);
    let wal = open(&disk);
    let mut expected = Vec::new();
    let half = GROUP / 2;
    let batches: [&[usize]; 9] = [
        &[10],
        &[half + 1],
        &[10, 20],
        &[100 << 10],
        &[half / 2, half / 2, half / 2],
        &[half, half, half],
        &[GROUP - 64 - 12],
        &[0, half, 0],
        &[10],
    ];
    for lens in batches.iter().cycle().take(40) {
        let payloads: Vec<_> = lens
            .iter()
            .map(|len| {
                expected.push(payload(expected.len(), *len));
                expected.last().unwrap().clone()
            })
            .collect();
        let payloads: Vec<_> = payloads.iter().map(Vec::as_slice).collect();
        let last = wal.append_all(&payloads).unwrap();
        assert_eq!(last, Lsn(u64::try_from(expected.len()).unwrap()));
        if expected.len() % 3 == 0 {
            wal.wait(last).unwrap();
        }
    }
    wal.sync().unwrap();
    assert_eq!(all(&wal), expected);
    drop(wal);
    disk.power_cut();
    disk.restart();
    let wal = open(&disk.mount());
    assert_eq!(all(&wal), expected);
    let verified = strandline_wal::verify(&*disk.mount(), Path::new(DIR)).unwrap();
    assert!(verified.damages.is_empty(), "{:?}", verified.damages);
}

/// What nothing would share a group with does not wait for others, and small ones may still follow in it.
#[test]
fn each_is_one_group() {
    let wal = open(&SimulatedDisk::new(4));
    let groups = || wal.stats().groups;
    let before = groups();
    for number in 0..4 {
        wal.append(&payload(number, GROUP / 2)).unwrap();
    }
    wal.wait(wal.last()).unwrap();
    assert_eq!(groups(), before + 4);
    wal.append(&payload(4, GROUP / 2)).unwrap();
    wal.append(b"behind it").unwrap();
    wal.sync().unwrap();
    assert_eq!(groups(), before + 5);
}

/// Refused for want of space, an append has changed nothing, and the next one is as good as ever.
#[test]
fn a_refused_one_leaves_no_trace() {
    let disk = SimulatedDisk::new(5);
    let wal = open(&disk);
    disk.set_full(true);
    let large = payload(0, 100 << 10);
    let mut count = 0;
    let refused = loop {
        match wal.append(&large) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 100, "a full disk takes them all");
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert!(matches!(wal.append_all(&[&large[..GROUP / 4]; 3]), Ok(_) | Err(Error::Full { .. })));
    disk.set_full(false);
    wal.append(&large).unwrap();
    wal.sync().unwrap();
    let found = all(&wal);
    assert!(found.len() > count);
    assert!(found[..count].iter().all(|payload| *payload == large));
    assert_eq!(*found.last().unwrap(), large);
}

/// A batch that would fill a segment to its last bytes is one group only if its envelope fits, too.
#[test]
fn room_is_kept_for_the_envelope() {
    let disk = SimulatedDisk::new(6);
    let options = Options {
        segment_size: SEGMENT,
        group_size_max: 300 << 10,
        background: false,
        encryption: Some(cipher::keyring(1)),
        ..Options::default()
    };
    let wal = Wal::open(disk, Path::new(DIR), options).unwrap().0;
    let room = usize::try_from(SEGMENT).unwrap() - 2 * 4096;
    // Header, and the records' own headers.
    let most = (room - 64) / 4 - 12;
    let mut expected = Vec::new();
    for less in [0, 13, 14, 15] {
        wal.prepare(false).unwrap();
        let payloads: Vec<_> = (0..4).map(|number| payload(number, most - less)).collect();
        let slices: Vec<_> = payloads.iter().map(Vec::as_slice).collect();
        let last = wal.append_all(&slices).unwrap();
        wal.wait(last).unwrap();
        expected.extend(payloads);
    }
    assert!(all(&wal) == expected);
}
