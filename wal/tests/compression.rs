//! Compressed groups: what is written is read from everywhere, takes less room, and is mended.
//!
//! The faults have their places elsewhere: `simulation.rs` and `corruption_matrix.rs` run with and
//! without compression.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::simulated::{Random, SimulatedDisk, Survival};
use strandline_wal::frame::GroupHeader;
use strandline_wal::record::{Kind, Record};
use strandline_wal::{Error, Lsn, Tail, Wal, inspect_segment, verify};

mod common;
use common::{DIR, options, read_back, set_compress};

const LOG_ID: u64 = 77;

fn open(disk: &Arc<SimulatedDisk>) -> Wal {
    Wal::open(disk.mount(), Path::new(DIR), options()).unwrap().0
}

/// A third of it is noise.
fn payload(lsn: u64) -> Vec<u8> {
    let mut payload = vec![b'w'; 7500];
    Random::new(lsn).fill(&mut payload[..2500]);
    payload
}

fn append(wal: &Wal) -> Lsn {
    let lsn = wal.append(&payload(wal.last().0 + 1)).unwrap();
    wal.wait(lsn).unwrap();
    lsn
}

fn read(wal: &Wal, from: Lsn) -> Result<Vec<u64>, Error> {
    read_back::read(wal, from, payload)
}

fn group_of(disk: &SimulatedDisk, lsn: u64) -> (PathBuf, u64, GroupHeader) {
    read_back::group_of(disk, LOG_ID, lsn)
}

/// From memory, from the active segment and from sealed ones; with and without compression, in one log.
#[test]
fn it_is_read_from_everywhere_whatever_the_option_says_later() {
    let disk = SimulatedDisk::new(1);
    for compress in [true, false, true] {
        set_compress(compress);
        let wal = open(&disk);
        for _ in 0..30 {
            append(&wal);
        }
        assert_eq!(read(&wal, Lsn(1)).unwrap().len(), wal.last().0.try_into().unwrap());
        for from in (1..=wal.last().0).step_by(7) {
            assert_eq!(read(&wal, Lsn(from)).unwrap()[0], from);
        }
        wal.close().unwrap();
        drop(wal);
        let wal = open(&disk);
        assert_eq!(read(&wal, Lsn(1)).unwrap().last(), Some(&wal.last().0));
        wal.close().unwrap();
    }
    let found = verify(&*disk, Path::new(DIR)).unwrap();
    assert!(found.damages.is_empty() && found.tail == Tail::Clean, "{found:?}");
    assert_eq!(found.groups, 90);
    let (path, ..) = group_of(&disk, 5);
    let text = inspect_segment(&*disk, &path).unwrap();
    assert!(text.contains("bytes compressed"), "{text}");
}

/// Room that is saved is used: the plan, which knows records by their lengths only, gets it back. Also
/// where much waits at once, and is planned for further segments.
#[test]
fn it_takes_as_many_segments_as_it_has_blocks() {
    for batch in [1, 3] {
        let segments = |compress| {
            set_compress(compress);
            let disk = SimulatedDisk::new(2);
            let wal = open(&disk);
            let mut last = Lsn(0);
            for _ in 0..60 / batch {
                for _ in 0..batch {
                    last = wal.append(&payload(wal.last().0 + 1)).unwrap();
                }
                wal.wait(last).unwrap();
                wal.prepare(false).unwrap();
            }
            assert_eq!(read(&wal, Lsn(1)).unwrap().len(), 60);
            (wal.stats().segments_in_use, wal.stats().payload_bytes)
        };
        let ((raw, raw_bytes), (compressed, bytes)) = (segments(false), segments(true));
        // Two blocks to a record, or one; fourteen blocks to a segment.
        assert_eq!((raw, compressed), (9, 5), "{batch} at a time");
        assert_eq!(raw_bytes, bytes, "what was appended is the same");
    }
}

