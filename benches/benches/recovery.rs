//! Opening again: a log and a store that hold so many mebibytes not yet in tables.
//!
//! What is opened was only ever dropped, never told to close. The time includes choosing a rung.

use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use strandline_benches::random::Random;
use strandline_benches::workload::Load;
use strandline_engine::{Batch, Db, DbOptions, Durability, KeyspaceId};
use strandline_wal::disk::RealDisk;
use strandline_wal::{Options, Wal};

/// Bytes of a record.
const RECORD_LEN: u64 = 1024;

fn open(dir: &Path) -> Wal {
    let disk = RealDisk::open(dir, None).expect("the disk works");
    // Nothing is trimmed and nothing is made ready: only reading is measured.
    let options = Options { background: false, ..Options::default() };
    Wal::open(Arc::new(disk), dir, options).expect("it was written by us").0
}

fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    group.sample_size(10);
    for mebibytes in [1, 16, 128] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("the target directory is there");
        let disk = RealDisk::open(dir.path(), None).expect("the disk works");
        let (wal, _) =
            Wal::open(Arc::new(disk), dir.path(), Options::default()).expect("it is empty");
        let record = Random::new(1).bytes(usize::try_from(RECORD_LEN).expect("small"));
        for _ in 0..(mebibytes << 20) / RECORD_LEN {
            wal.append(&record).expect("there is room");
        }
        wal.sync().expect("the disk works");
        drop(wal);
        group.throughput(Throughput::Bytes(mebibytes << 20));
        group.bench_function(BenchmarkId::new("log, MiB", mebibytes), |bencher| {
            bencher.iter_with_large_drop(|| open(dir.path()));
        });
    }
    group.finish();
}

fn open_db(dir: &Path) -> Db {
    // No flush may begin: it would empty the log that the next opening is to read.
    let options = DbOptions { background: false, ..DbOptions::default() };
    Db::open(dir, options).expect("it was written by us")
}

fn store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    group.sample_size(10);
    for mebibytes in [1, 16] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is a target");
        let db = open_db(dir.path());
        let value_len = usize::try_from(RECORD_LEN).expect("small");
        let mut load = Load::new(1, value_len);
        for _ in 0..(mebibytes << 20) / RECORD_LEN {
            let (key, value) = load.next_pair();
            let mut batch = Batch::new();
            batch.put(KeyspaceId::DEFAULT, &key, value).expect("it is short");
            db.write(&batch, Durability::Memory).expect("there is room");
        }
        drop(db);
        group.throughput(Throughput::Bytes(mebibytes << 20));
        group.bench_function(BenchmarkId::new("store, MiB", mebibytes), |bencher| {
            bencher.iter_with_large_drop(|| open_db(dir.path()));
        });
    }
    group.finish();
}

criterion_group!(benches, recovery, store);
criterion_main!(benches);
