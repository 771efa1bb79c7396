//! A shared queue on every rung of the real disk: every write is performed, and told to its own lane.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use strandline_wal::Error;
use strandline_wal::disk::probe::LADDER;
use strandline_wal::disk::{
    Buffer, Disk, DurableWrite, File, OpenMode, RealDisk, SharedDisk, Submitted, WriteQueue,
};

/// More than any rung has under way at once.
const LANES: usize = 40;

fn on_every_rung(test: impl Fn(&SharedDisk, &Path)) {
    for place in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        for rung in LADDER.into_iter().map(Some).chain([None]) {
            let dir = tempfile::tempdir_in(&place).unwrap();
            match RealDisk::open(dir.path(), rung) {
                Ok(disk) => test(&SharedDisk::new(Arc::new(disk)), dir.path()),
                Err(error @ Error::InvalidOption { .. }) => eprintln!("skipped: {error}"),
                Err(error) => panic!("{rung:?} in {}: {error}", place.display()),
            }
        }
    }
}

fn write(file: &Arc<dyn File>, lane: usize, id: u64) -> DurableWrite {
    let mut bytes = Buffer::with_capacity(4096);
    bytes.extend(&[mark(lane, id); 4096]);
    DurableWrite { id, file: file.clone(), offset: id * 4096, bytes: bytes.into() }
}

fn mark(lane: usize, id: u64) -> u8 {
    u8::try_from((lane * 7 + usize::try_from(id).unwrap()) % 255 + 1).unwrap()
}

fn check(file: &dyn File, lane: usize, count: u64) {
    for id in 0..count {
        let mut bytes = [0; 4096];
        assert_eq!(file.read_at(&mut bytes, id * 4096).unwrap(), 4096);
        assert_eq!(bytes, [mark(lane, id); 4096], "write {id} of lane {lane}");
    }
}

/// Submits the writes, `depth` at a time, and waits for all of them.
fn write_all(queue: &dyn WriteQueue, file: &Arc<dyn File>, lane: usize, count: u64, depth: usize) {
    let mut under_way = BTreeSet::new();
    let wait = |under_way: &mut BTreeSet<u64>| {
        let ended = queue.complete();
        assert!(!ended.is_empty(), "something is under way");
        for one in ended {
            one.result.unwrap();
            assert!(under_way.remove(&one.id), "a write ends once");
        }
    };
    for id in 0..count {
        while under_way.len() >= depth {
            wait(&mut under_way);
        }
        match queue.submit(write(file, lane, id)) {
            Submitted::Done(result) => result.unwrap(),
            Submitted::Queued => assert!(under_way.insert(id)),
        }
    }
    while !under_way.is_empty() {
        wait(&mut under_way);
    }
    assert!(queue.complete().is_empty());
}

#[test]
fn many_threads_write_through_lanes_of_one_queue() {
    on_every_rung(|disk, dir| {
        let depth = disk.profile().depth_max;
        std::thread::scope(|scope| {
            for lane in 0..LANES {
                scope.spawn(move || {
                    let queue = disk.write_queue().unwrap();
                    let file = disk.open(&dir.join(lane.to_string()), OpenMode::CreateLog).unwrap();
                    write_all(&*queue, &file, lane, 12, depth.min(3));
                    check(&*file, lane, 12);
                });
            }
        });
    });
}

/// What a ring is given at once may be for many files; it knows a few of them beforehand.
#[test]
fn writes_that_leave_together_go_to_their_own_files() {
    on_every_rung(|disk, dir| {
        let queue = disk.write_queue().unwrap();
        let count = disk.profile().depth_max;
        let files: Vec<_> = (0..count)
            .map(|lane| disk.open(&dir.join(lane.to_string()), OpenMode::CreateLog).unwrap())
            .collect();
        for _ in 0..3 {
            let writes = files.iter().zip(0..).map(|(file, lane)| DurableWrite {
                id: u64::try_from(lane).unwrap(),
                ..write(file, lane, 0)
            });
            let mut under_way = 0;
            for submitted in queue.submit_all(writes.collect()) {
                match submitted {
                    Submitted::Done(result) => result.unwrap(),
                    Submitted::Queued => under_way += 1,
                }
            }
            while under_way > 0 {
                let ended = queue.complete();
                under_way -= ended.len();
                ended.into_iter().for_each(|one| one.result.unwrap());
            }
            files.iter().zip(0..).for_each(|(file, lane)| check(&**file, lane, 1));
        }
    });
}

/// A lane whose file refuses every write, beside others.
#[test]
fn a_file_that_fails_fails_its_own_writes_only() {
    on_every_rung(|disk, dir| {
        let path = dir.join("read-only");
        drop(disk.open(&path, OpenMode::CreateLog).unwrap());
        let refusing = disk.open(&path, OpenMode::Read).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let queue = disk.write_queue().unwrap();
                for id in 0..20 {
                    let result = match queue.submit(write(&refusing, 0, id)) {
                        Submitted::Done(result) => result,
                        Submitted::Queued => {
                            let ended = queue.complete().pop().unwrap();
                            assert_eq!(ended.id, id);
                            ended.result
                        }
                    };
                    assert!(result.is_err());
                }
            });
            for lane in 1..4 {
                scope.spawn(move || {
                    let queue = disk.write_queue().unwrap();
                    let file = disk.open(&dir.join(lane.to_string()), OpenMode::CreateLog).unwrap();
                    write_all(&*queue, &file, lane, 20, 1);
                    check(&*file, lane, 20);
                });
            }
        });
    });
}

/// Whether the descriptor becomes readable within a minute.
fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let time = Timespec { tv_sec: 60, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&time)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Event loops with a lane each: whoever looks first takes what has ended for all, and each learns of its own by
/// its own descriptor.
#[test]
fn each_event_loop_is_told_by_its_own_descriptor() {
    on_every_rung(|disk, dir| {
        let depth = u64::try_from(disk.profile().depth_max).unwrap();
        let lanes: Vec<_> = (0..6_usize)
            .map(|lane| {
                let file = disk.open(&dir.join(lane.to_string()), OpenMode::CreateLog).unwrap();
                (disk.event_queue().unwrap(), file)
            })
            .collect();
        for round in 0..4 {
            for (lane, (queue, file)) in lanes.iter().enumerate() {
                let writes = (0..depth).map(|id| write(file, lane, id)).collect();
                for submitted in queue.submit_all(writes) {
                    assert!(matches!(submitted, Submitted::Queued), "{submitted:?}");
                }
            }
            for (lane, (queue, file)) in lanes.iter().enumerate().rev() {
                let descriptor = queue.completion_fd().expect("queues for events have one");
                let mut ended = BTreeSet::new();
                while u64::try_from(ended.len()).unwrap() < depth {
                    assert!(is_readable(descriptor), "{round}: nothing is announced to {lane}");
                    for one in queue.poll() {
                        one.result.unwrap();
                        assert!(ended.insert(one.id), "a write ends once");
                    }
                }
                check(&**file, lane, depth);
            }
        }
    });
}
