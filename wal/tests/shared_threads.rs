//! What many logs cost on a shared disk: threads and rings are counted. In a program of its own, where no other
//! test has any.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strandline_wal::disk::probe::LADDER;
use strandline_wal::disk::{RealDisk, Rung, SharedDisk};
use strandline_wal::{Error, Lsn, Options, Wal};

const LOGS: u64 = 100;

/// The threads of logs and disks. The kernel's own, for rings, come and go.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|one| fs::read_to_string(one.unwrap().path().join("comm")).ok());
    names.filter(|name| name.starts_with("strandline")).count()
}

fn rings() -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let names = open.filter_map(|one| fs::read_link(one.unwrap().path()).ok());
    names.filter(|name| name.to_string_lossy().contains("io_uring")).count()
}

fn within_a_minute(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A hundred logs are opened on a disk on each rung, written to by a thread each, and left alone: every one has its
/// spares, and no tail is left unproven. Threads and rings are as many as one log has.
#[test]
fn threads_and_rings_do_not_grow_with_the_logs() {
    for place in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        for rung in LADDER {
            let dir = tempfile::tempdir_in(&place).unwrap();
            let disk = match RealDisk::open(dir.path(), Some(rung)) {
                Ok(disk) => Arc::new(SharedDisk::new(Arc::new(disk))),
                Err(error @ Error::InvalidOption { .. }) => {
                    eprintln!("skipped: {error}");
                    continue;
                }
                Err(error) => panic!("{rung} in {}: {error}", place.display()),
            };
            let options = Options { segment_size: 64 << 10, spares: 2, ..Options::default() };
            let open = |log: u64| {
                Wal::open(disk.clone(), &dir.path().join(log.to_string()), options.clone())
                    .unwrap()
                    .0
            };
            assert_eq!((threads(), rings()), (0, 0));
            let mut logs = vec![open(0)];
            let one = (1, usize::from(rung == Rung::IoUring));
            // It gives itself its name when it runs.
            within_a_minute("there is no housekeeper", || (threads(), rings()) == one);
            logs.extend((1..LOGS).map(open));
            assert_eq!((threads(), rings()), one, "{rung}");

            std::thread::scope(|scope| {
                for (log, wal) in (0..LOGS).zip(&logs) {
                    scope.spawn(move || {
                        for record in 0..3 {
                            let lsn = wal.append(format!("{record} of {log}").as_bytes()).unwrap();
                            wal.wait(lsn).unwrap();
                        }
                    });
                }
            });
            // Whoever trims has the housekeeper look, and it marks tails that stay as they are.
            logs.iter().for_each(|wal| wal.trim(Lsn(0)));
            for wal in &logs {
                within_a_minute("a log lacks spares", || wal.stats().spares == 3);
                // Nobody waits for a marker. It does not keep those of other logs waiting.
                within_a_minute("a tail was not marked", || {
                    let stats = wal.stats();
                    stats.groups > 3 && stats.syncs == stats.groups
                });
            }
            assert_eq!((threads(), rings()), one, "{rung}");

            // Each log is closed while the others are open, and what it has is there.
            for (log, wal) in (0..LOGS).zip(logs) {
                wal.close().unwrap();
                drop(wal);
                let wal = open(log);
                assert_eq!(wal.last(), Lsn(3));
                wal.close().unwrap();
            }
            within_a_minute("without a log there is no thread and no ring", || {
                (threads(), rings()) == (0, 0)
            });
        }
    }
}
