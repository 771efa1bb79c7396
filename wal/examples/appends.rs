//! Durable appends from many threads: `cargo run --release -p strandline-wal --example appends -- DIR
//! THREADS SECONDS [RUNG]`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use strandline_wal::disk::{Disk, RealDisk, Rung};
use strandline_wal::{Options, Wal};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "target/appends".into());
    let threads: usize = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let rung = arguments.next().map(|name| match name.as_str() {
        "io_uring" => Rung::IoUring,
        "pwritev2" => Rung::Pwritev2,
        "direct-fdatasync" => Rung::DirectFdatasync,
        "fsync" => Rung::PortableFsync,
        _ => Rung::BufferedFdatasync,
    });
    std::fs::create_dir_all(&dir)?;
    let disk = RealDisk::open(dir.as_ref(), rung)?;
    println!("rung {}", disk.profile().rung);
    let (wal, _) = Wal::open(Arc::new(disk), dir.as_ref(), Options::default())?;
    let stop = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let payload = [7; 256];
                while !stop.load(Ordering::Relaxed) {
                    let lsn = wal.append(&payload).expect("the disk has room");
                    wal.wait(lsn).expect("the disk works");
                    let durable = count.fetch_add(1, Ordering::Relaxed);
                    if durable.is_multiple_of(100_000) {
                        wal.trim(lsn);
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
    });
    let elapsed = started.elapsed().as_secs_f64();
    let appends = count.load(Ordering::Relaxed);
    let stats = wal.stats();
    println!("{appends} appends in {elapsed:.2} s, {stats:?}");
    println!("{} appends per second", appends / started.elapsed().as_secs().max(1));
    wal.close()?;
    Ok(())
}
