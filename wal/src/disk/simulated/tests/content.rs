//! Content: buffered writes, lengths and syncs.

use super::*;

#[test]
fn reads_see_writes_at_once_and_stop_at_the_end() {
    let disk = disk(1, Survival::NOTHING);
    let file = disk.open(&path("a"), OpenMode::Create).unwrap();
    assert!(file.is_empty().unwrap());
    file.write_at(b"hello", 3).unwrap();
    assert_eq!(file.len().unwrap(), 8);
    let mut into = [9; 16];
    assert_eq!(file.read_at(&mut into, 0).unwrap(), 8);
    assert_eq!(&into[..9], b"\0\0\0hello\x09");
    assert_eq!(file.read_at(&mut into, 8).unwrap(), 0);
    assert_eq!(file.read_at(&mut into, u64::MAX).unwrap(), 0);
    assert_eq!(&*disk.map(&path("a")).unwrap(), b"\0\0\0hello");
}

#[test]
fn only_synced_writes_are_durable() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", b"first");
    file.write_at(b"SECOND", 5).unwrap();
    assert_eq!(disk.visible_content(&path("a")).unwrap(), b"firstSECOND");
    assert_eq!(disk.durable_content(&path("a")).unwrap(), b"first");
    let report = &disk.files()[0];
    assert_eq!((report.len, report.durable_len, report.unsynced_sectors), (11, Some(5), 1));
    disk.power_cut();
    assert_eq!(read(&disk, "a").unwrap(), b"first");
}

#[test]
fn a_sync_covers_every_handle_and_the_length() {
    let disk = disk(1, Survival::NOTHING);
    let one = durable_file(&disk, "a", b"");
    let other = disk.open(&path("a"), OpenMode::Write).unwrap();
    one.write_at(&[1; 1000], 0).unwrap();
    one.allocate(3000).unwrap();
    other.sync().unwrap();
    disk.power_cut();
    let bytes = read(&disk, "a").unwrap();
    assert_eq!(bytes[..1000], [1; 1000]);
    assert_eq!(bytes[1000..], [0; 2000]);
}

#[test]
fn sectors_of_an_unsynced_write_survive_one_by_one() {
    let mut subsets = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let disk = disk(seed, Survival::of(500));
        let file = durable_file(&disk, "a", &[1; 4096]);
        file.write_at(&[2; 4096], 0).unwrap();
        disk.power_cut();
        let bytes = read(&disk, "a").unwrap();
        let (old, new) = (sectors_with(&bytes, 1), sectors_with(&bytes, 2));
        assert!(old.iter().zip(&new).all(|(old, new)| old != new), "seed {seed}: a torn sector");
        subsets.insert(new);
    }
    assert!(subsets.len() > 40, "only {} different outcomes", subsets.len());
}

#[test]
fn unaligned_writes_tear_where_sectors_of_the_file_begin() {
    for seed in 0..64 {
        let disk = disk(seed, Survival::of(500));
        let file = durable_file(&disk, "a", &[1; 2048]);
        file.write_at(&[2; 1000], 300).unwrap();
        disk.power_cut();
        let bytes = read(&disk, "a").unwrap();
        assert_eq!(bytes[..300], [1; 300], "seed {seed}");
        assert_eq!(bytes[1300..], [1; 748], "seed {seed}");
        for piece in [300..512, 512..1024, 1024..1300] {
            let first = bytes[piece.start];
            assert!(bytes[piece].iter().all(|byte| *byte == first), "seed {seed}");
        }
    }
}

#[test]
fn the_ends_of_survival_keep_nothing_and_everything() {
    for (survival, expected) in [(Survival::NOTHING, 1), (Survival::EVERYTHING, 2)] {
        let disk = disk(1, survival);
        let file = durable_file(&disk, "a", &[1; 4096]);
        file.write_at(&[2; 4096], 0).unwrap();
        disk.power_cut();
        assert_eq!(read(&disk, "a").unwrap(), [expected; 4096]);
    }
}

