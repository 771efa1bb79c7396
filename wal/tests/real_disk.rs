//! Every rung of the real disk does what the seam promises.
//!
//! Each test runs on every rung, in the directory for temporary files and in `/dev/shm`. A rung
//! that the machine refuses is skipped, loudly. What a crash leaves cannot be tested here: that is
//! the part of the simulated disk.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use strandline_wal::Error;
use strandline_wal::disk::probe::LADDER;
use strandline_wal::disk::{
    ALIGNMENT_MAX, Buffer, Disk, DurableWrite, File, OpenMode, RealDisk, Rung, Submitted,
    VERDICT_FILE, Verdict, WriteQueue, probe, replace_file,
};

/// Calls `test` with a disk on every rung that works, and an empty directory for it.
fn on_every_rung(test: impl Fn(&RealDisk, &Path)) {
    for place in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        if !place.is_dir() {
            eprintln!("skipped: {} is not there", place.display());
            continue;
        }
        for rung in LADDER {
            let dir = tempfile::tempdir_in(&place).unwrap();
            match RealDisk::open(dir.path(), Some(rung)) {
                Ok(disk) => {
                    assert_eq!(disk.profile().rung, rung);
                    assert!(disk.list(dir.path()).unwrap().is_empty(), "a trial left a file");
                    test(&disk, dir.path());
                }
                Err(error @ Error::InvalidOption { .. }) => eprintln!("skipped: {error}"),
                Err(error) => panic!("{rung} in {}: {error}", place.display()),
            }
        }
    }
}

fn is_direct(disk: &RealDisk) -> bool {
    matches!(disk.profile().rung, Rung::IoUring | Rung::Pwritev2 | Rung::DirectFdatasync)
}

/// `len` bytes that differ from place to place and from seed to seed.
fn pattern(seed: u64, len: usize) -> Arc<Buffer> {
    let mut buffer = Buffer::with_capacity(len);
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15);
    while buffer.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        buffer.extend(&(state >> 11).to_le_bytes());
    }
    buffer.resize(len);
    Arc::new(buffer)
}

fn durably(queue: &dyn WriteQueue, write: DurableWrite) -> Result<(), Error> {
    let id = write.id;
    match queue.submit(write) {
        Submitted::Done(result) => result,
        Submitted::Queued => {
            let mut ended = queue.complete();
            assert_eq!(ended.len(), 1);
            let ended = ended.pop().unwrap();
            assert_eq!(ended.id, id);
            ended.result
        }
    }
}

fn read(file: &dyn File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; len];
    let count = file.read_at(&mut bytes, offset).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn durable_writes_are_read_back_and_overwritten() {
    on_every_rung(|disk, dir| {
        let path = dir.join("log");
        let queue = disk.write_queue().unwrap();
        let file = disk.open(&path, OpenMode::CreateLog).unwrap();
        let first = pattern(1, 3 * ALIGNMENT_MAX);
        let (bytes, offset) = (first.clone(), 4096);
        durably(&*queue, DurableWrite { id: 7, file: file.clone(), offset, bytes }).unwrap();
        assert_eq!(read(&*file, 4096, first.len()), first[..]);
        let second = pattern(2, ALIGNMENT_MAX);
        let (bytes, offset) = (second.clone(), 8192);
        durably(&*queue, DurableWrite { id: 7, file: file.clone(), offset, bytes }).unwrap();
        let expected = [&[0; 4096], &first[..4096], &second, &first[8192..]].concat();
        assert_eq!(file.len().unwrap(), 16384);
        drop(file);
        for mode in [OpenMode::Read, OpenMode::Write, OpenMode::Log] {
            let file = disk.open(&path, mode).unwrap();
            assert_eq!(read(&*file, 0, 20000), expected, "{mode:?}");
            // Unaligned, and across the pieces.
            assert_eq!(read(&*file, 4001, 5003), expected[4001..9004], "{mode:?}");
            assert_eq!(read(&*file, 16383, 10), expected[16383..], "{mode:?}");
            assert_eq!(read(&*file, 16384, 10), [], "{mode:?}");
            assert_eq!(read(&*file, 1 << 40, 10), [], "{mode:?}");
            assert_eq!(read(&*file, 5, 0), [], "{mode:?}");
        }
        assert!(queue.complete().is_empty());
    });
}

