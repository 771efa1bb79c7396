//! The tail of a log that has become idle is marked by the log itself: what was acknowledged last is proven to
//! be durable, whatever happens next.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use strandline_wal::disk::RealDisk;
use strandline_wal::{Options, Wal};

#[test]
fn every_tail_that_becomes_idle_is_marked() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path(), None).unwrap());
    let options = Options { segment_size: 1 << 20, spares: 1, ..Options::default() };
    let (wal, _) = Wal::open(disk, &dir.path().join("log"), options).unwrap();
    for round in 1..=3 {
        wal.wait(wal.append(b"the last for a while").unwrap()).unwrap();
        let began = Instant::now();
        // A group for the record, and one for the marker.
        while wal.stats().groups < 2 * round {
            assert!(began.elapsed() < Duration::from_secs(60), "no marker in round {round}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    wal.close().unwrap();
}
