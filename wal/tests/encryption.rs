//! Encrypted groups: what is written is read from everywhere and stands nowhere readable; keys are rotated,
//! missed and mistaken without a loss; what needs no key asks for none.
//!
//! The faults have their places elsewhere: `simulation.rs` and `corruption_matrix.rs` run with and without
//! encryption.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::simulated::{SimulatedDisk, Survival};
use strandline_wal::frame::GroupHeader;
use strandline_wal::record::{Kind, Record};
use strandline_wal::{Error, KeyId, Keyring, Lsn, Salvage, Tail, Wal, inspect_segment, verify};

mod common;
use common::cipher::{Chacha, keyring};
use common::{DIR, options, read_back, set_compress, set_keyring};

const BLOCK: usize = 4096;
const LOG_ID: u64 = 77;
/// Bytes of a group before its ciphertext: header and envelope.
const HEAD: usize = 64 + 56;
/// What no file may hold.
const SECRET: &[u8] = b"what nobody is to read ";

fn open(disk: &Arc<SimulatedDisk>) -> Wal {
    try_open(disk).unwrap()
}

fn try_open(disk: &Arc<SimulatedDisk>) -> Result<Wal, Error> {
    Ok(Wal::open(disk.mount(), Path::new(DIR), options())?.0)
}

fn payload(lsn: u64) -> Vec<u8> {
    let len = if lsn.is_multiple_of(3) { 6000 } else { 100 };
    [&lsn.to_le_bytes(), &SECRET.repeat(300)[..len]].concat()
}

fn append(wal: &Wal) -> Lsn {
    let lsn = wal.append(&payload(wal.last().0 + 1)).unwrap();
    wal.wait(lsn).unwrap();
    lsn
}

/// A log of some sealed segments, closed in order.
fn written(disk: &Arc<SimulatedDisk>) -> u64 {
    let wal = open(disk);
    while wal.stats().segments_in_use < 4 {
        append(&wal);
        wal.prepare(false).unwrap();
    }
    append(&wal);
    let last = wal.last().0;
    wal.close().unwrap();
    last
}

fn read(wal: &Wal, from: Lsn) -> Result<Vec<u64>, Error> {
    read_back::read(wal, from, payload)
}

fn read_all(wal: &Wal) {
    assert_eq!(read(wal, Lsn(1)).unwrap(), Vec::from_iter(1..=wal.last().0));
}

fn group_of(disk: &SimulatedDisk, lsn: u64) -> (PathBuf, u64, GroupHeader) {
    read_back::group_of(disk, LOG_ID, lsn)
}

/// Whether any file holds the secret.
fn is_readable(disk: &SimulatedDisk) -> bool {
    disk.files().iter().any(|file| {
        let content = disk.visible_content(&file.path).unwrap();
        content.windows(8).any(|bytes| bytes == &SECRET[..8])
    })
}

/// All bytes of the segments.
fn content(disk: &SimulatedDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let files = disk.files().into_iter().filter(|file| file.path.extension().is_some());
    files.map(|file| (file.path.clone(), disk.visible_content(&file.path).unwrap())).collect()
}

/// Changes a group and makes all its checksums right again.
fn forge(disk: &SimulatedDisk, lsn: u64, change: impl Fn(&mut GroupHeader, &mut [u8])) {
    let (path, offset, mut group) = group_of(disk, lsn);
    let content = disk.visible_content(&path).unwrap();
    let from = usize::try_from(offset).unwrap() + 64;
    let len = usize::try_from(group.body_len).unwrap();
    let mut body = content[from..from + len].to_vec();
    change(&mut group, &mut body);
    group.body_crc = crc32fast::hash(&body);
    disk.corrupt(&path, offset, &[&group.encode(LOG_ID)[..], &body].concat());
}

