//! Goal: logs written by earlier programs stay readable, and this program still writes the same.
//!
//! Method: a small log that goes through everything the format knows - groups of one and of several
//! records, a marker, a segment that ends in a truncated suffix, a trimmed beginning, a recycled
//! segment with the tail of its older incarnation, an orderly close - lies in `testdata/format/v1`
//! with its description. It is put onto a simulated disk, opened, read, described; and the same steps
//! are taken anew and the files compared byte for byte. Nothing is drawn: the log's identity is given.
//!
//! Beside it lie a log with a large payload, which is in parts, and one of compressed groups. That one is only read: another compressor may write other bytes
//! of the same records. And one of encrypted groups: its nonces are drawn by the simulated disk, so it is written the same each time, too.
//!
//! `cargo test -p strandline-wal --test golden -- --ignored` writes files that are not there yet. It
//! never writes over one: a changed file needs a new format version.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::simulated::SimulatedDisk;
use strandline_wal::disk::{Disk, OpenMode};
use strandline_wal::{KeyId, Keyring, Lsn, Options, Tail, Wal, inspect_segment};

#[path = "common/cipher.rs"]
#[allow(dead_code, unreachable_pub)]
mod cipher;
use cipher::Chacha;

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format/v1");
const DIR: &str = "/log";
const DUMP: &str = "log.txt";
/// Where the log with a large payload lies.
const IN_PARTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format/v1/parts");
/// Where the compressed log lies.
const COMPRESSED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format/v1/compressed");
/// Where the encrypted log lies.
const ENCRYPTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format/v1/encrypted");

fn options() -> Options {
    Options {
        segment_size: 64 << 10,
        spares: 1,
        group_size_max: 8 << 10,
        pending_size_max: 32 << 10,
        depth_max: 1,
        depth: 0,
        iops_max: 0,
        background: false,
        events: false,
        new_log_id: 0x7469_6465_6c6f_6731,
        ..Options::default()
    }
}

/// The payload that position `lsn` is given for the `turn`th time: most are short, every seventh
/// takes more than a block, every eleventh is empty.
fn payload(lsn: u64, turn: u64) -> Vec<u8> {
    let text = format!("tide {lsn}.{turn} ");
    match lsn {
        _ if lsn.is_multiple_of(11) => Vec::new(),
        _ if lsn.is_multiple_of(7) => text.repeat(700).into_bytes(),
        _ => text.into_bytes(),
    }
}

/// Appends `count` records as one batch and makes them durable.
fn append(wal: &Wal, count: u64, turn: u64) {
    let next = wal.last().0 + 1;
    let payloads: Vec<_> = (next..next + count).map(|lsn| payload(lsn, turn)).collect();
    let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let lsn = wal.append_all(&slices).unwrap();
    wal.wait(lsn).unwrap();
}

/// Positions up to here fill the first segment, which is trimmed.
const TRIMMED: u64 = 22;
/// Positions from here on were given twice.
const TRUNCATED: u64 = 28;
/// The last position.
const LAST: u64 = 45;

/// Takes the steps; returns the disk with the files.
fn written() -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(1);
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options()).unwrap();
    // The first segment is filled with groups of one to five records.
    for count in [1, 2, 3, 1, 1, 1, 5, 1, 1, 1, 1, 4] {
        append(&wal, count, 1);
    }
    // The second: a marker in its midst, and a suffix that is truncated. The third one voids it.
    append(&wal, TRIMMED + 3 - wal.last().0, 1);
    wal.prepare(true).unwrap();
    append(&wal, 8, 1);
    wal.truncate(Lsn(TRUNCATED - 1)).unwrap();
    append(&wal, 6, 2);
    // The first is trimmed. It is put to use again as the fourth, with the trimmed position in its
    // header; what is left of what it held stands behind its new groups.
    wal.trim(Lsn(TRIMMED));
    wal.prepare(false).unwrap();
    while wal.last().0 < LAST {
        append(&wal, 1, 2);
    }
    wal.prepare(true).unwrap();
    wal.close().unwrap();
    disk
}

/// A log of groups of which some are compressed: of one record and of several, some over blocks.
fn written_compressed() -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(1);
    let options = Options { compress: true, ..options() };
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options).unwrap();
    for count in [1, 5, 1, 3, 1] {
        append(&wal, count, 1);
    }
    wal.prepare(true).unwrap();
    append(&wal, 3, 1);
    wal.close().unwrap();
    disk
}

/// A log with a record of two parts, and one behind it in its group.
fn written_in_parts() -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(1);
    let options = Options {
        segment_size: 128 << 10,
        group_size_max: 96 << 10,
        pending_size_max: 96 << 10,
        ..options()
    };
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options).unwrap();
    append(&wal, 1, 1);
    let large = b"tide 2.1 ".repeat(8000);
    let lsn = wal.append_all(&[&large, &payload(3, 1)]).unwrap();
    wal.wait(lsn).unwrap();
    wal.close().unwrap();
    disk
}

/// A log of groups without encryption, with one key and with the next one, in two lives.
fn written_encrypted() -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(1);
    let keyring = Keyring::for_reading();
    let options = || Options { encryption: Some(keyring.clone()), ..options() };
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options()).unwrap();
    append(&wal, 2, 1);
    for id in [1, 2] {
        keyring.add(KeyId(id.into()), Chacha::of(id)).unwrap();
        keyring.encrypt_with(KeyId(id.into())).unwrap();
        append(&wal, 1, 1);
        append(&wal, 4, 1);
    }
    wal.close().unwrap();
    drop(wal);
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options()).unwrap();
    append(&wal, 2, 1);
    wal.close().unwrap();
    disk
}

