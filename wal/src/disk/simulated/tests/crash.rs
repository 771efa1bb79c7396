//! Crashes: what ends with the process, what a planned crash does, and failed syncs.

use super::*;

#[test]
fn all_handles_end_with_the_process() {
    for crash in [Fault::PowerCut, Fault::Kill] {
        let disk = disk(1, Survival::EVERYTHING);
        let file = durable_file(&disk, "a", b"content");
        let log = durable_log(&disk, "log", 4096);
        let queue = disk.write_queue().unwrap();
        let mount = disk.mount();
        assert!(mount.exists(&path("a")).unwrap());
        if crash == Fault::Kill {
            disk.kill()
        } else {
            disk.power_cut()
        }
        let before = (disk.event_hash(), disk.operations());
        assert!(file.read_at(&mut [0; 1], 0).is_err());
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.sync().is_err());
        assert!(file.len().is_err());
        assert!(file.allocate(1).is_err());
        assert!(submit(&*queue, write_of(1, &log, 0, 1, 4096)).is_err());
        assert!(queue.complete().is_empty());
        assert!(mount.exists(&path("a")).is_err());
        assert!(mount.remove(&path("a")).is_err());
        assert!(mount.write_queue().is_err());
        let new_queue = disk.write_queue().unwrap();
        let old_file = submit(&*new_queue, write_of(1, &log, 0, 1, 4096));
        assert!(old_file.is_err(), "a new queue does not revive an old file");
        assert_eq!(before, (disk.event_hash(), disk.operations()), "the dead are not numbered");
        assert!(exists(&disk.mount(), "a"), "a new mount lives");
    }
}

#[test]
fn locks_are_exclusive_and_end_with_their_guard_or_process() {
    let disk = disk(1, Survival::NOTHING);
    let guard = disk.lock(&path("LOCK")).unwrap();
    let refused = disk.lock(&path("LOCK")).unwrap_err();
    assert!(matches!(&refused, Error::Locked { path: found } if *found == path("LOCK")));
    disk.lock(&path("OTHER")).unwrap();
    drop(guard);
    let guard = disk.lock(&path("LOCK")).unwrap();
    disk.kill();
    let next = disk.lock(&path("LOCK")).unwrap();
    drop(guard);
    assert!(disk.lock(&path("LOCK")).is_err(), "a dead guard releases nothing");
    drop(next);
    disk.power_cut();
    disk.lock(&path("LOCK")).unwrap();
}

#[test]
fn a_kill_leaves_unsynced_writes_readable_and_unsynced() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", b"old");
    file.write_at(b"new", 0).unwrap();
    disk.open(&path("b"), OpenMode::Create).unwrap();
    disk.kill();
    assert_eq!(read(&disk, "a").unwrap(), b"new");
    assert!(exists(&disk, "b"));
    let synced = disk.fork(1);
    synced.open(&path("a"), OpenMode::Write).unwrap().sync().unwrap();
    synced.power_cut();
    assert_eq!(read(&synced, "a").unwrap(), b"new", "a sync after the restart covers it");
    disk.power_cut();
    assert_eq!(read(&disk, "a").unwrap(), b"old");
    assert!(!exists(&disk, "b"));
}

#[test]
fn a_planned_crash_takes_the_disk_down_until_it_is_restarted() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", b"old");
    disk.fail_at(disk.operations() + 2, Fault::PowerCut);
    file.write_at(b"new", 0).unwrap();
    let error = file.sync().unwrap_err();
    assert!(matches!(error, Error::Io { operation: "sync", .. }), "{error}");
    assert!(disk.is_down());
    let operations = disk.operations();
    assert!(file.write_at(b"x", 0).is_err());
    assert!(disk.list(Path::new(DIR)).is_err());
    assert!(disk.lock(&path("LOCK")).is_err());
    assert_eq!(disk.operations(), operations);
    assert_eq!(disk.restart(), Some(Fault::PowerCut));
    assert_eq!(disk.restart(), None);
    assert_eq!(read(&disk, "a").unwrap(), b"old", "the sync did not complete");
    assert!(file.len().is_err());
    assert_eq!(disk.counters().crashes, 1);
    assert_eq!(disk.counters().faults, 1);
}

#[test]
fn the_operation_that_meets_a_power_cut_may_have_taken_place() {
    for (survival, expected) in [(Survival::NOTHING, false), (Survival::EVERYTHING, true)] {
        let disk = disk(1, survival);
        durable_file(&disk, "a", b"old");
        let attempt = |act: &dyn Fn(&SimulatedDisk) -> Result<()>| {
            let fork = disk.fork(1);
            fail_next(&fork, Fault::PowerCut);
            assert!(act(&fork).is_err());
            fork.restart();
            fork
        };
        let created = attempt(&|disk| disk.open(&path("b"), OpenMode::Create).map(drop));
        assert_eq!(exists(&created, "b"), expected);
        let renamed = attempt(&|disk| disk.rename(&path("a"), &path("b")));
        assert_eq!(exists(&renamed, "b"), expected);
        let removed = attempt(&|disk| disk.remove(&path("a")));
        assert_eq!(exists(&removed, "a"), !expected);
        let linked = attempt(&|disk| disk.link(&path("a"), &path("b")));
        assert_eq!(exists(&linked, "b"), expected);
        let made = attempt(&|disk| disk.create_dir_all(&path("x/y")));
        assert_eq!(exists(&made, "x/y"), expected);
        let locked = attempt(&|disk| disk.lock(&path("LOCK")).map(drop));
        assert_eq!(exists(&locked, "LOCK"), expected);
    }
}