#[test]
fn a_file_that_ends_inside_a_block_is_read_to_its_end() {
    on_every_rung(|disk, dir| {
        let path = dir.join("odd");
        let bytes = pattern(3, 3 << 20);
        for len in [1, 511, 512, 513, 4095, 5000, (1 << 20) + 1, (2 << 20) - 1] {
            let file = disk.open(&path, OpenMode::Create).unwrap();
            file.write_at(&bytes[..len], 0).unwrap();
            file.sync().unwrap();
            drop(file);
            let file = disk.open(&path, OpenMode::Log).unwrap();
            assert_eq!(read(&*file, 0, 3 << 20), bytes[..len], "{len}");
            assert_eq!(read(&*file, 0, len), bytes[..len], "{len}");
            let offset = u64::try_from(len - 1).unwrap();
            assert_eq!(read(&*file, offset, 5000), bytes[len - 1..len], "{len}");
            disk.remove(&path).unwrap();
        }
    });
}

/// Eight threads submit 40 writes each, to places of their own, in turn with the same threads
/// fetching what has ended, whoever submitted it.
#[test]
fn many_writes_in_flight_from_many_threads() {
    const THREADS: u64 = 8;
    const WRITES: u64 = 40;
    on_every_rung(|disk, dir| {
        let file = disk.open(&dir.join("log"), OpenMode::CreateLog).unwrap();
        file.allocate(THREADS * WRITES * 4096).unwrap();
        let queue = disk.write_queue().unwrap();
        let ended = Mutex::new(BTreeSet::new());
        let note = |id, result: Result<(), Error>| {
            result.unwrap();
            assert!(ended.lock().unwrap().insert(id), "write {id} ended twice");
        };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (queue, file, note) = (&queue, &file, &note);
                scope.spawn(move || {
                    for round in 0..WRITES {
                        let id = round * THREADS + thread;
                        let bytes = pattern(id, 4096);
                        let file = file.clone();
                        match queue.submit(DurableWrite { id, file, offset: id * 4096, bytes }) {
                            Submitted::Done(result) => note(id, result),
                            Submitted::Queued => {}
                        }
                        if round % 3 == 2 {
                            queue.complete().into_iter().for_each(|one| note(one.id, one.result));
                        }
                    }
                });
            }
        });
        loop {
            let rest = queue.complete();
            if rest.is_empty() {
                break;
            }
            rest.into_iter().for_each(|one| note(one.id, one.result));
        }
        assert_eq!(ended.into_inner().unwrap(), (0..THREADS * WRITES).collect());
        for id in 0..THREADS * WRITES {
            assert_eq!(read(&*file, id * 4096, 4096), pattern(id, 4096)[..], "{id}");
        }
    });
}

/// A thread that waits must not keep others from submitting: here the waiter can only go on if the
/// submitter does.
#[test]
fn submitting_goes_on_while_another_thread_waits() {
    on_every_rung(|disk, dir| {
        let file = disk.open(&dir.join("log"), OpenMode::CreateLog).unwrap();
        let queue = disk.write_queue().unwrap();
        let outstanding = AtomicU64::new(200);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while outstanding.load(Ordering::Acquire) > 0 {
                    for one in queue.complete() {
                        one.result.unwrap();
                        outstanding.fetch_sub(1, Ordering::Release);
                    }
                    std::thread::yield_now();
                }
            });
            for id in 0..200 {
                let (file, offset) = (file.clone(), id % 4 * 4096);
                let write = DurableWrite { id, file, offset, bytes: pattern(id, 4096) };
                if let Submitted::Done(result) = queue.submit(write) {
                    result.unwrap();
                    outstanding.fetch_sub(1, Ordering::Release);
                }
            }
        });
    });
}

