//! Damage that no operation does: bad sectors, rot, misdirected writes.

use super::*;

#[test]
fn an_unreadable_sector_returns_errors_until_rewritten() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", &[1; 2048]);
    disk.make_unreadable(&path("a"), 700);
    let mut into = [0; 600];
    let error = file.read_at(&mut into, 0).unwrap_err();
    assert_eq!(code(&error), Some(5));
    assert!(matches!(error, Error::Io { offset: 512, .. }), "{error}");
    assert!(disk.map_front(&path("a"), u64::MAX).is_err());
    assert_eq!(file.read_at(&mut into[..512], 0).unwrap(), 512);
    assert_eq!(file.read_at(&mut into, 1024).unwrap(), 600);
    file.write_at(&[2; 10], 700).unwrap();
    assert!(file.read_at(&mut into, 512).is_err(), "a part of the sector does not heal it");
    file.write_at(&[2; 512], 512).unwrap();
    assert_eq!(file.read_at(&mut into, 512).unwrap(), 600);
    disk.power_cut();
    assert!(read(&disk, "a").is_err(), "the healing write was not synced");
    let file = disk.open(&path("a"), OpenMode::Write).unwrap();
    file.write_at(&[2; 512], 512).unwrap();
    file.sync().unwrap();
    disk.power_cut();
    assert_eq!(read(&disk, "a").unwrap()[512..1024], [2; 512]);
}

#[test]
fn what_is_mapped_is_met_when_it_is_touched() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", &[1; 2000]);
    let before = disk.map(&path("a")).unwrap();
    disk.make_unreadable(&path("a"), 700);
    let after = disk.map(&path("a")).unwrap();
    for map in [before, after] {
        map.touch(0..512).unwrap();
        map.touch(1024..5000).unwrap();
        let error = map.touch(0..513).unwrap_err();
        assert!(matches!(error, Error::Io { operation: "read", offset: 512, .. }), "{error}");
        assert!(error.is_unreadable());
    }
    disk.fail_reads(&path("a"), 1999, 2);
    let map = disk.map(&path("a")).unwrap();
    assert!(map.touch(1536..1537).is_err());
    assert!(file.read_at(&mut [0; 10], 1990).is_err());
    map.touch(1536..1537).unwrap();
    assert_eq!(file.read_at(&mut [0; 10], 1990).unwrap(), 10, "it has passed");
}

#[test]
fn rot_shows_at_once_and_survives_a_power_cut() {
    let disk = disk(1, Survival::NOTHING);
    durable_file(&disk, "a", &[0; 4]);
    let map = disk.map(&path("a")).unwrap();
    disk.flip_bit(&path("a"), 17);
    disk.flip_bit(&path("a"), 1_000_000);
    assert_eq!(read(&disk, "a").unwrap(), [0, 0, 2, 0]);
    assert_eq!(&*map, [0; 4], "a map is of its moment");
    disk.corrupt(&path("a"), 3, b"xyz");
    disk.power_cut();
    assert_eq!(read(&disk, "a").unwrap(), [0, 0, 2, b'x']);
    disk.flip_bit(&path("a"), 17);
    assert_eq!(read(&disk, "a").unwrap(), [0, 0, 0, b'x']);
}

/// It is no operation of the process: no planned fault meets it, and none is told.
#[test]
fn a_lost_name_stays_lost() {
    for is_synced in [true, false] {
        let disk = disk(1, Survival::EVERYTHING);
        let file = durable_file(&disk, "a", &[1; 4]);
        if !is_synced {
            disk.rename(&path("a"), &path("b")).unwrap();
            disk.link(&path("b"), &path("a")).unwrap();
        }
        let operations = disk.operations();
        fail_next(&disk, Fault::Kill);
        disk.lose(&path("a"));
        assert_eq!(disk.operations(), operations);
        assert!(!disk.is_down());
        disk.clear_faults();
        assert!(!exists(&disk, "a"));
        assert_eq!(file.read_at(&mut [0; 4], 0).unwrap(), 4, "who has it open reads on");
        disk.sync_dir(Path::new(DIR)).unwrap();
        disk.power_cut();
        assert!(!exists(&disk, "a"));
        assert_eq!(exists(&disk, "b"), !is_synced);
    }
}

#[test]
fn a_misdirected_write_lands_whole_elsewhere_and_says_ok() {
    let disk = disk(1, Survival::NOTHING);
    let log = durable_log(&disk, "log", 12288);
    let queue = disk.write_queue().unwrap();
    disk.misdirect_next_write(8192);
    submit(&*queue, write_of(1, &log, 0, 1, 4096)).unwrap();
    submit(&*queue, write_of(2, &log, 4096, 2, 4096)).unwrap();
    let seen = disk.visible_content(&path("log")).unwrap();
    disk.power_cut();
    let bytes = read(&disk, "log").unwrap();
    assert_eq!(bytes, seen, "it bypassed the cache");
    assert_eq!(bytes[..4096], [0; 4096]);
    assert_eq!(bytes[4096..8192], [2; 4096], "only one write is misdirected");
    assert_eq!(bytes[8192..], [1; 4096]);
}

#[test]
fn a_read_error_at_a_chosen_operation_passes() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", b"content");
    fail_next(&disk, Fault::Eio);
    assert_eq!(code(&file.read_at(&mut [0; 7], 0).unwrap_err()), Some(5));
    assert_eq!(file.read_at(&mut [0; 7], 0).unwrap(), 7);
    fail_next(&disk, Fault::Eio);
    assert!(disk.map(&path("a")).is_err());
    fail_next(&disk, Fault::Eio);
    assert!(disk.rename(&path("a"), &path("b")).is_err());
    assert!(exists(&disk, "a"), "a rename that failed changed nothing");
}

#[test]
#[should_panic(expected = "no file /db/none to damage")]
fn damage_to_nothing_is_a_slip_of_the_test() {
    disk(1, Survival::NOTHING).flip_bit(&path("none"), 0);
}