/// A failed group is written once more elsewhere, from the records as they were.
#[test]
fn a_group_whose_write_fails_is_compressed_once_more() {
    set_compress(true);
    let disk = SimulatedDisk::new(3);
    let wal = open(&disk);
    append(&wal);
    disk.fail_writes_from(disk.operations() + 1, 1);
    append(&wal);
    append(&wal);
    assert_eq!(wal.stats().rewrites, 1);
    disk.set_survival(Survival::NOTHING);
    disk.power_cut();
    assert_eq!(read(&open(&disk), Lsn(1)).unwrap(), [1, 2, 3]);
}

/// A log of some sealed segments, opened anew.
fn sealed(disk: &Arc<SimulatedDisk>) -> Wal {
    set_compress(true);
    let wal = open(disk);
    while wal.stats().segments_in_use < 4 {
        append(&wal);
        wal.prepare(false).unwrap();
    }
    wal.close().unwrap();
    drop(wal);
    open(disk)
}

fn repair(wal: &Wal, lsn: u64, payload: &[u8]) -> Result<strandline_wal::Repaired, Error> {
    wal.repair(Lsn(lsn), &[Record { kind: Kind::ENTRY, payload }])
}

/// Damage to the block, to the preamble, to the header: found by position, and mended with proof.
#[test]
fn damage_is_found_and_mended_and_wrong_records_are_refused() {
    for (at, is_judged) in [(1000, true), (64, false), (76, false), (20, false)] {
        let disk = SimulatedDisk::new(4);
        let wal = sealed(&disk);
        let (path, offset, group) = group_of(&disk, 20);
        assert!(group.is_compressed());
        disk.flip_bit(&path, (offset + at) * 8);
        let mut damages = Vec::new();
        let mut is_finished = false;
        while !is_finished {
            let step = wal.scrub(1 << 20).unwrap();
            damages.extend(step.damages);
            is_finished = step.finished;
        }
        assert_eq!((damages.len(), damages[0].first, damages[0].end), (1, Lsn(20), Lsn(21)));
        assert!(matches!(read(&wal, Lsn(20)), Err(Error::Corruption { .. })), "byte {at}");
        let other = repair(&disk_of(&disk), 20, &payload(21));
        assert_eq!(matches!(other, Err(Error::Mismatch { lsn: 20, .. })), is_judged, "byte {at}");
        let done = repair(&wal, 20, &payload(20)).unwrap();
        assert_eq!((done.records, done.proven), (1, 1), "byte {at}");
        let all = u64::try_from(read(&wal, Lsn(1)).unwrap().len()).unwrap();
        assert_eq!(all, wal.last().0, "byte {at}");
        let (_, _, group) = group_of(&disk, 20);
        assert!(group.is_compressed(), "it has to fit again");
        wal.close().unwrap();
        assert!(verify(&*disk, Path::new(DIR)).unwrap().damages.is_empty());
    }
}

/// The same log on a disk of its own.
fn disk_of(disk: &Arc<SimulatedDisk>) -> Wal {
    open(&disk.fork(9))
}

/// A file that is cut at any byte of its last groups opens with what is whole, or says what is missing.
#[test]
fn what_is_cut_at_any_byte_is_told() {
    set_compress(true);
    let disk = SimulatedDisk::new(5);
    let wal = open(&disk);
    for _ in 0..4 {
        append(&wal);
    }
    disk.kill();
    let (path, offset, group) = group_of(&disk, 4);
    let end = offset + group.len_on_disk();
    for at in (offset..end).step_by(if cfg!(debug_assertions) { 13 } else { 1 }) {
        let cut = disk.fork(1);
        let zeros = vec![0; usize::try_from(end - at).unwrap()];
        cut.corrupt(&path, at, &zeros);
        let (wal, recovery) = Wal::open(cut.mount(), Path::new(DIR), options()).unwrap();
        let found = read(&wal, Lsn(1)).unwrap();
        let is_whole = at >= offset + 64 + u64::from(group.body_len);
        assert_eq!(found.len(), if is_whole { 4 } else { 3 }, "cut at {at}");
        // From its magic bytes on a group is missed.
        let is_there = at >= offset + 4;
        assert_eq!(recovery.tail == Tail::Clean, is_whole || !is_there, "cut at {at}");
    }
}
