//! Footers of sealed segments: what they are good for, and that nothing relies on them.
//!
//! Method: a log of several segments is closed or killed, its footers are damaged, exchanged or forged, and
//! it is opened again. Whether a reader goes by a footer is told by damage in front of the place where it
//! seeks: who walks from the first group meets it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::simulated::{Fault, SimulatedDisk};
use strandline_wal::{Error, Lsn, Options, Wal, inspect_segment, verify};

mod common;
use common::DIR;

const SEGMENT: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// Records of a thousand bytes that fill a few segments.
const RECORDS: u64 = 4000;

fn open(disk: &Arc<SimulatedDisk>) -> Result<Wal, Error> {
    let options = Options {
        segment_size: SEGMENT,
        group_size_max: 16 << 10,
        background: false,
        new_log_id: 7,
        ..Options::default()
    };
    Ok(Wal::open(disk.clone(), Path::new(DIR), options)?.0)
}

fn payload(lsn: u64) -> Vec<u8> {
    [&lsn.to_le_bytes()[..], &[9; 992]].concat()
}

fn append(wal: &Wal, count: u64) {
    for _ in 0..count {
        let lsn = wal.append(&payload(wal.last().0 + 1)).unwrap();
        if lsn.0.is_multiple_of(8) {
            wal.wait(lsn).unwrap();
        }
    }
    wal.sync().unwrap();
}

/// A log of some segments, killed when its footers were written.
fn written() -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(3);
    let wal = open(&disk).unwrap();
    append(&wal, RECORDS);
    assert_eq!(wal.stats().footers, 0, "no append writes one");
    wal.prepare(false).unwrap();
    let sealed = u64::try_from(wal.stats().segments_in_use).unwrap() - 1;
    assert!(sealed >= 3, "a few segments");
    assert_eq!(wal.stats().footers, sealed, "each one has its footer");
    disk.kill();
    drop(wal);
    disk.restart();
    disk.mount()
}

/// The segments in use, oldest first, by their incarnations.
fn segments(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let mut found: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|file| file.path.extension().is_some())
        .map(|file| (disk.visible_content(&file.path).unwrap(), file.path))
        .filter(|(content, _)| content[6] == 2)
        .map(|(content, path)| (u64::from_le_bytes(content[16..24].try_into().unwrap()), path))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn footer(disk: &SimulatedDisk, path: &Path) -> Vec<u8> {
    disk.visible_content(path).unwrap()[usize::try_from(SEGMENT - BLOCK).unwrap()..].to_vec()
}

/// The records from `from` on: how many there are, all of them right; or the first error.
fn read(wal: &Wal, from: u64) -> Result<u64, Error> {
    let mut reader = wal.reader(Lsn(from));
    let mut next = from;
    while let Some(records) = reader.next_records()? {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            assert_eq!((lsn, record.payload), (Lsn(next), &payload(next)[..]));
            next += 1;
        }
    }
    Ok(next - from)
}

/// The position after the last one of the oldest segment.
fn end_of_oldest(wal: &Wal) -> u64 {
    wal.segment_end(wal.first()).unwrap().0
}

/// In segments sealed before the log was opened readers walked from the first group.
#[test]
fn readers_of_old_segments_seek_by_the_footer() {
    let disk = written();
    let oldest = segments(&disk)[0].clone();
    let damaged = disk.fork(1);
    damaged.flip_bit(&oldest, (BLOCK + 100) * 8);
    let wal = open(&damaged).unwrap();
    let end = end_of_oldest(&wal);
    assert_eq!(read(&wal, end - 1).unwrap(), RECORDS - end + 2, "it does not come by the damage");
    let mut found = 0;
    for lsn in 1..end {
        found += u64::from(read_one(&wal, lsn));
    }
    // The first group is damaged. A group of the middle is reached from one close before it.
    assert!(found + 80 > end, "{found} of {end}");
    assert!(matches!(read(&wal, 1), Err(Error::Corruption { .. })), "it is not hidden");
    drop(wal);
    // Without the footer every reader of this segment meets the damage.
    damaged.corrupt(&oldest, SEGMENT - BLOCK, &[0; 4096]);
    let wal = open(&damaged).unwrap();
    assert!(matches!(read(&wal, end - 1), Err(Error::Corruption { offset: BLOCK, .. })));
    assert_eq!(read(&wal, end).unwrap(), RECORDS - end + 1, "the others are read by theirs");
}

