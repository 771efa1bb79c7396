//! Goal: a receiver that dies at any moment loses what came since the last line of progress, no more,
//! and never believes a byte that is not what was offered.
//!
//! Method: a transfer of three files on a simulated disk, with each fault at each operation; then it is
//! begun again, and what is fetched in both lives is counted.

use std::path::PathBuf;
use std::sync::Arc;

use strandline_wal::disk::simulated::{Fault, Survival};
use strandline_wal::disk::{Disk, OpenMode, SimulatedDisk};

use super::*;

const DIR: &str = "/incoming";
/// A part, and after how many bytes progress is noted.
const PART: u64 = 4 << 10;
const NOTE: u64 = 64 << 10;

fn contents() -> Vec<Vec<u8>> {
    let bytes = |len: usize, seed: usize| -> Vec<u8> {
        (0..len).map(|at| at.wrapping_mul(seed).to_le_bytes()[1]).collect()
    };
    vec![bytes(900, 3), bytes(144 << 10, 5), bytes(80 << 10, 7)]
}

fn offers(contents: &[Vec<u8>]) -> Vec<FileOffer> {
    let names = ["manifest", "1-a.table", "2-b.table"];
    let offer = |(name, bytes): (&str, &Vec<u8>)| FileOffer {
        name: name.into(),
        len: to_u64(bytes.len()),
        checksum: crc32fast::hash(bytes),
    };
    names.into_iter().zip(contents).map(offer).collect()
}

fn begin(disk: &Arc<SimulatedDisk>, contents: &[Vec<u8>]) -> Result<Staging> {
    let staging = Staging::begin(disk.clone(), Path::new(DIR), offers(contents), |_| None)?;
    Ok(Staging { note_every: NOTE, ..staging })
}

/// Fetches all that is missing; counts the bytes.
fn fetch(disk: &Arc<SimulatedDisk>, contents: &[Vec<u8>], fetched: &mut u64) -> Result<Staging> {
    let mut staging = begin(disk, contents)?;
    while let Some(at) = staging.incomplete_from(0) {
        let (len, here) = staging.extent(at).unwrap();
        let end = len.min(here + PART);
        let range = usize::try_from(here).unwrap()..usize::try_from(end).unwrap();
        *fetched += end - here;
        staging.write(at, &contents[at][range])?;
    }
    staging.seal()?;
    Ok(staging)
}

fn check(disk: &Arc<SimulatedDisk>, contents: &[Vec<u8>], what: &str) {
    for (offer, bytes) in offers(contents).iter().zip(contents) {
        let found = disk.visible_content(&Path::new(DIR).join(&offer.name)).unwrap();
        assert!(found == *bytes, "{what}: {} is another", offer.name);
    }
}

#[test]
fn every_fault_at_every_operation_costs_no_more_than_a_note() {
    let contents = contents();
    let total: u64 = contents.iter().map(|bytes| to_u64(bytes.len())).sum();
    let operations = {
        let disk = SimulatedDisk::new(1);
        fetch(&disk, &contents, &mut 0).unwrap();
        disk.operations()
    };
    assert!(operations > 60, "{operations}");
    for fault in [Fault::PowerCut, Fault::Kill, Fault::Eio] {
        for at in 1..=operations {
            let disk = SimulatedDisk::new(at);
            disk.set_survival(Survival::of(500));
            disk.fail_at(at, fault);
            let mut fetched = 0;
            let _ = fetch(&disk, &contents, &mut fetched);
            disk.clear_faults();
            if disk.restart().is_none() {
                disk.power_cut();
            }
            fetch(&disk, &contents, &mut fetched).unwrap();
            let what = format!("{fault:?} at {at}");
            check(&disk, &contents, &what);
            // A power cut may also take the manifest and what was in flight.
            let most = total + NOTE + 2 * PART;
            assert!(fetched <= most, "{what}: {fetched} bytes of {total}");
        }
    }
}

/// Killed twice, in mid-transfer, while the leader has gone on to a newer checkpoint.
#[test]
fn a_newer_offer_takes_what_an_older_one_has_brought() {
    let contents = contents();
    let disk = SimulatedDisk::new(1);
    let mut staging = begin(&disk, &contents).unwrap();
    staging.write(0, &contents[0]).unwrap();
    for piece in contents[1].chunks(16 << 10).take(6) {
        staging.write(1, piece).unwrap();
    }
    disk.kill();
    let staging = begin(&disk, &contents).unwrap();
    assert_eq!(staging.extent(1), Some((144 << 10, 64 << 10)), "up to the last note");
    drop(staging);
    disk.kill();
    let mut newer = contents.clone();
    newer[0] = b"another manifest".to_vec();
    newer[2] = b"another table".to_vec();
    let mut fetched = 0;
    let staging = fetch(&disk, &newer, &mut fetched).unwrap();
    assert_eq!(staging.transfer().bytes_reused, 64 << 10);
    check(&disk, &newer, "newer");
    assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 4, "three files and the progress");
}

#[test]
fn what_is_damaged_while_nobody_looks_is_fetched_again() {
    let contents = contents();
    let disk = SimulatedDisk::new(1);
    let mut staging = begin(&disk, &contents).unwrap();
    staging.write(0, &contents[0]).unwrap();
    for piece in contents[1].chunks(16 << 10).take(6) {
        staging.write(1, piece).unwrap();
    }
    drop(staging);
    disk.flip_bit(&Path::new(DIR).join("1-a.table.part"), 8 << 13);
    let mut fetched = 0;
    let staging = fetch(&disk, &contents, &mut fetched).unwrap();
    assert_eq!(staging.transfer().bytes_reused, 0, "the prefix is not what its note says");
    check(&disk, &contents, "after the damage");
}

#[test]
fn damage_on_the_way_is_found_at_the_end_of_the_file() {
    let contents = contents();
    let disk = SimulatedDisk::new(1);
    let mut staging = begin(&disk, &contents).unwrap();
    for time in 0..3 {
        assert!(!staging.is_hopeless(0), "{time}");
        let mut wrong = contents[0].clone();
        wrong[17] ^= 1;
        assert_eq!(staging.write(0, &wrong).unwrap(), Wrote::Mismatch);
    }
    assert!(staging.is_hopeless(0));
    assert_eq!(staging.write(0, &contents[0]).unwrap(), Wrote::Complete);
    assert!(staging.reject("manifest").is_ok());
    assert_eq!(staging.extent(0), Some((900, 0)));
}

#[test]
fn a_file_that_the_state_has_is_linked() {
    let contents = contents();
    let disk = SimulatedDisk::new(1);
    disk.create_dir_all(Path::new("/state")).unwrap();
    let path = PathBuf::from("/state/7.table");
    disk.open(&path, OpenMode::Create).unwrap().write_at(&contents[2], 0).unwrap();
    let find = |name: &str| (name == "2-b.table").then(|| path.clone());
    let staging = Staging::begin(disk.clone(), Path::new(DIR), offers(&contents), find).unwrap();
    assert_eq!(staging.incomplete_from(2), None);
    assert_eq!(staging.transfer().bytes_reused, 80 << 10);
    // Rejected, it is not written over: another file grows, and the state keeps its own.
    let mut staging = staging;
    assert!(staging.reject("2-b.table").unwrap());
    for piece in contents[2].chunks(16 << 10) {
        staging.write(2, piece).unwrap();
    }
    assert_eq!(staging.incomplete_from(2), None);
    assert!(disk.visible_content(&path).unwrap() == contents[2]);
}
