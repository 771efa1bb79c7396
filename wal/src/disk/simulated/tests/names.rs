//! Names: what an unsynced change of a directory means in a power cut.

use super::*;
use std::io::ErrorKind;

#[test]
fn an_unsynced_creation_vanishes_or_stays() {
    for (survival, stays) in [(Survival::NOTHING, false), (Survival::EVERYTHING, true)] {
        let disk = disk(1, survival);
        let file = disk.open(&path("a"), OpenMode::Create).unwrap();
        file.write_at(b"synced", 0).unwrap();
        file.sync().unwrap();
        disk.power_cut();
        assert_eq!(exists(&disk, "a"), stays, "a sync of the file does not sync its name");
    }
}

#[test]
fn a_synced_directory_keeps_its_names() {
    let disk = disk(1, Survival::NOTHING);
    durable_file(&disk, "a", b"content");
    disk.power_cut();
    assert_eq!(read(&disk, "a").unwrap(), b"content");
}

#[test]
fn a_synced_name_is_no_synced_content() {
    let disk = disk(1, Survival::NOTHING);
    let file = disk.open(&path("a"), OpenMode::Create).unwrap();
    file.write_at(b"content", 0).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.power_cut();
    assert_eq!(read(&disk, "a").unwrap(), b"");
}

#[test]
fn an_unsynced_rename_may_be_undone_and_is_atomic() {
    let (mut kept, mut undone) = (0, 0);
    for seed in 0..200 {
        let disk = disk(seed, Survival::of(500));
        durable_file(&disk, "current", b"old");
        durable_file(&disk, "next", b"new");
        disk.rename(&path("next"), &path("current")).unwrap();
        assert_eq!(read(&disk, "current").unwrap(), b"new");
        disk.power_cut();
        match &*read(&disk, "current").unwrap() {
            b"new" if !exists(&disk, "next") => kept += 1,
            b"old" if exists(&disk, "next") => undone += 1,
            other => panic!("seed {seed}: half a rename: {other:?}"),
        }
    }
    assert!(kept > 50, "kept {kept} of 200");
    assert!(undone > 50, "undone {undone} of 200");
}

#[test]
fn a_rename_whose_source_was_never_durable_is_void() {
    // The trap of replacing a file: created, renamed, directory never synced. The rename alone may
    // survive; it must leave the old file, not invent one.
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = disk(seed, Survival::of(500));
        durable_file(&disk, "current", b"old");
        let file = disk.open(&path("next"), OpenMode::Create).unwrap();
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap();
        disk.rename(&path("next"), &path("current")).unwrap();
        disk.power_cut();
        let current = read(&disk, "current").unwrap();
        seen.insert((current, exists(&disk, "next")));
    }
    let expected = [(b"new".to_vec(), false), (b"old".to_vec(), false), (b"old".to_vec(), true)];
    assert!(seen.iter().eq(&expected), "{seen:?}");
}

#[test]
fn a_rename_moves_its_own_file_or_nothing() {
    // Removal, creation and rename survive apart. A rename that survives alone meets the leftover
    // that the creation had replaced, and must not put that in the place of the current file.
    for seed in 0..200 {
        let disk = disk(seed, Survival::of(500));
        durable_file(&disk, "next", b"leftover");
        durable_file(&disk, "current", b"old");
        disk.remove(&path("next")).unwrap();
        let file = disk.open(&path("next"), OpenMode::Create).unwrap();
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap();
        disk.rename(&path("next"), &path("current")).unwrap();
        disk.power_cut();
        let current = read(&disk, "current").unwrap();
        assert!(current == b"old" || current == b"new", "seed {seed}: {current:?}");
    }
}

#[test]
fn an_unsynced_removal_may_bring_the_file_back() {
    for (survival, back) in [(Survival::NOTHING, true), (Survival::EVERYTHING, false)] {
        let disk = disk(1, survival);
        durable_file(&disk, "a", b"content");
        disk.remove(&path("a")).unwrap();
        assert!(!exists(&disk, "a"));
        disk.power_cut();
        assert_eq!(exists(&disk, "a"), back);
        if back {
            assert_eq!(read(&disk, "a").unwrap(), b"content");
        }
    }
}

#[test]
fn a_link_shares_content_and_survives_by_itself() {
    let disk = disk(1, Survival::NOTHING);
    let file = durable_file(&disk, "a", b"one");
    disk.link(&path("a"), &path("b")).unwrap();
    file.write_at(b"two", 0).unwrap();
    assert_eq!(read(&disk, "b").unwrap(), b"two");
    disk.remove(&path("a")).unwrap();
    assert_eq!(read(&disk, "b").unwrap(), b"two");
    disk.power_cut();
    assert!(!exists(&disk, "b"), "the link was not synced");
    assert_eq!(read(&disk, "a").unwrap(), b"one", "neither was the removal");
}

#[test]
fn syncing_a_directory_leaves_the_others_unsynced() {
    let disk = disk(1, Survival::NOTHING);
    disk.create_dir_all(&path("inner")).unwrap();
    durable_file(&disk, "a", b"");
    disk.open(&path("inner/b"), OpenMode::Create).unwrap();
    disk.open(&path("c"), OpenMode::Create).unwrap();
    disk.sync_dir(&path("inner")).unwrap();
    disk.power_cut();
    assert!(exists(&disk, "inner/b"));
    assert!(!exists(&disk, "c"));
}

