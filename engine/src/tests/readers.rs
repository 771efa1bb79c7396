//! Goal: readers in other threads never see half a batch, an older state after a newer one, or a
//! missing key, while the engine writes, seals, flushes and compacts. Method: every batch writes one
//! number under all keys; readers compare.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const KEYS: u8 = 12;
const ENTRIES: u64 = 1500;

fn number_of(value: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&value[..8]);
    u64::from_le_bytes(word)
}

#[test]
fn readers_see_whole_batches_in_order() {
    let engine = open(&SimulatedDisk::new(1)).unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..2_u64 {
            let (engine, is_done) = (&engine, &is_done);
            scope.spawn(move || {
                let mut last = 0;
                while !is_done.load(Ordering::Relaxed) {
                    let view = engine.view();
                    let range = Range::all();
                    let range = if reader == 0 { range } else { range.backward() };
                    let pairs = collect(&view, KeyspaceId::DEFAULT, range);
                    let expected = if view.index() == Index(0) { 0 } else { usize::from(KEYS) };
                    assert_eq!(pairs.len(), expected);
                    for (_, value) in &pairs {
                        assert_eq!(number_of(value), view.index().0);
                    }
                    let value = engine.get(KeyspaceId::DEFAULT, &[KEYS - 1]).unwrap();
                    let number = value.map_or(0, |value| number_of(&value));
                    assert!(number >= view.index().0 && number >= last, "time goes back");
                    last = number;
                }
            });
        }
        for worker in 0..2 {
            let (engine, is_done) = (&engine, &is_done);
            scope.spawn(move || {
                while !is_done.load(Ordering::Relaxed) {
                    let worked = if worker == 0 {
                        engine.flush_work(engine.applied()).unwrap()
                    } else {
                        engine.compact_work().unwrap()
                    };
                    if worked == crate::Worked::Idle {
                        thread::yield_now();
                    }
                }
            });
        }
        for index in (1..=ENTRIES).map(Index) {
            let mut batch = Batch::new();
            for key in 0..KEYS {
                let mut value = index.0.to_le_bytes().to_vec();
                value.resize(40, key);
                batch.put(KeyspaceId::DEFAULT, &[key], &value).unwrap();
            }
            engine.apply(index, &batch).unwrap();
            if engine.wants_seal() {
                engine.seal(Vec::new());
            }
            while engine.stalled() {
                thread::yield_now();
            }
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert!(engine.stats().flushes > 0);
}

#[test]
fn the_engine_and_its_views_go_to_other_threads() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Engine>();
    check::<crate::View>();
}

/// Lost: all writes, for good. Within one expression the statistics took the lock of the list of
/// obsolete tables, the manifest's and compaction's, and kept each: against the order of locks, so
/// that a compaction that installed its tables at that moment waited for the statistics, and they for
/// it. Whoever asks for statistics must get them while every job and the manifest are held.
#[test]
fn statistics_wait_for_no_background_work() {
    let engine = open(&SimulatedDisk::new(1)).unwrap();
    let _flushing = engine.flushing.lock().unwrap();
    let _compacting = engine.compacting.lock().unwrap();
    let manifest = engine.manifest();
    assert_eq!(engine.stats().manifest, manifest.number());
}
