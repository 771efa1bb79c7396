//! Large payloads, which are checksummed part by part: what is damaged is named, and nothing else changes.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::simulated::{Random, SimulatedDisk};
use strandline_wal::parts::PART_LEN;
use strandline_wal::record::{Kind, RECORD_HEADER_LEN, Record};
use strandline_wal::{Error, Lsn, Options, Tail, Wal, verify};

mod common;
use common::DIR;

const FIRST: &str = "/log/0000000000000001.segment";
/// Where the group stands that begins with the large record, and where its payload begins.
const GROUP: usize = 8192;
const PAYLOAD: usize = GROUP + 64 + RECORD_HEADER_LEN;
const LEN: usize = 4 * PART_LEN + 5000;

fn options(compress: bool) -> Options {
    Options {
        segment_size: 1 << 20,
        spares: 1,
        group_size_max: 512 << 10,
        background: false,
        new_log_id: 77,
        compress,
        ..Options::default()
    }
}

fn open(disk: &Arc<SimulatedDisk>, compress: bool) -> Wal {
    Wal::open(disk.mount(), Path::new(DIR), options(compress)).unwrap().0
}

/// The second record is large.
fn payload(lsn: u64) -> Vec<u8> {
    let mut payload = vec![7; if lsn == 2 { LEN } else { 100 }];
    let noise = payload.len() / 2;
    Random::new(lsn).fill(&mut payload[..noise]);
    payload
}

/// A group of one record, one of two of which the first is large, and one of one.
fn written(compress: bool) -> (Arc<SimulatedDisk>, Wal) {
    let disk = SimulatedDisk::new(1);
    let wal = open(&disk, compress);
    for group in [&[1][..], &[2, 3], &[4]] {
        let payloads: Vec<_> = group.iter().map(|lsn| payload(*lsn)).collect();
        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        wal.wait(wal.append_all(&slices).unwrap()).unwrap();
    }
    (disk, wal)
}

fn read(wal: &Wal, from: u64) -> Result<Vec<u64>, Error> {
    let mut reader = wal.reader(Lsn(from));
    let mut found = Vec::new();
    while let Some(records) = reader.next_records()? {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            assert!(record.payload == payload(lsn.0), "position {lsn}");
            found.push(lsn.0);
        }
    }
    Ok(found)
}

fn first() -> PathBuf {
    FIRST.into()
}

#[test]
fn what_is_large_is_read_like_the_rest() {
    for compress in [false, true] {
        let (disk, wal) = written(compress);
        assert_eq!(read(&wal, 1).unwrap(), [1, 2, 3, 4]);
        wal.close().unwrap();
        drop(wal);
        let wal = open(&disk, compress);
        assert_eq!(read(&wal, 1).unwrap(), [1, 2, 3, 4]);
        assert_eq!(read(&wal, 3).unwrap(), [3, 4]);
        assert_eq!(verify(&*disk, Path::new(DIR)).unwrap().damages.len(), 0);
    }
}

/// The largest payload that may be appended has room for its table.
#[test]
fn the_largest_payload_fits() {
    let disk = SimulatedDisk::new(2);
    let wal = open(&disk, false);
    let len = options(false).payload_len_max();
    let largest = vec![9; len];
    wal.wait(wal.append(&largest).unwrap()).unwrap();
    let more = vec![9; len + 1];
    assert!(matches!(wal.append(&more), Err(Error::TooLarge { .. })));
    let records = wal.reader(Lsn(1)).next_records().unwrap().unwrap();
    assert!(records.iter().next().unwrap().unwrap().1.payload == largest);
    assert!(wal.stats().group_bytes.count() == 1);
}

