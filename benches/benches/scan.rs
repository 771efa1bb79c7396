//! Ranges of the store, a hundred pairs at a time from a random key: from the memtable, from one
//! table, and merged from both.

use std::hint::black_box;
use std::ops::Bound;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strandline_benches::random::Random;
use strandline_benches::workload::{Load, key};
use strandline_engine::{Batch, Db, DbOptions, Direction, Durability, KeyspaceId, Range, Read};

/// How many keys there are.
const KEYS: u64 = 100_000;
/// Bytes of a value.
const VALUE_LEN: usize = 256;
/// Pairs of one range.
const PAIRS: usize = 100;

fn fill(db: &Db, seed: u64) {
    let mut load = Load::new(seed, VALUE_LEN);
    for number in 0..KEYS {
        let (_, value) = load.next_pair();
        let mut batch = Batch::new();
        batch.put(KeyspaceId::DEFAULT, &key(number), value).expect("it is short");
        db.write(&batch, Durability::Memory).expect("there is room");
    }
}

fn scan(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is a target");
    let db = Db::open(dir.path(), DbOptions::default()).expect("it is empty");
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Elements(u64::try_from(PAIRS).expect("small")));
    for name in ["memtable", "table", "both"] {
        match name {
            "memtable" => fill(&db, 1),
            "table" => db.flush().expect("there is room"),
            _ => fill(&db, 2),
        }
        let view = db.view();
        let mut random = Random::new(1);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let start = Bound::Included(key(random.below(KEYS)).to_vec());
                let end = Bound::Unbounded;
                let range = Range { start, end, direction: Direction::Forward };
                // Fewer at the very end of the keys.
                for pair in view.range(KeyspaceId::DEFAULT, range).take(PAIRS) {
                    black_box(pair.expect("it is whole"));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