/// The bytes and the file of a write in flight live as long as the kernel needs them, although
/// nobody else holds them, and all is on disk when the queue is gone. The blocks are reserved
/// first, because what a dropped queue was refused, such as room, nobody is told.
#[test]
fn dropping_a_queue_waits_for_what_is_in_flight() {
    on_every_rung(|disk, dir| {
        let path = dir.join("log");
        for round in 0..10 {
            let queue = disk.write_queue().unwrap();
            let file = disk.open(&path, OpenMode::CreateLog).unwrap();
            file.allocate(16 * 65536).unwrap();
            for id in 0..16 {
                let bytes = pattern(round * 16 + id, 65536);
                let write = DurableWrite { id, file: file.clone(), offset: id * 65536, bytes };
                if let Submitted::Done(result) = queue.submit(write) {
                    result.unwrap();
                }
            }
            drop(file);
            drop(queue);
            let file = disk.open(&path, OpenMode::Log).unwrap();
            for id in 0..16 {
                let expected = pattern(round * 16 + id, 65536);
                let found = read(&*file, id * 65536, 65536);
                let differs = found.iter().zip(&expected[..]).position(|(one, two)| one != two);
                let rung = disk.profile().rung;
                let place = format!("{rung} in {}, round {round}, write {id}", dir.display());
                let zeros = found.iter().filter(|byte| **byte == 0).count();
                assert_eq!((found.len(), differs), (65536, None), "{place}, {zeros} zeros");
            }
            disk.remove(&path).unwrap();
        }
    });
}

/// The kernel gives up requests of a thread that ends; they must be made again, or have been made.
#[test]
fn a_write_outlives_the_thread_that_submitted_it() {
    on_every_rung(|disk, dir| {
        let queue = disk.write_queue().unwrap();
        let file = disk.open(&dir.join("log"), OpenMode::CreateLog).unwrap();
        let mut queued = HashMap::new();
        for id in 0..12 {
            let bytes = pattern(id, 32768);
            // Fresh blocks, which a ring hands to a worker of the thread.
            let write =
                DurableWrite { id, file: file.clone(), offset: id * 32768, bytes: bytes.clone() };
            let submitted =
                std::thread::scope(|scope| scope.spawn(|| queue.submit(write)).join().unwrap());
            match submitted {
                Submitted::Done(result) => result.unwrap(),
                Submitted::Queued => assert!(queued.insert(id, bytes).is_none()),
            }
        }
        while !queued.is_empty() {
            for one in queue.complete() {
                one.result.unwrap();
                let bytes = queued.remove(&one.id).expect("a write that was queued");
                assert_eq!(read(&*file, one.id * 32768, 32768), bytes[..]);
            }
        }
    });
}

#[test]
fn what_is_not_aligned_is_refused_with_an_error() {
    on_every_rung(|disk, dir| {
        let file = disk.open(&dir.join("log"), OpenMode::CreateLog).unwrap();
        let queue = disk.write_queue().unwrap();
        for (offset, len) in [(1, 4096), (0, 100), (4095, 4097)] {
            let bytes = pattern(1, len);
            let write = DurableWrite { id: 1, file: file.clone(), offset, bytes: bytes.clone() };
            let refused = durably(&*queue, write).unwrap_err();
            let is_ours = |error: &Error| {
                matches!(error, Error::Io { path, source, .. }
                    if *path == dir.join("log")
                        && source.kind() == std::io::ErrorKind::InvalidInput)
            };
            assert!(is_ours(&refused), "{refused}");
            if is_direct(disk) {
                let refused = file.write_at(&bytes, offset).unwrap_err();
                assert!(is_ours(&refused), "{refused}");
            }
        }
        assert!(file.is_empty().unwrap());
        // Memory that is not aligned is our part, not the caller's.
        let bytes = pattern(1, 8193);
        file.write_at(&bytes[1..], 4096).unwrap();
        file.sync().unwrap();
        assert_eq!(read(&*file, 4096, 9000), bytes[1..]);
    });
}