#[test]
fn a_length_may_survive_without_its_data_as_zeros_or_stale_bytes() {
    let only_lengths = Survival { sectors: 0, lengths: 1000, names: 1000 };
    let (mut zeros, mut stale, mut noise) = (0, 0, 0);
    for seed in 0..50 {
        let disk = disk(seed, only_lengths);
        durable_file(&disk, "removed", &[7; 1024]);
        disk.remove(&path("removed")).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        let file = durable_file(&disk, "a", b"");
        file.write_at(&[2; 1536], 0).unwrap();
        disk.power_cut();
        let bytes = read(&disk, "a").unwrap();
        assert_eq!(bytes.len(), 1536);
        for sector in bytes.chunks(512) {
            match sector[0] {
                0 if sector == [0; 512] => zeros += 1,
                7 if sector == [7; 512] => stale += 1,
                _ if sector == [2; 512] => panic!("seed {seed}: the data survived"),
                _ => noise += 1,
            }
        }
    }
    assert!(zeros > 20 && stale > 20 && noise > 5, "{zeros} {stale} {noise}");
}

#[test]
fn data_may_survive_without_its_length() {
    let disk = disk(1, Survival { sectors: 1000, lengths: 0, names: 1000 });
    let file = durable_file(&disk, "a", &[1; 700]);
    file.write_at(&[2; 700], 600).unwrap();
    disk.power_cut();
    let bytes = read(&disk, "a").unwrap();
    assert_eq!(bytes.len(), 700, "the length was not synced");
    assert_eq!(bytes[..600], [1; 600]);
    assert_eq!(bytes[600..], [2; 100], "within the old length the write survived");
}

#[test]
fn lengths_are_one_of_those_the_file_had() {
    for seed in 0..100 {
        let disk = disk(seed, Survival::of(500));
        let file = durable_file(&disk, "a", &[1; 100]);
        for (offset, count) in [(100, 50), (150, 1000), (1150, 10)] {
            file.write_at(&vec![2; count], offset).unwrap();
        }
        disk.power_cut();
        let len = read(&disk, "a").unwrap().len();
        assert!([100, 150, 1150, 1160].contains(&len), "seed {seed}: {len}");
    }
}

#[test]
fn shortening_is_unsynced_too() {
    for (survival, expected) in [(Survival::NOTHING, 100), (Survival::EVERYTHING, 10)] {
        let disk = disk(1, survival);
        let file = durable_file(&disk, "a", &[1; 100]);
        file.allocate(10).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        disk.power_cut();
        assert_eq!(read(&disk, "a").unwrap(), vec![1; expected]);
    }
}

#[test]
fn a_file_without_a_name_lives_as_long_as_its_handle() {
    let disk = disk(1, Survival::EVERYTHING);
    let file = durable_file(&disk, "a", b"content");
    disk.remove(&path("a")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    durable_file(&disk, "a", b"another");
    let mut into = [0; 7];
    assert_eq!(file.read_at(&mut into, 0).unwrap(), 7);
    assert_eq!(&into, b"content");
    assert_eq!(disk.used(), 14);
    drop(file);
    assert_eq!(disk.used(), 7);
}

#[test]
fn a_reader_cannot_write_and_a_log_file_wants_alignment() {
    let disk = disk(1, Survival::NOTHING);
    durable_file(&disk, "a", b"content");
    let reader = disk.open(&path("a"), OpenMode::Read).unwrap();
    let denied = std::io::ErrorKind::PermissionDenied;
    assert_eq!(kind(&reader.write_at(b"x", 0).unwrap_err()), denied);
    assert_eq!(kind(&reader.allocate(1).unwrap_err()), denied);
    let log = durable_log(&disk, "log", 8192);
    let invalid = std::io::ErrorKind::InvalidInput;
    assert_eq!(kind(&log.write_at(b"x", 0).unwrap_err()), invalid);
    assert_eq!(kind(&log.write_at(&[0; 4096], 1).unwrap_err()), invalid);
    log.write_at(&[1; 4096], 4096).unwrap();
    let mut into = [0; 3];
    assert_eq!(log.read_at(&mut into, 4095).unwrap(), 3, "reads need no alignment");
    assert_eq!(into, [0, 1, 1]);
}

#[test]
fn a_file_cannot_grow_beyond_memory() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", b"content");
    for offset in [1 << 40, u64::MAX] {
        let error = file.write_at(b"x", offset).unwrap_err();
        assert_eq!(kind(&error), std::io::ErrorKind::FileTooLarge);
    }
    assert_eq!(file.len().unwrap(), 7);
}
