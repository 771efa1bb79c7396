//! A full disk: at writing, at allocation, late at a sync; and room again.

use super::*;

#[test]
fn a_full_disk_refuses_growth_only_and_recovers() {
    let disk = disk(1, Survival::NOTHING);
    let log = durable_log(&disk, "log", 4096);
    let queue = disk.write_queue().unwrap();
    disk.set_full(true);
    let file = disk.open(&path("a"), OpenMode::Create).unwrap();
    for error in [file.write_at(b"x", 0).unwrap_err(), file.allocate(1).unwrap_err()] {
        assert!(error.is_full(), "{error}");
        assert_eq!(code(&error), Some(28));
    }
    assert!(submit(&*queue, write_of(1, &log, 4096, 1, 4096)).unwrap_err().is_full());
    submit(&*queue, write_of(1, &log, 0, 1, 4096)).unwrap();
    log.write_at(&[2; 4096], 0).unwrap();
    log.sync().unwrap();
    disk.set_full(false);
    file.write_at(b"x", 0).unwrap();
    file.allocate(100).unwrap();
}

#[test]
fn a_write_beyond_the_capacity_performs_what_fits() {
    let disk = disk(1, Survival::NOTHING);
    disk.set_capacity(Some(10_000));
    let log = durable_log(&disk, "log", 4096);
    let queue = disk.write_queue().unwrap();
    let error = submit(&*queue, write_of(1, &log, 4096, 1, 8192)).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(log.len().unwrap(), 4096 + 5632, "whole sectors");
    assert_eq!(disk.durable_content(&path("log")).unwrap().len(), 4096, "and none durable");
    let file = disk.open(&path("a"), OpenMode::Create).unwrap();
    assert!(file.write_at(&[1; 1000], 0).unwrap_err().is_full());
    assert_eq!(file.len().unwrap(), 10_000 - 4096 - 5632);
    assert_eq!(disk.used(), 10_000);
}

#[test]
fn removing_a_file_makes_room_once_nobody_has_it_open() {
    let disk = disk(1, Survival::NOTHING);
    disk.set_capacity(Some(1000));
    let old = durable_file(&disk, "old", &[1; 800]);
    let new = disk.open(&path("new"), OpenMode::Create).unwrap();
    assert!(new.allocate(300).unwrap_err().is_full());
    disk.remove(&path("old")).unwrap();
    assert!(new.allocate(300).unwrap_err().is_full(), "the handle keeps it");
    drop(old);
    new.allocate(300).unwrap();
    assert_eq!(disk.used(), 300);
    new.allocate(100).unwrap();
    assert_eq!(disk.used(), 100, "shortening gives room back");
}

#[test]
fn a_replaced_file_gives_its_room_back() {
    let disk = disk(1, Survival::NOTHING);
    disk.set_capacity(Some(1000));
    drop(durable_file(&disk, "current", &[1; 600]));
    drop(durable_file(&disk, "next", &[2; 400]));
    disk.rename(&path("next"), &path("current")).unwrap();
    assert_eq!(disk.used(), 400);
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.power_cut();
    assert_eq!(disk.used(), 400);
}

#[test]
fn no_space_once_at_a_chosen_operation() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", b"");
    fail_next(&disk, Fault::Enospc);
    assert!(file.allocate(100).unwrap_err().is_full());
    assert_eq!(file.len().unwrap(), 0);
    fail_next(&disk, Fault::Enospc);
    assert!(file.write_at(&[1; 100], 0).unwrap_err().is_full());
    assert!(file.len().unwrap() <= 100, "a prefix");
    fail_next(&disk, Fault::Enospc);
    assert!(disk.open(&path("b"), OpenMode::Create).unwrap_err().is_full());
    assert!(!exists(&disk, "b"));
    disk.open(&path("b"), OpenMode::Create).unwrap();
}

#[test]
fn no_space_late_at_a_sync_loses_what_was_written() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", &[1; 512]);
    file.write_at(&[2; 512], 0).unwrap();
    fail_next(&disk, Fault::Enospc);
    assert!(file.sync().unwrap_err().is_full());
    file.sync().unwrap();
    disk.power_cut();
    assert_eq!(read(&disk, "a").unwrap(), [1; 512]);
}

#[test]
fn a_short_write_performs_a_proper_prefix() {
    for seed in 0..50 {
        let disk = disk(seed, Survival::NOTHING);
        let file = durable_file(&disk, "a", b"");
        let log = durable_log(&disk, "log", 4096);
        let queue = disk.write_queue().unwrap();
        fail_next(&disk, Fault::ShortWrite);
        let error = file.write_at(&[1; 100], 0).unwrap_err();
        assert_eq!(kind(&error), std::io::ErrorKind::WriteZero);
        let bytes = read(&disk, "a").unwrap();
        assert!(bytes.len() < 100 && bytes.iter().all(|byte| *byte == 1), "seed {seed}");
        fail_next(&disk, Fault::ShortWrite);
        assert!(submit(&*queue, write_of(1, &log, 0, 1, 4096)).is_err());
        let sectors = sectors_with(&disk.visible_content(&path("log")).unwrap(), 1);
        assert!(sectors.is_sorted_by(|one, next| one >= next), "seed {seed}: {sectors:?}");
        assert!(!sectors[7], "seed {seed}: not all of it");
    }
}

#[test]
fn faults_that_an_operation_cannot_meet_are_dropped() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", b"content");
    for fault in [Fault::Enospc, Fault::ShortWrite] {
        fail_next(&disk, fault);
        file.read_at(&mut [0; 7], 0).unwrap();
    }
    fail_next(&disk, Fault::ShortWrite);
    file.sync().unwrap();
    assert_eq!(disk.counters().faults, 0);
    fail_next(&disk, Fault::Eio);
    disk.clear_faults();
    file.sync().unwrap();
}