#[test]
fn a_file_not_opened_for_durable_writes_is_refused() {
    on_every_rung(|disk, dir| {
        let file = disk.open(&dir.join("plain"), OpenMode::Create).unwrap();
        let queue = disk.write_queue().unwrap();
        let write = DurableWrite { id: 1, file, offset: 0, bytes: pattern(1, 4096) };
        assert!(matches!(durably(&*queue, write), Err(Error::InvalidOption { .. })));
    });
}

#[test]
fn a_failing_write_says_what_failed_and_where() {
    on_every_rung(|disk, dir| {
        let path = dir.join("log");
        let file = disk.open(&path, OpenMode::CreateLog).unwrap();
        let queue = disk.write_queue().unwrap();
        // Aligned, and farther out than any file reaches.
        let offset = u64::MAX - 8191;
        let write = DurableWrite { id: 1, file, offset, bytes: pattern(1, 4096) };
        match durably(&*queue, write).unwrap_err() {
            Error::Io { operation: "write", path: of, offset: at, .. } => {
                assert_eq!((of, at), (path, offset));
            }
            other => panic!("{other}"),
        }
        assert!(disk.open(&dir.join("none"), OpenMode::Log).unwrap_err().is_not_found());
        let twice = disk.open(&dir.join("log"), OpenMode::CreateLog).unwrap_err();
        assert!(twice.to_string().contains("create"), "{twice}");
    });
}

#[test]
fn allocating_sets_the_length_and_keeps_what_was_written() {
    on_every_rung(|disk, dir| {
        let file = disk.open(&dir.join("log"), OpenMode::CreateLog).unwrap();
        for len in [1 << 20, 1 << 16, 0, 4096] {
            file.allocate(len).unwrap();
            assert_eq!(file.len().unwrap(), len);
        }
        file.write_at(&[5; 4096], 0).unwrap();
        file.allocate(8192).unwrap();
        assert_eq!(read(&*file, 0, 4096), [5; 4096]);
        // Nothing larger is asked for: a file system may well fill the disk before it refuses.
    });
}

#[test]
fn a_full_disk_is_told() {
    on_every_rung(|disk, _| {
        let full = disk.open(Path::new("/dev/full"), OpenMode::Write).unwrap();
        let error = full.write_at(&[1; 4096], 0).unwrap_err();
        assert!(error.is_full(), "{error}");
    });
}

#[test]
fn a_lock_keeps_out_everybody_else_until_it_is_dropped() {
    on_every_rung(|disk, dir| {
        let path = dir.join("LOCK");
        let held = disk.lock(&path).unwrap();
        let refused = disk.lock(&path).unwrap_err();
        assert!(matches!(&refused, Error::Locked { path: of } if *of == path), "{refused}");
        let holder = std::fs::read_to_string(&path).unwrap();
        assert_eq!(holder.trim(), std::process::id().to_string());
        drop(held);
        drop(disk.lock(&path).unwrap());
    });
}

#[test]
fn a_map_outlives_the_name_of_its_file() {
    on_every_rung(|disk, dir| {
        let path = dir.join("sealed");
        let bytes = pattern(9, 10_001);
        let file = disk.open(&path, OpenMode::Create).unwrap();
        file.write_at(&bytes, 0).unwrap();
        file.sync().unwrap();
        let map = disk.map(&path).unwrap();
        disk.remove(&path).unwrap();
        drop(file);
        assert_eq!(map[..], bytes[..]);
        disk.open(&path, OpenMode::Create).unwrap();
        assert!(disk.map(&path).unwrap().is_empty());
        assert!(disk.map(&dir.join("none")).unwrap_err().is_not_found());
    });
}

/// The footer of a segment is written behind what readers of the segment have mapped.
#[test]
fn what_is_written_behind_a_map_does_not_show() {
    on_every_rung(|disk, dir| {
        let path = dir.join("segment");
        let bytes = pattern(9, 5 * ALIGNMENT_MAX);
        let file = disk.open(&path, OpenMode::CreateLog).unwrap();
        let block = |bytes: &[u8]| {
            let mut block = Buffer::with_capacity(bytes.len());
            block.extend(bytes);
            block
        };
        file.write_at(&block(&bytes), 0).unwrap();
        let front = 4 * ALIGNMENT_MAX;
        let offset = u64::try_from(front).unwrap();
        let map = disk.map_front(&path, offset).unwrap();
        assert_eq!(map[..], bytes[..front]);
        file.write_at(&block(&[7; ALIGNMENT_MAX]), offset).unwrap();
        assert_eq!(map[..], bytes[..front], "the map ends before it");
        let whole = disk.map(&path).unwrap();
        assert_eq!((&whole[..front], &whole[front..]), (&bytes[..front], &[7; ALIGNMENT_MAX][..]));
    });
}