/// From memory, from the active segment and from sealed ones; compressed or not; also when new groups are not
/// encrypted any more. The secret is in no file, spares and left-overs included.
#[test]
fn it_is_read_from_everywhere_and_stands_nowhere_readable() {
    for compress in [false, true] {
        let disk = SimulatedDisk::new(1);
        set_compress(compress);
        set_keyring(Some(keyring(1)));
        for _ in 0..2 {
            let wal = open(&disk);
            for _ in 0..40 {
                append(&wal);
                wal.prepare(false).unwrap();
            }
            read_all(&wal);
            assert_eq!(read(&wal, wal.last()).unwrap(), [wal.last().0], "it is in memory");
            wal.close().unwrap();
        }
        assert!(!is_readable(&disk));
        let reading = Keyring::for_reading();
        reading.add(KeyId(1), Chacha::of(1)).unwrap();
        set_keyring(Some(reading));
        let wal = open(&disk);
        for from in (1..=wal.last().0).step_by(7) {
            assert_eq!(read(&wal, Lsn(from)).unwrap()[0], from);
        }
        append(&wal);
        read_all(&wal);
        set_compress(false);
        append(&wal);
        assert!(is_readable(&disk), "the test sees what can be read");
    }
}

/// The largest record fits with its envelope; groups are filled to their last byte.
#[test]
fn room_is_kept_for_the_envelope() {
    set_keyring(Some(keyring(1)));
    let disk = SimulatedDisk::new(1);
    let wal = open(&disk);
    let max = options().payload_len_max();
    for len in [max, BLOCK - HEAD - 12, BLOCK - HEAD - 11, 2 * BLOCK - HEAD - 12, max] {
        wal.prepare(false).unwrap();
        let lsn = wal.append(&vec![7; len]).unwrap();
        wal.wait(lsn).unwrap();
        let (.., group) = group_of(&disk, lsn.0);
        let blocks = u64::try_from((len + HEAD + 12).div_ceil(BLOCK)).unwrap();
        assert!(group.len_on_disk() >= blocks * 4096, "{len}");
    }
}

/// A group whose write fails is written once more, and after a crash another one takes its position: none of
/// them has the nonce of another, in any life.
#[test]
fn no_nonce_comes_twice() {
    let cipher = Chacha::of(1);
    set_keyring(Some(Keyring::new(KeyId(1), cipher.clone())));
    let disk = SimulatedDisk::new(1);
    for life in 0..6 {
        let wal = open(&disk);
        append(&wal);
        disk.fail_writes_from(disk.operations() + 1, 1);
        append(&wal);
        append(&wal);
        assert_eq!(wal.stats().rewrites, 1);
        // Taken and written, not durable: its position is given again.
        disk.set_survival(Survival::NOTHING);
        disk.fail_writes_from(disk.operations() + 1, 9);
        let lsn = wal.append(&payload(wal.last().0 + 1)).unwrap();
        wal.wait(lsn).unwrap_err();
        disk.clear_faults();
        if life % 2 == 0 {
            disk.kill()
        } else {
            disk.power_cut()
        }
        drop(wal);
    }
    assert!(cipher.nonces().unwrap() >= 6 * 4);
    read_all(&open(&disk));
}