/// A flipped bit anywhere in the group: told by position, and by part where it hit the large payload; the rest
/// is read; and records that are proven mend it.
#[test]
fn verify_says_which_part_of_which_record_is_damaged() {
    let (disk, wal) = written(false);
    wal.close().unwrap();
    drop(wal);
    for at in (PAYLOAD - 20..PAYLOAD + LEN + 200).step_by(4999) {
        let disk = disk.fork(1);
        disk.flip_bit(&first(), u64::try_from(8 * at + at % 8).unwrap());
        let found = verify(&*disk, Path::new(DIR)).unwrap();
        let [Error::Corruption { offset, expected, found, .. }] = &found.damages[..] else {
            panic!("byte {at}: {:?}", found.damages);
        };
        assert_eq!(*offset, u64::try_from(GROUP).unwrap(), "byte {at}");
        assert!(expected.contains("positions 2 to 3"), "byte {at}: {expected}");
        let part = at.checked_sub(PAYLOAD).filter(|at| *at < LEN).map(|at| at / PART_LEN);
        match part {
            Some(part) => {
                let expected = format!("in position 2, part {part} of 5 ({PART_LEN} bytes from ");
                assert!(found.starts_with(&expected), "byte {at}: {found}");
            }
            None => assert!(found.contains("checksum"), "byte {at}: {found}"),
        }
    }
    // Several parts.
    let disk = disk.fork(1);
    for number in [1, 2, 4] {
        let at = PAYLOAD + number * PART_LEN + 77;
        disk.flip_bit(&first(), u64::try_from(8 * at).unwrap());
    }
    let found = verify(&*disk, Path::new(DIR)).unwrap().damages[0].to_string();
    assert!(found.contains("part 1 of 5") && found.contains("2 others of its parts"), "{found}");
}

#[test]
fn an_open_log_finds_the_part_and_is_mended() {
    for compress in [false, true] {
        let (disk, wal) = written(compress);
        wal.close().unwrap();
        drop(wal);
        let wal = open(&disk, compress);
        disk.flip_bit(&first(), u64::try_from(8 * (PAYLOAD + 2 * PART_LEN + 5)).unwrap());
        let step = wal.scrub(8 << 20).unwrap();
        assert_eq!(step.damages.len(), 1, "{step:?}");
        let damage = &step.damages[0];
        assert_eq!((damage.first, damage.end), (Lsn(2), Lsn(4)));
        // A block of compressed records has no parts.
        assert_eq!(damage.found.contains("part 2 of 5"), !compress, "{}", damage.found);
        let error = read(&wal, 2).unwrap_err().to_string();
        assert_eq!(error.contains("part 2 of 5"), !compress, "{error}");
        assert_eq!(read(&wal, 4).unwrap(), [4]);
        let payloads = [payload(2), payload(3)];
        let records = payloads.each_ref().map(|payload| Record { kind: Kind::ENTRY, payload });
        let done = wal.repair(Lsn(2), &records).unwrap();
        assert_eq!((done.records, done.proven), (2, 2));
        assert_eq!(read(&wal, 1).unwrap(), [1, 2, 3, 4]);
    }
}

/// Cut anywhere, the last group of a log that was killed is a torn tail.
#[test]
fn what_is_cut_at_any_byte_is_a_torn_tail() {
    let disk = SimulatedDisk::new(3);
    let wal = open(&disk, false);
    for lsn in 1..=2 {
        wal.wait(wal.append(&payload(lsn)).unwrap()).unwrap();
    }
    disk.kill();
    drop(wal);
    let end = PAYLOAD + LEN + 4 * 5;
    let inner = (GROUP + 4..end).step_by(7919);
    for at in inner.chain(end - 22..end) {
        let cut = disk.fork(1);
        cut.corrupt(&first(), u64::try_from(at).unwrap(), &vec![0; end + 4096 - at]);
        let (wal, recovery) = Wal::open(cut.mount(), Path::new(DIR), options(false)).unwrap();
        let is_zero = |byte: usize| disk.visible_content(&first()).unwrap()[byte] == 0;
        if (at..end).all(is_zero) {
            continue;
        }
        assert_eq!(read(&wal, 1).unwrap(), [1], "cut at {at}");
        assert!(matches!(recovery.tail, Tail::Suspect { first: Lsn(2), .. }), "cut at {at}");
    }
}