#[test]
fn names_are_changed_and_listed() {
    on_every_rung(|disk, dir| {
        let deep = dir.join("a/b/c");
        disk.create_dir_all(&deep).unwrap();
        disk.create_dir_all(&deep).unwrap();
        for name in ["two", "one", "three"] {
            disk.open(&deep.join(name), OpenMode::Create).unwrap();
        }
        disk.rename(&deep.join("three"), &deep.join("two")).unwrap();
        disk.link(&deep.join("one"), &deep.join("zero")).unwrap();
        assert!(disk.link(&deep.join("one"), &deep.join("zero")).is_err());
        disk.sync_dir(&deep).unwrap();
        assert_eq!(disk.list(&deep).unwrap(), ["one", "two", "zero"]);
        disk.remove(&deep.join("one")).unwrap();
        assert!(!disk.exists(&deep.join("one")).unwrap());
        assert!(disk.exists(&deep.join("zero")).unwrap());
        assert!(disk.exists(&deep).unwrap());
        assert!(disk.remove(&deep.join("one")).unwrap_err().is_not_found());
        assert!(disk.list(&dir.join("none")).unwrap_err().is_not_found());
        assert!(disk.sync_dir(&dir.join("none")).unwrap_err().is_not_found());
        disk.create_dir_all(&deep.join("zero")).unwrap_err();
        disk.create_dir_all(&deep.join("zero/below")).unwrap_err();
    });
}

#[test]
fn a_file_is_replaced_as_a_whole_even_over_what_a_crash_left() {
    on_every_rung(|disk, dir| {
        let path = dir.join("manifest");
        for content in [&b"first"[..], b"", b"the third, which is longer"] {
            std::fs::write(dir.join("manifest.tmp"), "left over from a crash, and rather long")
                .unwrap();
            replace_file(disk, &path, content).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
            assert_eq!(disk.list(dir).unwrap(), ["manifest"]);
        }
    });
}

#[test]
fn a_disk_that_is_not_told_its_rung_finds_one_and_says_why() {
    for place in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        let parent = tempfile::tempdir_in(&place).unwrap();
        let dir = parent.path().join("made/by/open");
        let disk = RealDisk::open(&dir, None).unwrap();
        eprintln!("{}: {} because {}", place.display(), disk.profile().rung, disk.why());
        assert!(!disk.why().is_empty());
        assert_eq!(disk.list(&dir).unwrap(), [VERDICT_FILE], "the trials left a file");
        std::fs::remove_file(dir.join(VERDICT_FILE)).unwrap();
        let report = probe(&dir).unwrap();
        eprintln!("{report}");
        assert_eq!(report.rungs.iter().map(|one| one.rung).collect::<Vec<_>>(), LADDER);
        let chosen = report.rungs.iter().find(|one| one.rung == report.chosen).unwrap();
        assert!(matches!(chosen.verdict, Verdict::Works(_)));
        assert!(disk.list(&dir).unwrap().is_empty(), "the probe left a file");
    }
}

#[test]
fn a_rung_that_cannot_be_had_is_refused_and_nothing_is_made_for_readers() {
    let parent = tempfile::tempdir().unwrap();
    let refused = RealDisk::open(parent.path(), Some(Rung::Simulated)).unwrap_err();
    assert!(matches!(refused, Error::InvalidOption { .. }), "{refused}");
    let missing = parent.path().join("missing");
    RealDisk::open(&missing, Some(Rung::PortableFsync)).unwrap();
    assert!(!missing.exists());
    assert!(probe(&missing).unwrap_err().is_not_found());
}
