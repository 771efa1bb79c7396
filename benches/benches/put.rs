//! One thread's puts into the store: in memory, and durable.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strandline_benches::workload::Load;
use strandline_engine::{Batch, Db, DbOptions, Durability, KeyspaceId};

/// Bytes of a value.
const VALUE_LEN: usize = 256;

fn put(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("put");
    group.throughput(Throughput::Elements(1));
    for (name, durability) in [("memory", Durability::Memory), ("disk", Durability::Disk)] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is a target");
        let db = Db::open(dir.path(), DbOptions::default()).expect("it is empty");
        let mut load = Load::new(1, VALUE_LEN);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (key, value) = load.next_pair();
                let mut batch = Batch::new();
                batch.put(KeyspaceId::DEFAULT, &key, value).expect("it is short");
                db.write(black_box(&batch), durability).expect("there is room");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, put);
criterion_main!(benches);