/// Without the key, with another one under its id, and where only sealed segments have encrypted groups: it is
/// said, with key and place, nothing is changed, and the right key opens it all.
#[test]
fn a_key_that_is_missing_or_wrong_loses_nothing() {
    for empty_end in [false, true] {
        for is_killed in [false, true] {
            set_keyring(Some(keyring(1)));
            let disk = SimulatedDisk::new(1);
            let wal = open(&disk);
            let mut last = append(&wal).0;
            while wal.stats().segments_in_use < 2 {
                last = append(&wal).0;
            }
            if empty_end {
                // The header of the next segment is there, and the write of its first group is lost.
                last -= 1;
                wal.truncate(Lsn(last)).unwrap();
                wal.prepare(false).unwrap();
                disk.fail_writes_from(disk.operations() + 2, 9);
                let lsn = wal.append(&payload(last + 1)).unwrap();
                wal.wait(lsn).unwrap_err();
                disk.clear_faults();
                disk.set_survival(Survival::NOTHING);
                disk.power_cut();
            } else if is_killed {
                disk.kill();
            } else {
                wal.close().unwrap();
            }
            drop(wal);
            let before = content(&disk);
            for other in [None, Some(Keyring::for_reading()), Some(keyring(2))] {
                set_keyring(other);
                match try_open(&disk).err() {
                    Some(error @ Error::KeyMissing { key: 1, .. }) => {
                        let text = error.to_string();
                        assert!(text.contains("key 1 at offset"), "{text}");
                        assert!(text.contains("/log/") && text.contains("a keyring"), "{text}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            set_keyring(Some(Keyring::new(KeyId(1), Chacha::of(2))));
            let error = try_open(&disk).err();
            assert!(matches!(error, Some(Error::WrongTag { key: 1, .. })), "{error:?}");
            assert!(before == content(&disk), "nothing was changed");
            set_keyring(Some(keyring(1)));
            let wal = open(&disk);
            assert_eq!(wal.last().0, last);
            read_all(&wal);
        }
    }
}

/// New groups get the new key while the log is open; the old ones are read as long as their key is there, and
/// who gives it late reads on.
#[test]
fn keys_are_rotated_while_the_log_is_open() {
    let ring = keyring(1);
    set_keyring(Some(ring.clone()));
    let disk = SimulatedDisk::new(1);
    let wal = open(&disk);
    for _ in 0..30 {
        append(&wal);
    }
    assert!(ring.encrypt_with(KeyId(2)).is_err(), "it is not there");
    assert!(ring.add(KeyId(1), Chacha::of(9)).is_err(), "it is there");
    ring.add(KeyId(2), Chacha::of(2)).unwrap();
    ring.encrypt_with(KeyId(2)).unwrap();
    wal.prepare(false).unwrap();
    while wal.stats().segments_in_use < 6 {
        append(&wal);
        wal.prepare(false).unwrap();
    }
    read_all(&wal);
    wal.close().unwrap();
    let key_of = |lsn| {
        let (path, offset, _) = group_of(&disk, lsn);
        disk.visible_content(&path).unwrap()[usize::try_from(offset).unwrap() + 64]
    };
    assert_eq!((key_of(30), key_of(31)), (1, 2));

    let ring = keyring(2);
    set_keyring(Some(ring.clone()));
    let wal = open(&disk);
    let mut reader = wal.reader(Lsn(29));
    let (path, offset, _) = group_of(&disk, 29);
    for _ in 0..2 {
        match reader.next_records().err() {
            Some(Error::KeyMissing { path: named, offset: at, key: 1 }) => {
                assert_eq!((named, at), (path.clone(), offset));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read(&wal, Lsn(31)).unwrap()[0], 31);
    ring.add(KeyId(1), Chacha::of(1)).unwrap();
    assert_eq!(reader.next_records().unwrap().unwrap().first(), Lsn(29));
    read_all(&wal);
}

/// Bytes, flags and counts that were changed on purpose, with all checksums right: the tag tells, at the end
/// of a log, where it might be taken for torn, and before it.
#[test]
fn what_is_forged_is_refused_by_its_tag() {
    type Change = fn(&mut GroupHeader, &mut [u8]);
    let changes: [(&str, Change); 5] = [
        ("a byte of the ciphertext", |_, body| body[70] ^= 1),
        ("a bit of the tag", |_, body| body[55] ^= 0x80),
        ("the count", |group, _| group.count += 1),
        ("the flags", |group, _| group.flags |= 2),
        ("the nonce", |_, body| {
            body[9] ^= 1;
            let crc = crc32fast::hash(&body[..36]);
            body[36..40].copy_from_slice(&crc.to_le_bytes());
        }),
    ];
    for (what, change) in changes {
        set_keyring(Some(keyring(1)));
        let disk = SimulatedDisk::new(1);
        let wal = open(&disk);
        for _ in 0..4 {
            append(&wal);
        }
        disk.kill();
        drop(wal);
        forge(&disk, 4, change);
        let before = content(&disk);
        let error = try_open(&disk).err();
        let (path, offset, _) = group_of(&disk, 4);
        match error {
            Some(Error::WrongTag { path: named, offset: at, key: 1 }) => {
                assert_eq!((named, at), (path, offset), "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
        assert!(before == content(&disk), "{what}: nothing was changed");

        let disk = SimulatedDisk::new(1);
        written(&disk);
        forge(&disk, 5, change);
        let error = read(&open(&disk), Lsn(5)).unwrap_err();
        assert!(matches!(error, Error::WrongTag { key: 1, .. }), "{what}: {error}");
    }
}

/// A group of the same log, with the same key, in another one's place.
#[test]
fn a_group_in_place_of_another_is_refused() {
    set_keyring(Some(keyring(1)));
    let disk = SimulatedDisk::new(1);
    written(&disk);
    let (path, offset, group) = group_of(&disk, 4);
    let from = usize::try_from(offset).unwrap() + 64;
    let len = usize::try_from(group.body_len).unwrap();
    let body = disk.visible_content(&path).unwrap()[from..from + len].to_vec();
    let (.., other) = group_of(&disk, 5);
    assert_eq!(other.body_len, group.body_len);
    forge(&disk, 5, |_, bytes| bytes.copy_from_slice(&body));
    let error = read(&open(&disk), Lsn(5)).unwrap_err();
    assert!(matches!(error, Error::WrongTag { .. }), "{error}");
}

fn repair(wal: &Wal, lsn: u64, of: u64) -> Result<strandline_wal::Repaired, Error> {
    wal.repair(Lsn(lsn), &[Record { kind: Kind::ENTRY, payload: &payload(of) }])
}

fn scrubbed(wal: &Wal) -> usize {
    let mut damages = 0;
    loop {
        let step = wal.scrub(1 << 20).unwrap();
        damages += step.damages.len();
        if step.finished {
            return damages;
        }
    }
}

/// Damage to the ciphertext, to the tag, to the envelope, to the header: found without a key, mended with proof
/// where the envelope is whole, encrypted again with a nonce of its own, in a segment whose other groups move
/// as they are.
#[test]
fn damage_is_mended_and_stays_encrypted() {
    for (at, is_judged) in
        [(1000, true), (64 + 45, true), (64 + 3, false), (64 + 20, false), (20, false)]
    {
        set_keyring(Some(keyring(1)));
        let disk = SimulatedDisk::new(4);
        written(&disk);
        let (path, offset, _) = group_of(&disk, 6);
        disk.flip_bit(&path, (offset + at) * 8);
        let before = disk.visible_content(&path).unwrap();
        let ring = keyring(2);
        set_keyring(Some(ring.clone()));
        // Its end has the other key.
        ring.add(KeyId(1), Chacha::of(1)).unwrap();
        let wal = open(&disk);
        assert_eq!(scrubbed(&wal), 1);
        assert!(matches!(read(&wal, Lsn(6)), Err(Error::Corruption { .. })), "byte {at}");
        let other = repair(&open(&disk.fork(9)), 6, 3);
        assert_eq!(matches!(other, Err(Error::Mismatch { lsn: 6, .. })), is_judged, "byte {at}");
        let done = repair(&wal, 6, 6).unwrap();
        let proven = u64::from(is_judged);
        assert_eq!((done.places, done.records, done.proven), (1, 1, proven), "byte {at}");
        read_all(&wal);
        let (path, offset, group) = group_of(&disk, 6);
        let after = disk.visible_content(&path).unwrap();
        let from = usize::try_from(offset).unwrap() + 64;
        assert!(group.is_encrypted() && after[from] == 2, "it has the new key");
        assert!(before[from + 8..from + 24] != after[from + 8..from + 24], "and a salt of its own");
        wal.close().unwrap();
        assert!(!is_readable(&disk));
        assert!(verify(&*disk, Path::new(DIR)).unwrap().damages.is_empty());
    }
}

/// Who has no key to encrypt with, or none to judge with, mends nothing, and changes nothing.
#[test]
fn nothing_is_mended_without_its_key() {
    set_keyring(Some(keyring(1)));
    let disk = SimulatedDisk::new(4);
    written(&disk);
    let (path, offset, _) = group_of(&disk, 6);
    disk.flip_bit(&path, (offset + 1000) * 8);
    let reading = Keyring::for_reading();
    reading.add(KeyId(1), Chacha::of(1)).unwrap();
    set_keyring(Some(reading.clone()));
    let wal = open(&disk);
    let error = repair(&wal, 6, 6).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    assert!(!is_readable(&disk));
    // The end of the log gets another key, so that it opens without the first.
    reading.add(KeyId(2), Chacha::of(2)).unwrap();
    reading.encrypt_with(KeyId(2)).unwrap();
    wal.prepare(false).unwrap();
    let segments = wal.stats().segments_in_use;
    while wal.stats().segments_in_use == segments {
        append(&wal);
        wal.prepare(false).unwrap();
    }
    wal.close().unwrap();
    set_keyring(Some(keyring(2)));
    let before = content(&disk);
    let wal = open(&disk);
    let error = repair(&wal, 6, 6).unwrap_err();
    assert!(matches!(error, Error::KeyMissing { key: 1, .. }), "{error}");
    let of = |files: &[(PathBuf, Vec<u8>)]| files.iter().find(|file| file.0 == path).cloned();
    assert!(of(&before) == of(&content(&disk)), "the damaged segment is as it was");
}

/// Verifying, describing and salvaging ask for no key: they say and move what they cannot read.
#[test]
fn what_only_checks_and_moves_needs_no_key() {
    set_keyring(Some(keyring(7)));
    let disk = SimulatedDisk::new(5);
    let last = written(&disk);
    let found = verify(&*disk, Path::new(DIR)).unwrap();
    assert!(found.damages.is_empty() && found.tail == Tail::Clean, "{found:?}");
    assert_eq!(
        (found.groups, found.encrypted, found.last),
        (found.groups, found.groups, Lsn(last))
    );
    assert!(found.groups > 10);
    let (path, ..) = group_of(&disk, 5);
    let text = inspect_segment(&*disk, &path).unwrap();
    assert!(text.contains("1 records"), "{text}");
    assert!(text.contains("encrypted with key 7, records not counted"), "{text}");

    // The header of a sealed segment is gone: it is given back.
    disk.corrupt(&path, 0, &[0; 64]);
    assert!(try_open(&disk).is_err());
    let done = Salvage::apply(&*disk, Path::new(DIR), Lsn(1), None).unwrap();
    assert!(done.is_applied && done.cut.is_none(), "{done:?}");
    read_all(&open(&disk.fork(1)));

    // A group is gone: the log is cut before it, and what remains is read.
    let (path, offset, _) = group_of(&disk, 9);
    disk.flip_bit(&path, (offset + 80) * 8);
    let planned = Salvage::plan(&*disk, Path::new(DIR), Lsn(1)).unwrap();
    let from = planned.cut.unwrap().first;
    assert_eq!(from, Lsn(9));
    let done = Salvage::apply(&*disk, Path::new(DIR), Lsn(1), Some(from)).unwrap();
    assert!(done.is_applied);
    let wal = open(&disk);
    assert_eq!(read(&wal, Lsn(1)).unwrap(), Vec::from_iter(1..9));
    append(&wal);
    read_all(&wal);
    assert!(!is_readable(&disk));
}
