//! What one acknowledged write costs when many threads commit: writes and context switches per
//! acknowledgement, and processor time, which a busy machine disturbs less than it does the rate.
//!
//! `cargo run --release -p strandline-wal --example group_commit -- [DIR] [THREADS] [SECONDS] [RUNG|-] [DEPTH]`

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use strandline_wal::disk::probe::LADDER;
use strandline_wal::disk::{Disk, RealDisk};
use strandline_wal::{Options, Wal};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let threads: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let seconds: f64 = arguments.next().map_or(Ok(1.0), |text| text.parse())?;
    let name = arguments.next();
    let depth = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let rung = LADDER.into_iter().find(|rung| Some(rung.name()) == name.as_deref());

    let dir = parent.join(format!("strandline-group-commit-{}", std::process::id()));
    let disk = Arc::new(RealDisk::open(&dir, rung)?);
    let rung = disk.profile().rung;
    let options = Options { depth, ..Options::default() };
    let (wal, _) = Wal::open(disk, &dir.join("log"), options)?;
    let over = AtomicBool::new(false);
    let (acknowledged, switches) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let cpu = processor_ticks();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    let lsn = wal.append(&[7; 256]).expect("there is room");
                    wal.wait(lsn).expect("the disk works");
                    count += 1;
                    if count % 1024 == 0 {
                        wal.trim(lsn);
                    }
                }
                acknowledged.fetch_add(count, Ordering::Relaxed);
                switches.fetch_add(voluntary_switches(), Ordering::Relaxed);
            });
        }
        std::thread::sleep(Duration::from_secs_f64(seconds));
        over.store(true, Ordering::Relaxed);
    });
    let elapsed = start.elapsed().as_secs_f64();
    let stats = wal.stats();
    let per = |count: u64| count as f64 / acknowledged.load(Ordering::Relaxed).max(1) as f64;
    println!(
        "{rung} {threads} threads: {:.0}/s, {:.2} us of processor, {:.4} writes, {:.3} switches each; \
         {:?}",
        acknowledged.load(Ordering::Relaxed) as f64 / elapsed,
        per((processor_ticks() - cpu) * 10_000),
        per(stats.syncs),
        per(switches.into_inner()),
        (
            stats.depth,
            stats.depth_max,
            stats.submitted_idle,
            stats.submitted_size,
            stats.submitted_age
        ),
    );
    wal.close()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Hundredths of a second that all threads of this process have run.
fn processor_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// How often this thread gave the processor away to wait.
fn voluntary_switches() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