#[test]
fn syncing_the_target_of_a_rename_carries_the_creation_along() {
    let disk = disk(1, Survival::NOTHING);
    disk.create_dir_all(&path("inner")).unwrap();
    let file = disk.open(&path("a"), OpenMode::Create).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync().unwrap();
    disk.rename(&path("a"), &path("inner/b")).unwrap();
    disk.sync_dir(&path("inner")).unwrap();
    disk.power_cut();
    assert_eq!(read(&disk, "inner/b").unwrap(), b"x");
    assert!(!exists(&disk, "a"));
}

#[test]
fn a_renamed_directory_keeps_what_is_in_it() {
    let disk = disk(1, Survival::NOTHING);
    disk.create_dir_all(&path("making")).unwrap();
    disk.open(&path("making/a"), OpenMode::Create).unwrap();
    disk.sync_dir(&path("making")).unwrap();
    disk.rename(&path("making"), &path("made")).unwrap();
    assert_eq!(disk.list(&path("made")).unwrap(), ["a"]);
    let unsynced = disk.fork(2);
    unsynced.power_cut();
    assert_eq!(unsynced.list(&path("making")).unwrap(), ["a"]);
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.power_cut();
    assert_eq!(disk.list(&path("made")).unwrap(), ["a"]);
    assert!(!exists(&disk, "making"));
}

#[test]
fn created_directories_are_durable_also_after_a_kill_between() {
    let disk = disk(1, Survival::NOTHING);
    disk.create_dir_all(&path("x/y")).unwrap();
    let mut interrupted = 0;
    for seed in 0..20 {
        let disk = disk.fork(seed);
        fail_next(&disk, Fault::Kill);
        assert!(disk.create_dir_all(&path("x/y/z")).is_err());
        assert_eq!(disk.restart(), Some(Fault::Kill));
        let visible = exists(&disk, "x/y/z");
        interrupted += usize::from(visible);
        let cut = disk.fork(seed);
        cut.power_cut();
        assert!(!exists(&cut, "x/y/z"), "it was never synced");
        assert!(exists(&cut, "x/y"));
        disk.create_dir_all(&path("x/y/z")).unwrap();
        disk.power_cut();
        assert!(exists(&disk, "x/y/z"));
    }
    assert!((1..20).contains(&interrupted), "{interrupted} of 20 were made");
}

#[test]
fn what_lies_in_a_directory_that_did_not_survive_is_gone() {
    let disk = disk(1, Survival::NOTHING);
    let mut seed = 0;
    let disk = loop {
        let disk = disk.fork(seed);
        fail_next(&disk, Fault::Kill);
        assert!(disk.create_dir_all(&path("x")).is_err());
        disk.restart();
        if exists(&disk, "x") {
            break disk;
        }
        seed += 1;
    };
    disk.open(&path("x/a"), OpenMode::Create).unwrap();
    disk.sync_dir(&path("x")).unwrap();
    disk.power_cut();
    assert!(!exists(&disk, "x"));
    assert_eq!(disk.files(), []);
}

#[test]
fn refusals_are_those_of_a_file_system() {
    let disk = disk(1, Survival::NOTHING);
    durable_file(&disk, "a", b"");
    durable_file(&disk, "b", b"");
    let refused = |result: Result<()>, expected: ErrorKind| {
        assert_eq!(kind(&result.unwrap_err()), expected);
    };
    let open = |name: &str, mode| disk.open(&path(name), mode).map(drop);
    refused(open("a", OpenMode::Create), ErrorKind::AlreadyExists);
    refused(open("a", OpenMode::CreateLog), ErrorKind::AlreadyExists);
    refused(open("none", OpenMode::Read), ErrorKind::NotFound);
    refused(open("none/a", OpenMode::Create), ErrorKind::NotFound);
    refused(open("a/b", OpenMode::Create), ErrorKind::NotADirectory);
    refused(open("../db/a", OpenMode::Read), ErrorKind::InvalidInput);
    refused(disk.open(Path::new(DIR), OpenMode::Read).map(drop), ErrorKind::IsADirectory);
    refused(disk.remove(&path("none")), ErrorKind::NotFound);
    refused(disk.remove(Path::new(DIR)), ErrorKind::IsADirectory);
    refused(disk.rename(&path("none"), &path("a")), ErrorKind::NotFound);
    refused(disk.rename(&path("a"), Path::new(DIR)), ErrorKind::IsADirectory);
    refused(disk.rename(Path::new(DIR), &path("inner")), ErrorKind::InvalidInput);
    refused(disk.link(&path("a"), &path("b")), ErrorKind::AlreadyExists);
    refused(disk.link(&path("none"), &path("c")), ErrorKind::NotFound);
    refused(disk.sync_dir(&path("none")), ErrorKind::NotFound);
    refused(disk.create_dir_all(&path("a/x")), ErrorKind::NotADirectory);
    refused(disk.map(&path("none")).map(drop), ErrorKind::NotFound);
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), ["a", "b"], "nothing changed");
}

#[test]
fn lists_are_sorted_and_hold_one_directory_only() {
    let disk = disk(1, Survival::NOTHING);
    for name in ["b", "a", "c"] {
        disk.open(&path(name), OpenMode::Create).unwrap();
    }
    disk.create_dir_all(&path("bb/inner")).unwrap();
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), ["a", "b", "bb", "c"]);
    assert_eq!(disk.list(Path::new("/")).unwrap(), ["db"]);
    assert_eq!(disk.list(Path::new("db/bb")).unwrap(), ["inner"]);
}
