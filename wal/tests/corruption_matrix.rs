//! The corruption matrix of the log: every bit of every header field, and every byte of a small log.
//!
//! Goal: whatever is damaged, no acknowledged record is lost in silence and no byte is read that was
//! not written. Method: a log with everything in it - groups of one and of several records, empty and
//! large ones, markers, a suffix that was truncated, a recycled segment, spares - is damaged in one
//! place, opened and read. Each damage ends in one of four ways: *corruption*, the log refuses to open;
//! *suspect*, it opens and says where its end is in doubt; *on reading*, the read of what is damaged
//! refuses; *unused*, all is there. A log that was closed, or idle for a moment, answers *suspect* only
//! where the marker at its end is hit, and nothing is missing then: the marker claims the last group.
//! One that was killed may answer so for its last group, and lacks that at most.
//!
//! In release builds everything is tried; debug builds take every so-many-th. `--nocapture` prints the
//! matrix.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::Disk;
use strandline_wal::disk::simulated::SimulatedDisk;
use strandline_wal::{Tail, Wal};

mod common;
use common::cipher::keyring;
use common::small_log::{End, Log, written};
use common::{DIR, options, set_compress, set_keyring};

const BLOCK: usize = 4096;

const SEGMENT_FIELDS: [(&str, usize, usize); 11] = [
    ("segment.magic", 0, 4),
    ("segment.version", 4, 2),
    ("segment.state", 6, 2),
    ("segment.log_id", 8, 8),
    ("segment.incarnation", 16, 8),
    ("segment.first", 24, 8),
    ("segment.chain", 32, 8),
    ("segment.len", 40, 8),
    ("segment.trimmed", 48, 8),
    ("segment.back", 56, 4),
    ("segment.crc32", 60, 4),
];

const GROUP_FIELDS: [(&str, usize, usize); 12] = [
    ("magic", 0, 4),
    ("version", 4, 2),
    ("flags", 6, 2),
    ("incarnation", 8, 8),
    ("offset", 16, 8),
    ("first", 24, 8),
    ("count", 32, 4),
    ("body_len", 36, 4),
    ("durable", 40, 8),
    ("chain", 48, 8),
    ("body_crc", 56, 4),
    ("crc32", 60, 4),
];

const PREAMBLE_FIELDS: [(&str, usize, usize); 4] = [
    ("preamble.raw_len", 0, 4),
    ("preamble.raw_crc", 4, 4),
    ("preamble.reserved", 8, 4),
    ("preamble.crc32", 12, 4),
];

const FOOTER_FIELDS: [(&str, usize, usize); 10] = [
    ("footer.magic", 0, 4),
    ("footer.version", 4, 2),
    ("footer.count", 6, 2),
    ("footer.log_id", 8, 8),
    ("footer.incarnation", 16, 8),
    ("footer.first", 24, 8),
    ("footer.end", 32, 8),
    ("footer.chain", 40, 8),
    ("footer.reserved", 48, 12),
    ("footer.crc32", 60, 4),
];

const RECORD_FIELDS: [(&str, usize, usize); 5] = [
    ("record.length", 0, 4),
    ("record.crc32", 4, 4),
    ("record.kind", 8, 1),
    ("record.form", 9, 1),
    ("record.reserved", 10, 2),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Corruption,
    Suspect,
    OnReading,
    Unused,
    /// The last group of a killed log reads as if it had never been written: no disk can tell that alone.
    /// All that is said is that the log was not closed.
    Unclosed,
}

/// Opens and reads a damaged log.
///
/// # Panics
///
/// If something acknowledged is gone without a word, or something is read that was not written.
fn outcome(log: &Log, disk: Arc<SimulatedDisk>, what: &str) -> Outcome {
    let Ok((wal, recovery)) = Wal::open(disk, Path::new(DIR), options()) else {
        return Outcome::Corruption;
    };
    let mut found = BTreeMap::new();
    let mut refused = false;
    let mut reader = wal.reader(wal.first());
    loop {
        match reader.next_records() {
            Ok(Some(records)) => {
                for record in records.iter() {
                    let (lsn, record) = record.unwrap();
                    found.insert(lsn.0, record.payload.to_vec());
                }
            }
            Ok(None) => break,
            Err(_) => {
                refused = true;
                break;
            }
        }
    }
    for (lsn, payload) in &found {
        assert_eq!(log.records.get(lsn), Some(payload), "{what}: other bytes at position {lsn}");
    }
    if refused {
        return Outcome::OnReading;
    }
    let missing = log.records.keys().find(|lsn| !found.contains_key(lsn));
    match (recovery.tail, missing) {
        (Tail::Clean, None) => Outcome::Unused,
        (Tail::Clean, Some(lsn)) if log.unclaimed == Some(*lsn) && !recovery.closed => {
            Outcome::Unclosed
        }
        (Tail::Clean, Some(lsn)) => panic!("{what}: position {lsn} is gone, and no word"),
        (_, None) => Outcome::Suspect,
        (_, Some(lsn)) => {
            let unclaimed = log.unclaimed.unwrap_or(u64::MAX);
            assert!(*lsn >= unclaimed, "{what}: position {lsn} was claimed, and is in doubt");
            Outcome::Suspect
        }
    }
}