#[test]
fn a_write_that_meets_a_kill_is_done_wholly_partly_or_not() {
    let mut lens = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = disk(seed, Survival::NOTHING);
        let file = durable_file(&disk, "a", b"");
        fail_next(&disk, Fault::Kill);
        assert!(file.write_at(&[1; 10], 0).is_err());
        assert_eq!(disk.restart(), Some(Fault::Kill));
        lens.insert(read(&disk, "a").unwrap().len());
    }
    assert!(lens.contains(&0) && lens.contains(&10) && lens.len() > 5, "{lens:?}");
}

#[test]
fn writes_under_way_end_with_an_error_when_the_disk_goes_down() {
    let disk = disk(1, Survival::EVERYTHING);
    let log = durable_log(&disk, "log", 8192);
    let queue = disk.write_queue().unwrap();
    disk.set_stepped(true);
    assert!(matches!(queue.submit(write_of(1, &log, 0, 1, 4096)), Submitted::Queued));
    fail_next(&disk, Fault::PowerCut);
    assert!(submit(&*queue, write_of(2, &log, 4096, 2, 4096)).is_err());
    let ended = queue.complete();
    assert_eq!(ended.len(), 1, "a caller who waits on a disk that is down must not wait for ever");
    assert!(ended[0].result.is_err());
    assert!(queue.complete().is_empty());
    disk.restart();
    let bytes = read(&disk, "log").unwrap();
    assert_eq!(bytes[..4096], [1; 4096]);
    assert_eq!(bytes[4096..], [2; 4096]);
}

#[test]
fn a_failed_sync_is_never_healed_by_a_later_one() {
    let (mut lost, mut saw_new, mut saw_old) = (0, 0, 0);
    for seed in 0..100 {
        let disk = disk(seed, Survival::of(500));
        let file = durable_file(&disk, "a", &[1; 2048]);
        file.write_at(&[2; 2048], 0).unwrap();
        fail_next(&disk, Fault::Eio);
        assert_eq!(code(&file.sync().unwrap_err()), Some(5));
        match &disk.visible_content(&path("a")).unwrap() {
            seen if *seen == [2; 2048] => saw_new += 1,
            seen if *seen == [1; 2048] => saw_old += 1,
            _ => panic!("seed {seed}: the cache holds a mixture"),
        }
        file.sync().unwrap();
        file.sync().unwrap();
        disk.set_survival(Survival::EVERYTHING);
        disk.power_cut();
        let bytes = read(&disk, "a").unwrap();
        lost += usize::from(sectors_with(&bytes, 2).contains(&false));
    }
    assert!(lost > 80, "{lost} of 100 failed syncs lost something");
    assert!(saw_new > 20 && saw_old > 20, "{saw_new} new, {saw_old} old");
}

#[test]
fn a_failed_sync_hides_until_the_power_is_cut() {
    // Only a power cut shows what a failed sync lost: after a kill the cache still looks whole.
    let disk = disk(4, Survival::NOTHING);
    let file = durable_file(&disk, "a", b"old");
    let mut seed = 0;
    let disk = loop {
        let fork = disk.fork(seed);
        let file = fork.open(&path("a"), OpenMode::Write).unwrap();
        file.write_at(b"new", 0).unwrap();
        fail_next(&fork, Fault::Eio);
        assert!(file.sync().is_err());
        if fork.visible_content(&path("a")).unwrap() == b"new" {
            break fork;
        }
        seed += 1;
    };
    drop(file);
    disk.kill();
    assert_eq!(read(&disk, "a").unwrap(), b"new");
    disk.open(&path("a"), OpenMode::Write).unwrap().sync().unwrap();
    assert_eq!(disk.durable_content(&path("a")).unwrap(), b"old");
    // Writing the bytes again, as a log does that mistrusts them, does help.
    let file = disk.open(&path("a"), OpenMode::Write).unwrap();
    file.write_at(b"new", 0).unwrap();
    file.sync().unwrap();
    disk.power_cut();
    assert_eq!(read(&disk, "a").unwrap(), b"new");
}

#[test]
fn writes_after_a_failed_sync_are_synced_as_usual() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", &[1; 1024]);
    file.write_at(&[2; 512], 0).unwrap();
    fail_next(&disk, Fault::Eio);
    assert!(file.sync().is_err());
    file.write_at(&[3; 2048], 512).unwrap();
    file.sync().unwrap();
    disk.power_cut();
    let bytes = read(&disk, "a").unwrap();
    assert_eq!(bytes[..512], [1; 512]);
    assert_eq!(bytes[512..], [3; 2048]);
}

#[test]
fn a_failed_sync_of_a_directory_keeps_its_changes_unsynced() {
    let disk = disk(1, Survival::NOTHING);
    disk.open(&path("a"), OpenMode::Create).unwrap();
    fail_next(&disk, Fault::Eio);
    assert_eq!(code(&disk.sync_dir(Path::new(DIR)).unwrap_err()), Some(5));
    let cut = disk.fork(1);
    cut.power_cut();
    assert!(!exists(&cut, "a"));
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.power_cut();
    assert!(exists(&disk, "a"));
}

#[test]
fn a_lying_disk_says_ok_and_keeps_nothing() {
    let disk = disk(1, Survival::NOTHING);
    let log = durable_log(&disk, "log", 4096);
    let queue = disk.write_queue().unwrap();
    disk.set_lying(true);
    submit(&*queue, write_of(1, &log, 0, 1, 4096)).unwrap();
    let file = disk.open(&path("a"), OpenMode::Create).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(disk.visible_content(&path("log")).unwrap(), [1; 4096]);
    disk.power_cut();
    assert_eq!(read(&disk, "log").unwrap(), [0; 4096]);
    assert!(!exists(&disk, "a"));
}