fn read_one(wal: &Wal, lsn: u64) -> bool {
    let Ok(Some(records)) = wal.reader(Lsn(lsn)).next_records() else { return false };
    let (found, record) = records.iter().next().unwrap().unwrap();
    (found, record.payload) == (Lsn(lsn), &payload(lsn)[..])
}

/// Every byte of a footer in turn, and all of it: nothing is refused, nothing is missing.
#[test]
fn damaged_footers_are_as_good_as_none() {
    let disk = written();
    let paths = segments(&disk);
    let old = footer(&disk, &paths[0]);
    let entries = 64..64 + 8 * usize::from(u16::from_le_bytes([old[6], old[7]]));
    assert!(entries.len() > 8);
    for byte in (0..entries.end).step_by(7).chain([4095]) {
        let damaged = disk.fork(1);
        damaged.corrupt(
            &paths[1],
            SEGMENT - BLOCK + u64::try_from(byte).unwrap(),
            &[old[byte] ^ 0x55],
        );
        let wal = open(&damaged).unwrap();
        let end = end_of_oldest(&wal);
        assert!((end..end + 100).all(|lsn| read_one(&wal, lsn)), "byte {byte}");
    }
    for content in [vec![0; 4096], vec![0xff; 4096], old] {
        // The last one is that of another segment: a write that went astray.
        let damaged = disk.fork(1);
        for path in &paths[1..] {
            damaged.corrupt(path, SEGMENT - BLOCK, &content);
        }
        let found = verify(&*damaged, Path::new(DIR)).unwrap();
        assert!(found.damages.is_empty(), "{:?}", found.damages);
        assert_eq!(found.footers, 1);
        let wal = open(&damaged).unwrap();
        assert_eq!(read(&wal, 1).unwrap(), RECORDS);
    }
    let unreadable = disk.fork(1);
    paths.iter().for_each(|path| unreadable.make_unreadable(path, SEGMENT - 512));
    assert_eq!(read(&open(&unreadable).unwrap(), 1).unwrap(), RECORDS);
}

/// A footer whose places are wrong, behind a right checksum: readers find the groups without it.
#[test]
fn a_footer_that_lies_is_found_out() {
    let disk = written();
    let paths = segments(&disk);
    for (shift_of_position, shift_of_block) in [(3, 0), (0, 1), (200, 0), (0, 40)] {
        let forged = disk.fork(1);
        for path in &paths[..paths.len() - 1] {
            let mut footer = footer(&disk, path);
            let count = usize::from(u16::from_le_bytes([footer[6], footer[7]]));
            // All but the last, so that the places stay in the segment.
            footer[6..8].copy_from_slice(&u16::try_from(count - 1).unwrap().to_le_bytes());
            footer[64 + 8 * (count - 1)..].fill(0);
            for place in footer[64..64 + 8 * (count - 1)].chunks_exact_mut(8) {
                for (half, shift) in [(0, shift_of_position), (4, shift_of_block)] {
                    let number = u32::from_le_bytes(place[half..half + 4].try_into().unwrap());
                    place[half..half + 4].copy_from_slice(&(number + shift).to_le_bytes());
                }
            }
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&footer[..60]);
            hasher.update(&footer[64..]);
            let crc = hasher.finalize();
            footer[60..64].copy_from_slice(&crc.to_le_bytes());
            forged.corrupt(path, SEGMENT - BLOCK, &footer);
        }
        let found = verify(&*forged, Path::new(DIR)).unwrap();
        assert_eq!((found.footers, found.damages.len()), (0, 0));
        let wal = open(&forged).unwrap();
        let missed = (1..=RECORDS).find(|lsn| !read_one(&wal, *lsn));
        assert_eq!(missed, None, "{shift_of_position} positions, {shift_of_block} blocks");
    }
}

/// A file is used again, and its old footer comes back: the groups it names are gone.
#[test]
fn the_footer_of_an_earlier_use_is_not_believed() {
    let disk = SimulatedDisk::new(3);
    let wal = open(&disk).unwrap();
    append(&wal, RECORDS);
    wal.prepare(false).unwrap();
    let olds: Vec<_> =
        segments(&disk).iter().map(|path| (path.clone(), footer(&disk, path))).collect();
    wal.trim(Lsn(RECORDS));
    wal.prepare(false).unwrap();
    append(&wal, 2 * RECORDS);
    wal.close().unwrap();
    let mut count = 0;
    for path in segments(&disk) {
        if let Some((_, old)) = olds.iter().find(|(other, _)| *other == path) {
            disk.corrupt(&path, SEGMENT - BLOCK, old);
            count += 1;
        }
    }
    assert!(count > 0, "files were used again");
    let sealed = segments(&disk).len() - 1;
    let found = verify(&*disk, Path::new(DIR)).unwrap();
    assert!(found.footers <= sealed - (count - 1), "{} of {sealed}, {count}", found.footers);
    let wal = open(&disk).unwrap();
    let missed = (wal.first().0..=3 * RECORDS).find(|lsn| !read_one(&wal, *lsn));
    assert_eq!(missed, None);
}