/// Every file of the log, as text.
fn inspected(disk: &Arc<SimulatedDisk>) -> String {
    let mut text = String::new();
    for report in disk.files().iter().filter(|report| is_segment(&report.path)) {
        text.push_str(&inspect_segment(&**disk, &report.path).unwrap());
    }
    text
}

/// Every file of the log, as text, and every record.
fn described(disk: &Arc<SimulatedDisk>) -> String {
    let keyring = Keyring::for_reading();
    (1..=2).for_each(|id| keyring.add(KeyId(id.into()), Chacha::of(id)).unwrap());
    let options = Options { encryption: Some(keyring), ..options() };
    let (wal, recovery) = Wal::open(disk.fork(1), Path::new(DIR), options).unwrap();
    assert!(recovery.closed, "it was closed in order");
    assert_eq!(recovery.tail, Tail::Clean);
    let mut text = inspected(disk);
    let mut reader = wal.reader(wal.first());
    let mut next = wal.first().0;
    while let Some(records) = reader.next_records().unwrap() {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            let turn = if lsn.0 < TRUNCATED { 1 } else { 2 };
            assert_eq!(lsn, Lsn(next), "positions are dense");
            let expected = payload(lsn.0, turn);
            let repeated = record.payload.len() / expected.len().max(1);
            assert_eq!(record.payload, expected.repeat(repeated.max(1)), "position {lsn}");
            let start = record.payload.iter().take(10).copied().collect();
            let start = String::from_utf8(start).unwrap();
            let (kind, len) = (record.kind.0, record.payload.len());
            writeln!(text, "record {lsn}: kind {kind}, {len} bytes, {start:?}").unwrap();
            next += 1;
        }
    }
    assert_eq!(next, wal.last().0 + 1, "all records are there");
    text
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "segment")
}

fn kept_files(dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| is_segment(path)).collect();
    files.sort();
    files
}

#[test]
fn the_kept_log_is_read_as_ever() {
    read_as_ever(KEPT);
}

#[test]
fn the_kept_log_with_a_large_payload_is_read_as_ever() {
    read_as_ever(IN_PARTS);
}

#[test]
fn the_kept_compressed_log_is_read_as_ever() {
    read_as_ever(COMPRESSED);
}

#[test]
fn the_kept_encrypted_log_is_read_as_ever() {
    read_as_ever(ENCRYPTED);
}

fn read_as_ever(dir: &str) {
    let disk = SimulatedDisk::new(2);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for path in kept_files(dir) {
        let at = Path::new(DIR).join(path.file_name().unwrap());
        let file = disk.open(&at, OpenMode::Create).unwrap();
        file.write_at(&std::fs::read(&path).unwrap(), 0).unwrap();
        file.sync().unwrap();
    }
    let expected = std::fs::read_to_string(Path::new(dir).join(DUMP)).unwrap();
    assert_eq!(described(&disk), expected);
    let found = strandline_wal::verify(&*disk, Path::new(DIR)).unwrap();
    assert!(found.damages.is_empty(), "{:?}", found.damages);
}

#[test]
fn the_same_steps_write_the_same_bytes() {
    let disk = written();
    let names: Vec<_> = disk.files().into_iter().filter(|file| is_segment(&file.path)).collect();
    assert_eq!(names.len(), kept_files(KEPT).len(), "as many segments as ever");
    written_as_ever(&disk, KEPT);
    written_as_ever(&written_in_parts(), IN_PARTS);
    written_as_ever(&written_encrypted(), ENCRYPTED);
}

fn written_as_ever(disk: &SimulatedDisk, dir: &str) {
    for path in kept_files(dir) {
        let at = Path::new(DIR).join(path.file_name().unwrap());
        let found = disk.visible_content(&at).unwrap();
        let expected = std::fs::read(&path).unwrap();
        let difference = found.iter().zip(&expected).position(|(found, kept)| found != kept);
        assert_eq!(difference, None, "{} is written otherwise now", path.display());
        assert_eq!(found.len(), expected.len(), "{}", path.display());
    }
}

#[test]
#[ignore = "writes golden files that are missing"]
fn write_missing() {
    write_missing_of(KEPT, &written(), |_| true);
    // Spares say nothing here.
    write_missing_of(IN_PARTS, &written_in_parts(), |content| content[6] == 2);
    write_missing_of(COMPRESSED, &written_compressed(), |content| content[6] == 2);
    write_missing_of(ENCRYPTED, &written_encrypted(), |content| content[6] == 2);
}

fn write_missing_of(dir: &str, disk: &Arc<SimulatedDisk>, is_kept: fn(&[u8]) -> bool) {
    std::fs::create_dir_all(dir).unwrap();
    for report in disk.files().into_iter().filter(|report| is_segment(&report.path)) {
        let content = disk.visible_content(&report.path).unwrap();
        if is_kept(&content) {
            write_if_missing(&Path::new(dir).join(report.path.file_name().unwrap()), &content);
        } else {
            disk.remove(&report.path).unwrap();
        }
    }
    write_if_missing(&Path::new(dir).join(DUMP), described(disk).as_bytes());
}

fn write_if_missing(path: &Path, content: &[u8]) {
    if !path.exists() {
        std::fs::write(path, content).unwrap();
    }
}