/// A field of a header somewhere on the disk.
struct Place {
    path: PathBuf,
    name: String,
    offset: usize,
    len: usize,
}

/// Every field of every header that counts.
fn places(log: &Log) -> Vec<Place> {
    let mut places = Vec::new();
    for file in log.disk.files() {
        if file.path.extension().is_none() {
            continue;
        }
        let content = log.disk.visible_content(&file.path).unwrap();
        let mut push = |prefix: &str, fields: &[(&str, usize, usize)], at: usize| {
            places.extend(fields.iter().map(|(name, offset, len)| Place {
                path: file.path.clone(),
                name: format!("{prefix}{name}"),
                offset: at + offset,
                len: *len,
            }));
        };
        let in_use = content[6] == 2;
        push(if in_use { "" } else { "spare " }, &SEGMENT_FIELDS, 0);
        let footer = content.len() - BLOCK;
        if content[footer..].starts_with(b"SLSF") {
            push("", &FOOTER_FIELDS, footer);
        }
        let mut at = BLOCK;
        while in_use && at < content.len() && content[at + 8..at + 16] == content[16..24] {
            let number =
                |from: usize| u32::from_le_bytes(content[from..from + 4].try_into().unwrap());
            let (count, body_len) = (number(at + 32), number(at + 36));
            push(if count == 0 { "marker." } else { "group." }, &GROUP_FIELDS, at);
            let is_compressed = content[at + 6] == 2;
            if is_compressed {
                push("", &PREAMBLE_FIELDS, at + 64);
            }
            let mut record = at + 64;
            for _ in 0..if is_compressed { 0 } else { count } {
                push("", &RECORD_FIELDS, record);
                record += 12 + usize::try_from(number(record)).unwrap();
            }
            let len = 64 + usize::try_from(body_len).unwrap();
            at += len.next_multiple_of(BLOCK);
        }
    }
    places
}

fn unclosed(matrix: &Matrix) -> u64 {
    matrix.values().filter_map(|row| row.get(&Outcome::Unclosed)).sum()
}

type Matrix = BTreeMap<String, BTreeMap<Outcome, u64>>;

fn print(end: End, matrix: &Matrix) {
    println!("{end:?}: damaged, corruption, suspect, on reading, unused, unclosed");
    for (name, row) in matrix {
        let of = |outcome| row.get(&outcome).copied().unwrap_or(0);
        println!(
            "{name:22} {:7} {:7} {:5} {:7} {:7} {:3}",
            row.values().sum::<u64>(),
            of(Outcome::Corruption),
            of(Outcome::Suspect),
            of(Outcome::OnReading),
            of(Outcome::Unused),
            of(Outcome::Unclosed)
        );
    }
}

/// A prime, so that all bits of all fields have their turn over several logs.
fn stride(in_debug: usize) -> usize {
    if cfg!(debug_assertions) { in_debug } else { 1 }
}

#[test]
fn every_bit_of_every_header_field() {
    every_bit(&[]);
}

#[test]
fn every_bit_of_every_header_field_of_a_compressed_log() {
    set_compress(true);
    every_bit(&PREAMBLE_FIELDS);
}

