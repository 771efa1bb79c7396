//! Rough numbers on the real disk; asserts nothing. Run alone, optimised:
//! `cargo test --release -p strandline-engine tests::measure -- --ignored --nocapture`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use strandline_wal::disk::RealDisk;

use super::*;

const ENTRIES: u64 = 4_000_000;
const VALUE_LEN: usize = 200;

#[test]
#[ignore = "measures; asserts nothing"]
fn random_puts_with_background_work() {
    let dir = std::env::temp_dir().join(format!("strandline-measure-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&dir, None).unwrap());
    let engine = Engine::open(disk, &dir.join("engine"), Options::default()).unwrap();
    let is_done = AtomicBool::new(false);
    let mut random = Random::new(1);
    let start = Instant::now();
    let mut stalled = 0;
    thread::scope(|scope| {
        for is_flush in [true, false] {
            let (engine, is_done) = (&engine, &is_done);
            scope.spawn(move || {
                while !is_done.load(Ordering::Relaxed) {
                    let worked = if is_flush {
                        engine.flush_work(engine.applied())
                    } else {
                        engine.compact_work()
                    };
                    if worked.unwrap() == crate::Worked::Idle {
                        thread::sleep(std::time::Duration::from_millis(1));
                    }
                }
            });
        }
        let mut batch = Batch::new();
        let mut value = [0; VALUE_LEN];
        for index in (1..=ENTRIES).map(Index) {
            batch.clear();
            random.fill(&mut value[..VALUE_LEN / 2]);
            let key = random.below(1 << 40).to_le_bytes();
            batch.put(KeyspaceId::DEFAULT, &key, &value).unwrap();
            engine.apply(index, &batch).unwrap();
            if engine.wants_seal() {
                engine.seal(Vec::new());
            }
            if index.0.is_multiple_of(256) {
                while engine.stalled() {
                    stalled += 1;
                    thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        }
        let applied = start.elapsed();
        println!("applied {ENTRIES} in {applied:?}, stalled {stalled} ms");
        println!("{:#?}", engine.stats());
        engine.seal(Vec::new());
        is_done.store(true, Ordering::Relaxed);
    });
    work_all(&engine);
    println!("all done after {:?}: {:#?}", start.elapsed(), engine.stats());
    let mut random = Random::new(1);
    let start = Instant::now();
    let mut value = [0; VALUE_LEN];
    let count = 300_000_u32;
    for _ in 0..count {
        random.fill(&mut value[..VALUE_LEN / 2]);
        let key = random.below(1 << 40).to_le_bytes();
        assert!(engine.get(KeyspaceId::DEFAULT, &key).unwrap().is_some());
    }
    println!("get: {:?} each", start.elapsed() / count);
    let start = Instant::now();
    let view = engine.view();
    let pairs = view.range(KeyspaceId::DEFAULT, Range::all()).count();
    println!("scan of {pairs}: {:?}", start.elapsed());
    drop(view);
    drop(engine);
    std::fs::remove_dir_all(&dir).unwrap();
}
