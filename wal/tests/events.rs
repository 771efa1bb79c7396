//! Logs driven by an event loop: completions are announced at a descriptor, on every rung.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use strandline_wal::disk::probe::LADDER;
use strandline_wal::disk::{Buffer, Disk, DurableWrite, OpenMode, RealDisk, Submitted};
use strandline_wal::{Error, Lsn, Options, Wal};

fn on_every_rung(test: impl Fn(Arc<RealDisk>, &Path)) {
    for place in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        for rung in LADDER.into_iter().map(Some).chain([None]) {
            let dir = tempfile::tempdir_in(&place).unwrap();
            match RealDisk::open(dir.path(), rung) {
                Ok(disk) => test(Arc::new(disk), dir.path()),
                Err(error @ Error::InvalidOption { .. }) => eprintln!("skipped: {error}"),
                Err(error) => panic!("{rung:?} in {}: {error}", place.display()),
            }
        }
    }
}

/// Whether the descriptor becomes readable in time: at once, or within half a minute.
fn is_readable(descriptor: BorrowedFd<'_>, at_once: bool) -> bool {
    let time = Timespec { tv_sec: if at_once { 0 } else { 30 }, tv_nsec: 0 };
    loop {
        let mut watched = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut watched, Some(&time)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn writes_end_by_themselves_and_the_descriptor_tells() {
    on_every_rung(|disk, dir| {
        let queue = disk.event_queue().unwrap();
        let descriptor = queue.completion_fd().expect("queues for events have one");
        assert!(descriptor.as_raw_fd() >= 0);
        let file = disk.open(&dir.join("log"), OpenMode::CreateLog).unwrap();
        file.allocate(64 * 4096).unwrap();
        let depth = u64::try_from(disk.profile().depth_max).unwrap();
        for round in 0..20 {
            assert!(queue.poll().is_empty());
            assert!(!is_readable(descriptor, true), "silent while nothing is under way");
            let write = |id| {
                let mut bytes = Buffer::with_capacity(4096);
                bytes.extend(&[u8::try_from(round + 1).unwrap(); 4096]);
                DurableWrite { id, file: file.clone(), offset: id * 4096, bytes: bytes.into() }
            };
            for submitted in queue.submit_all((0..depth).map(write).collect()) {
                assert!(matches!(submitted, Submitted::Queued), "{submitted:?}");
            }
            let mut ended = Vec::new();
            while u64::try_from(ended.len()).unwrap() < depth {
                assert!(is_readable(descriptor, false), "nothing is announced");
                for one in queue.poll() {
                    one.result.unwrap();
                    ended.push(one.id);
                }
            }
            ended.sort_unstable();
            assert_eq!(ended, (0..depth).collect::<Vec<_>>());
        }
    });
}

/// A write that is refused says so at once, and those beside it go on.
#[test]
fn a_refused_write_among_others_is_told_apart() {
    on_every_rung(|disk, dir| {
        let queue = disk.event_queue().unwrap();
        let file = disk.open(&dir.join("log"), OpenMode::CreateLog).unwrap();
        let write = |id, offset| {
            let mut bytes = Buffer::with_capacity(4096);
            bytes.resize(4096);
            DurableWrite { id, file: file.clone(), offset, bytes: bytes.into() }
        };
        let writes = vec![write(0, 0), write(1, 77), write(2, 4096)];
        let mut results = std::collections::BTreeMap::new();
        for (id, submitted) in (0..).zip(queue.submit_all(writes)) {
            if let Submitted::Done(result) = submitted {
                results.insert(id, result);
            }
        }
        while results.len() < 3 {
            results.extend(queue.complete().into_iter().map(|one| (one.id, one.result)));
        }
        assert!(results[&0].is_ok() && results[&2].is_ok(), "{results:?}");
        assert!(results[&1].is_err(), "{results:?}");
    });
}

/// One thread appends and pumps and learns of everything by the hook; others wait meanwhile.
#[test]
fn a_log_is_driven_by_an_event_loop_beside_threads_that_wait() {
    on_every_rung(|disk, dir| {
        let options = Options { segment_size: 256 << 10, events: true, ..Options::default() };
        let (wal, _) = Wal::open(disk, &dir.join("log"), options).unwrap();
        let durable = Arc::new(AtomicU64::new(0));
        let seen = durable.clone();
        wal.set_hook(Box::new(move |lsn| {
            seen.fetch_max(lsn.0, Ordering::AcqRel);
        }));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..50_u64 {
                        let lsn = wal.append(&round.to_le_bytes()).unwrap();
                        wal.wait(lsn).unwrap();
                        assert!(durable.load(Ordering::Acquire) >= lsn.0);
                    }
                });
            }
            let descriptor = wal.completion_fd().expect("it was opened for events");
            for round in 0..300_u64 {
                let Some(lsn) = wal.try_append_all(&[&[7; 900], &round.to_le_bytes()]).unwrap()
                else {
                    std::thread::yield_now();
                    continue;
                };
                wal.pump().unwrap();
                while round % 4 == 0 && durable.load(Ordering::Acquire) < lsn.0 {
                    // What a thread that waits has fetched is not announced here.
                    let time = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                    let _ = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&time));
                    wal.pump().unwrap();
                }
            }
        });
        let last = wal.last();
        wal.close().unwrap();
        let disk = RealDisk::open(dir, None).unwrap();
        let (wal, _) = Wal::open(Arc::new(disk), &dir.join("log"), Options::default()).unwrap();
        assert_eq!(wal.last(), last);
        assert_eq!(wal.first(), Lsn(1));
    });
}

/// A ring that knows memory by its address would write what stood there before it was freed: every
/// buffer here is likely to be given the memory of the one before it. And one buffer is used again and grows.
#[test]
fn memory_at_an_address_that_was_known_before() {
    on_every_rung(|disk, dir| {
        let queue = disk.event_queue().unwrap();
        let file = disk.open(&dir.join("log"), OpenMode::CreateLog).unwrap();
        file.allocate(1 << 20).unwrap();
        let mut reused = Arc::new(Buffer::with_capacity(1 << 20));
        for round in 0..60_u8 {
            let len = (64 << 10) + usize::from(round / 10) * 4096;
            let mut fresh = Buffer::with_capacity(len);
            fresh.extend(&vec![round; len]);
            let again = Arc::get_mut(&mut reused).expect("nothing is in flight");
            again.clear();
            again.extend(&vec![round ^ 0xFF; len]);
            let bytes = [Arc::new(fresh), reused.clone()];
            let writes = bytes.into_iter().zip([0, 512 << 10]);
            let writes = writes.map(|(bytes, offset)| DurableWrite {
                id: offset,
                file: file.clone(),
                offset,
                bytes,
            });
            queue.submit_all(writes.collect());
            let mut ended = 0;
            while ended < 2 {
                for one in queue.complete() {
                    one.result.unwrap();
                    ended += 1;
                }
            }
            let mut found = vec![0; len];
            for (offset, byte) in [(0, round), (512 << 10, round ^ 0xFF)] {
                file.read_at(&mut found, offset).unwrap();
                assert!(found.iter().all(|one| *one == byte), "round {round} at {offset}");
            }
        }
    });
}
