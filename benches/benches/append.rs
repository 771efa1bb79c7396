//! One thread's durable appends to the log, by size; and appends that are synced a hundred at a time.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use strandline_benches::random::Random;
use strandline_wal::disk::RealDisk;
use strandline_wal::{Options, Wal};
use tempfile::TempDir;

/// Records that are synced together.
const TOGETHER: u64 = 100;

fn open() -> (Wal, TempDir) {
    let dir =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is there");
    let disk = RealDisk::open(dir.path(), None).expect("the disk works");
    let (wal, _) = Wal::open(Arc::new(disk), dir.path(), Options::default()).expect("it is empty");
    (wal, dir)
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for len in [256, 4096, 64 << 10] {
        let (wal, _dir) = open();
        let payload = Random::new(1).bytes(len);
        group.throughput(Throughput::Bytes(u64::try_from(len).expect("small")));
        group.bench_function(BenchmarkId::new("synced each", len), |bencher| {
            bencher.iter(|| {
                let lsn = wal.append(black_box(&payload)).expect("there is room");
                wal.wait(lsn).expect("the disk works");
                wal.trim(lsn);
            });
        });
    }
    let (wal, _dir) = open();
    let payload = Random::new(1).bytes(256);
    group.throughput(Throughput::Elements(TOGETHER));
    group.bench_function(BenchmarkId::new("synced together", TOGETHER), |bencher| {
        bencher.iter(|| {
            for _ in 0..TOGETHER {
                wal.append(black_box(&payload)).expect("there is room");
            }
            wal.sync().expect("the disk works");
            wal.trim(wal.durable());
        });
    });
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
