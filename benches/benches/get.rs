//! Point reads of the store by one thread: from the memtable, from tables, and of keys that are not
//! there (what the filters are for).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strandline_benches::random::Random;
use strandline_benches::workload::{Load, key};
use strandline_engine::{Batch, Db, DbOptions, Durability, KeyspaceId};

/// How many keys there are: about 27 MiB, which caches hold.
const KEYS: u64 = 100_000;
/// Bytes of a value.
const VALUE_LEN: usize = 256;

fn fill(db: &Db) {
    let mut load = Load::new(1, VALUE_LEN);
    for number in 0..KEYS {
        let (_, value) = load.next_pair();
        let mut batch = Batch::new();
        batch.put(KeyspaceId::DEFAULT, &key(number), value).expect("it is short");
        db.write(&batch, Durability::Memory).expect("there is room");
    }
}

fn get(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is a target");
    let db = Db::open(dir.path(), DbOptions::default()).expect("it is empty");
    fill(&db);
    let mut group = criterion.benchmark_group("get");
    group.throughput(Throughput::Elements(1));
    for name in ["memtable", "tables"] {
        let mut random = Random::new(1);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let key = key(random.below(KEYS));
                let value = db.get(KeyspaceId::DEFAULT, black_box(&key)).expect("it is whole");
                assert!(value.is_some(), "every key was written");
            });
        });
        db.flush().expect("there is room");
    }
    let mut random = Random::new(2);
    group.bench_function("missing, tables", |bencher| {
        bencher.iter(|| {
            let key = key(KEYS + random.below(KEYS));
            assert!(db.get(KeyspaceId::DEFAULT, black_box(&key)).expect("it is whole").is_none());
        });
    });
    group.finish();
}

criterion_group!(benches, get);
criterion_main!(benches);
