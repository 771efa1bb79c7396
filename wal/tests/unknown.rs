//! Goal: what another program wrote on purpose is neither read wrongly, nor taken for a torn tail,
//! nor reused; it is refused, with an error that names file, offset, what was expected and found.
//!
//! Method: in a log that a killed process left, one field is set to what no version writes, and the
//! checksums over it are made right again. Opening and verifying must name the field; afterwards the
//! bytes of the directory must be what they were.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::simulated::SimulatedDisk;
use strandline_wal::frame::GroupHeader;
use strandline_wal::record::{Kind, encode_header};
use strandline_wal::{Error, Wal, verify};

mod common;
use common::{DIR, options};

const ACTIVE: &str = "/log/0000000000000001.segment";
const SPARE: &str = "/log/0000000000000002.segment";
/// Where the second of two groups stands.
const SECOND: u64 = 8192;
const LOG_ID: u64 = 77;

/// Two groups of one record each; then the process is killed.
fn killed() -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(3);
    let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options()).unwrap();
    for payload in [b"first", b"other"] {
        let lsn = wal.append(payload).unwrap();
        wal.wait(lsn).unwrap();
    }
    disk.kill();
    disk
}

fn second_group(disk: &SimulatedDisk) -> GroupHeader {
    let bytes = disk.visible_content(Path::new(ACTIVE)).unwrap();
    GroupHeader::decode(&bytes[usize::try_from(SECOND).unwrap()..], LOG_ID, 1, SECOND).unwrap()
}

/// Opens and verifies; checks what is named and that nothing is touched.
fn expect_unknown(disk: &Arc<SimulatedDisk>, file: &str, at: u64, stands: &str) {
    let before = contents(disk);
    let opened = Wal::open(disk.mount(), Path::new(DIR), options()).map(|_| ());
    for refused in [opened, verify(&**disk, Path::new(DIR)).map(|_| ())] {
        match refused {
            Err(Error::Unknown { path, offset, found, .. }) => {
                assert_eq!((path.as_path(), offset), (Path::new(file), at));
                assert_eq!(found, stands);
            }
            other => panic!("{other:?} for what stands at {at} of {file}"),
        }
    }
    assert_eq!(contents(disk), before, "nothing was changed");
}

fn contents(disk: &SimulatedDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let files = disk.files().into_iter();
    // The lock file holds a process id.
    let files = files.filter(|file| file.path.extension().is_some());
    files.map(|file| (file.path.clone(), disk.visible_content(&file.path).unwrap())).collect()
}

#[test]
fn a_spare_in_a_state_that_nobody_knows_is_not_put_to_use() {
    let disk = killed();
    let mut header = disk.visible_content(Path::new(SPARE)).unwrap()[..64].to_vec();
    header[6] = 3;
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    disk.corrupt(Path::new(SPARE), 0, &header);
    expect_unknown(&disk, SPARE, 6, "3");
}

#[test]
fn a_version_of_the_active_segment_that_never_was_is_named() {
    let disk = killed();
    let mut header = disk.visible_content(Path::new(ACTIVE)).unwrap()[..64].to_vec();
    header[4] = 0;
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    disk.corrupt(Path::new(ACTIVE), 0, &header);
    expect_unknown(&disk, ACTIVE, 4, "0");
}

#[test]
fn a_group_with_unknown_flags_does_not_end_the_log() {
    let disk = killed();
    let group = GroupHeader { flags: 8, ..second_group(&disk) };
    disk.corrupt(Path::new(ACTIVE), SECOND, &group.encode(LOG_ID));
    expect_unknown(&disk, ACTIVE, SECOND + 6, "8");
}

#[test]
fn a_group_with_unknown_flags_behind_a_torn_one_is_seen() {
    let disk = killed();
    let group = GroupHeader { flags: 8, ..second_group(&disk) };
    disk.corrupt(Path::new(ACTIVE), SECOND, &group.encode(LOG_ID));
    disk.flip_bit(Path::new(ACTIVE), 4096 * 8 + 100);
    expect_unknown(&disk, ACTIVE, SECOND + 6, "8");
}

#[test]
fn a_record_with_a_reserved_byte_does_not_end_the_log() {
    let disk = killed();
    let mut body = encode_header(Kind::ENTRY, b"other").to_vec();
    body.extend_from_slice(b"other");
    body[10] = 1;
    let group = GroupHeader { body_crc: crc32fast::hash(&body), ..second_group(&disk) };
    disk.corrupt(Path::new(ACTIVE), SECOND, &group.encode(LOG_ID));
    disk.corrupt(Path::new(ACTIVE), SECOND + 64, &body);
    expect_unknown(&disk, ACTIVE, SECOND + 64 + 9, "others");
}