fn every_bit(more: &[(&str, usize, usize)]) {
    for end in [End::Closed, End::Idle, End::Killed] {
        let log = written(end);
        let mut matrix = Matrix::new();
        let places = places(&log);
        let has = |name: &str| places.iter().any(|place| place.name == name);
        for (name, ..) in SEGMENT_FIELDS {
            assert!(has(name) && has(&format!("spare {name}")), "{name}");
        }
        for (name, ..) in GROUP_FIELDS {
            assert!(has(&format!("group.{name}")) && has(&format!("marker.{name}")), "{name}");
        }
        for (name, ..) in RECORD_FIELDS.iter().chain(&FOOTER_FIELDS).chain(more) {
            assert!(has(name), "{name}");
        }
        let bits = places
            .iter()
            .flat_map(|place| (0..place.len * 8).map(move |bit| (place, place.offset * 8 + bit)));
        for (place, bit) in bits.step_by(stride(23)) {
            let disk = log.disk.fork(1);
            disk.flip_bit(&place.path, u64::try_from(bit).unwrap());
            let what = format!("{end:?}: {}, bit {bit} of {}", place.name, place.path.display());
            let outcome = outcome(&log, disk, &what);
            *matrix.entry(place.name.clone()).or_default().entry(outcome).or_default() += 1;
        }
        print(end, &matrix);
        let of_footers = matrix.iter().filter(|(name, _)| name.starts_with("footer."));
        let is_unused = |row: &BTreeMap<_, _>| row.keys().eq([&Outcome::Unused]);
        assert!(of_footers.into_iter().all(|(_, row)| is_unused(row)), "no footer is relied on");
        assert_eq!(unclosed(&matrix), 0, "a bit does not make it look unwritten");
        let suspects = matrix.iter().filter(|(_, row)| row.contains_key(&Outcome::Suspect));
        let names: Vec<_> = suspects.map(|(name, _)| name).collect();
        let of_markers = names.iter().all(|name| name.starts_with("marker."));
        assert_eq!(of_markers, end != End::Killed, "{end:?}: {names:?}");
    }
}

#[test]
fn every_byte_of_a_small_log() {
    let distance = std::env::var("STRANDLINE_MATRIX_DISTANCE");
    every_byte(distance.map_or(1, |distance| distance.parse().expect("a number of bytes")));
}

#[test]
fn every_eleventh_byte_of_a_small_compressed_log() {
    set_compress(true);
    // Headers and padding are those of the other log; the whole bodies are met at this distance, too.
    every_byte(11);
}

#[test]
fn some_bytes_of_a_small_encrypted_log() {
    set_keyring(Some(keyring(1)));
    every_byte(101);
}

fn every_byte(at_least: usize) {
    for end in [End::Closed, End::Idle, End::Killed] {
        let log = written(end);
        let mut matrix = Matrix::new();
        for file in log.disk.files() {
            for at in (0..file.len).step_by(stride(499).max(at_least)) {
                let disk = log.disk.fork(1);
                disk.flip_bit(&file.path, at * 8 + at % 8);
                let what = format!("{end:?}: byte {at} of {}", file.path.display());
                let outcome = outcome(&log, disk, &what);
                let name = file.path.file_name().unwrap().to_string_lossy().into_owned();
                *matrix.entry(name).or_default().entry(outcome).or_default() += 1;
            }
        }
        print(end, &matrix);
        assert_eq!(unclosed(&matrix), 0, "nor does a byte");
    }
}

/// Where a block reads as if it had never been written, and it was the last of a killed log, one disk
/// cannot tell.
///
/// Blocks that are zeros, ones, unreadable, or a copy of another block; and files that are cut or gone.
#[test]
fn every_block_and_every_file() {
    every_block();
}

#[test]
fn every_block_and_every_file_of_a_compressed_log() {
    set_compress(true);
    every_block();
}

#[test]
fn every_block_and_every_file_of_an_encrypted_log() {
    set_keyring(Some(keyring(1)));
    every_block();
}

fn every_block() {
    for end in [End::Closed, End::Killed] {
        let log = written(end);
        let mut matrix = Matrix::new();
        let mut count = |name: &str, disk, what: String| {
            let outcome = outcome(&log, disk, &what);
            *matrix.entry(name.to_owned()).or_default().entry(outcome).or_default() += 1;
        };
        let files = log.disk.files().into_iter().filter(|file| file.path.extension().is_some());
        for file in files {
            let content = log.disk.visible_content(&file.path).unwrap();
            for at in (0..content.len()).step_by(BLOCK * stride(3)) {
                let what = format!("{end:?}: block {at} of {}", file.path.display());
                let offset = u64::try_from(at).unwrap();
                let behind = (at + BLOCK) % content.len();
                for (name, bytes) in [
                    ("zeros", vec![0; BLOCK]),
                    ("ones", vec![0xff; BLOCK]),
                    ("a copy of the next block", content[behind..behind + BLOCK].to_vec()),
                    ("half of the next block", content[behind..behind + BLOCK / 2].to_vec()),
                ] {
                    let disk = log.disk.fork(1);
                    disk.corrupt(&file.path, offset, &bytes);
                    count(name, disk, format!("{what}: {name}"));
                }
                let disk = log.disk.fork(1);
                disk.make_unreadable(&file.path, offset);
                count("unreadable", disk, format!("{what}: unreadable"));
            }
            // The newest file cannot be missed by the others: none of them names it.
            if file.path == log.newest {
                continue;
            }
            let disk = log.disk.fork(1);
            disk.remove(&file.path).unwrap();
            count("a file that is gone", disk, format!("{end:?}: {} gone", file.path.display()));
        }
        print(end, &matrix);
    }
}