/// The end of a segment is said by the next header, whatever the footer says.
#[test]
fn a_truncation_holds_against_the_footer() {
    let disk = SimulatedDisk::new(3);
    let wal = open(&disk).unwrap();
    append(&wal, RECORDS);
    wal.prepare(false).unwrap();
    let last = end_of_oldest(&wal) + 300;
    wal.truncate(Lsn(last)).unwrap();
    append(&wal, 50);
    wal.prepare(true).unwrap();
    wal.close().unwrap();
    let found = verify(&*disk, Path::new(DIR)).unwrap();
    assert_eq!((found.segments, found.footers, found.damages.len()), (3, 2, 0));
    let wal = open(&disk).unwrap();
    assert_eq!(wal.last(), Lsn(last + 50));
    assert!((1..=last + 50).all(|lsn| read_one(&wal, lsn)));
    assert_eq!(read(&wal, 1).unwrap(), last + 50);
}

/// A segment that was mended has a footer again.
#[test]
fn a_mended_segment_gets_its_footer_anew() {
    let disk = written();
    let oldest = segments(&disk)[0].clone();
    disk.flip_bit(&oldest, (8 * BLOCK + 100) * 8);
    let wal = open(&disk).unwrap();
    while !wal.scrub(SEGMENT).unwrap().finished {}
    let damage = wal.damages()[0].clone();
    let payloads: Vec<_> = (damage.first.0..damage.end.0).map(payload).collect();
    let kind = strandline_wal::record::Kind::ENTRY;
    let records: Vec<_> =
        payloads.iter().map(|payload| strandline_wal::record::Record { kind, payload }).collect();
    wal.repair(damage.first, &records).unwrap();
    let end = end_of_oldest(&wal);
    wal.close().unwrap();
    let found = verify(&*disk, Path::new(DIR)).unwrap();
    assert_eq!((found.segments - found.footers, found.damages.len()), (1, 0));
    disk.flip_bit(&oldest, (BLOCK + 100) * 8);
    let wal = open(&disk).unwrap();
    assert!(read_one(&wal, end - 1), "it is sought by the footer");
}

/// The write of a footer fails, or is torn: the log does not mind.
#[test]
fn a_footer_that_cannot_be_written_is_left_out() {
    let disk = SimulatedDisk::new(3);
    let wal = open(&disk).unwrap();
    append(&wal, RECORDS);
    let due = wal.stats().segments_in_use - 1;
    for _ in 0..due {
        disk.fail_at(disk.operations() + 1, Fault::Eio);
    }
    wal.prepare(false).unwrap();
    disk.clear_faults();
    assert!(wal.stats().footers < u64::try_from(due).unwrap(), "one could not be written");
    append(&wal, 10);
    disk.power_cut();
    drop(wal);
    disk.restart();
    let disk = disk.mount();
    let wal = open(&disk).unwrap();
    assert_eq!(read(&wal, 1).unwrap(), RECORDS + 10);
}

/// The log's own thread writes them, without being asked.
#[test]
fn a_log_with_a_thread_of_its_own_has_footers() {
    let disk = SimulatedDisk::new(3);
    let options = Options { segment_size: SEGMENT, group_size_max: 16 << 10, ..Options::default() };
    let (wal, _) = Wal::open(disk, Path::new(DIR), options).unwrap();
    append(&wal, RECORDS);
    let sealed = u64::try_from(wal.stats().segments_in_use).unwrap() - 1;
    let since = std::time::Instant::now();
    while wal.stats().footers < sealed {
        assert!(since.elapsed().as_secs() < 300, "{:?}", wal.stats());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn inspection_shows_the_footer() {
    let disk = written();
    let paths = segments(&disk);
    let text = inspect_segment(&*disk, &paths[0]).unwrap();
    let line = text.lines().last().unwrap();
    assert!(line.starts_with("1044480: footer of incarnation 1, positions 1 to "), "{line}");
    let newest = inspect_segment(&*disk, paths.last().unwrap()).unwrap();
    assert!(!newest.contains("footer"), "{newest}");
}
