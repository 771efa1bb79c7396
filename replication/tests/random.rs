//! Clusters through random faults: many seeds, one history. See `workload`.
//!
//! `STRANDLINE_SEED` is the first seed and `STRANDLINE_SEEDS` their number; a failure names its seed.

mod common;
mod workload;

use workload::run;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn nothing_acknowledged_is_lost_whatever_the_seed() {
    let (first, count) = (number("STRANDLINE_SEED", 1), number("STRANDLINE_SEEDS", 60));
    let (mut acknowledged, mut reads) = (0, 0);
    for seed in first..first + count {
        let ended = std::panic::catch_unwind(|| run(seed));
        let Ok((more, read)) = ended else {
            panic!(
                "replay: STRANDLINE_SEED={seed} STRANDLINE_SEEDS=1 cargo test -p strandline-replication --test random"
            )
        };
        acknowledged += more;
        reads += read;
    }
    println!("{count} seeds from {first}: {acknowledged} acknowledged, {reads} reads, 0 lost");
    assert!(acknowledged > 10 && reads > 10, "the workload does something");
}
