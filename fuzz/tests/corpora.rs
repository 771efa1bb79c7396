//! Every target over its kept corpus, and over inputs drawn from a seed: on stable, without libFuzzer.
//!
//! Half of the drawn inputs are noise, half are kept ones with a few bytes changed.
//! `STRANDLINE_SEED` is the first seed, `STRANDLINE_SEEDS` their number, or `STRANDLINE_FUZZ_SECONDS` how long
//! seeds are drawn for each target; a failure names its seed.
#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use strandline_fuzz::{TARGETS, Target, target};
use strandline_wal::disk::simulated::Random;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The kept inputs of a target, by name.
fn kept(target: Target) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has inputs", dir.display());
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Noise, or a kept input after a few mutations.
fn drawn(seed: u64, kept: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut input = vec![0; random.index(600)];
    random.fill(&mut input);
    if random.below(2) == 0 {
        return input;
    }
    let other = &kept[random.index(kept.len())].1;
    let mut input = kept[random.index(kept.len())].1.clone();
    for _ in 0..1 + random.below(4) {
        let at = random.index(input.len() + 1);
        let noise = random.next_u64().to_le_bytes();
        match random.below(6) {
            0 => input.truncate(at),
            1 => input.splice(at..at, noise[..random.index(8)].iter().copied()).for_each(drop),
            2 => input.splice(at.., other[at.min(other.len())..].iter().copied()).for_each(drop),
            3 => drop(input.drain(at..at + random.index(input.len() - at + 1).min(16))),
            4 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (noise[0] % 8)),
            _ => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = noise[0]),
        }
    }
    input
}

fn try_all(name: &str) {
    let target = target(name);
    let kept = kept(target);
    for (path, input) in &kept {
        let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
        assert!(ended.is_ok(), "{}: see above", path.display());
    }
    let pace = u64::try_from(target.pace).unwrap();
    let first = number("STRANDLINE_SEED", 1);
    let seconds = number("STRANDLINE_FUZZ_SECONDS", 0);
    let (began, time) = (Instant::now(), Duration::from_secs(seconds));
    let count = number("STRANDLINE_SEEDS", if seconds > 0 { u64::MAX - first } else { 20 * pace });
    let mut tried = 0;
    for seed in first..first + count {
        if seconds > 0 && began.elapsed() >= time {
            break;
        }
        tried += 1;
        let input = drawn(seed, &kept);
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            panic!(
                "{name}: {}; replay: STRANDLINE_SEED={seed} STRANDLINE_SEEDS=1 cargo test \
                 --manifest-path fuzz/Cargo.toml {name}",
                input.escape_ascii()
            );
        }
    }
    println!("{name}: {} kept inputs, {tried} drawn ones from seed {first}", kept.len());
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            try_all(stringify!($name));
        })*

        /// Nothing is tried by half: each target has its test, its program and its corpus.
        #[test]
        fn every_target_has_all_that_belongs_to_it() {
            let tests = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), tests);
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            for dir in ["fuzz_targets", "corpus"] {
                let entries = std::fs::read_dir(root.join(dir)).unwrap();
                let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
                found.iter_mut().for_each(|path| *path = path.with_extension(""));
                let mut expected: Vec<_> = tests.map(|name| root.join(dir).join(name)).to_vec();
                (found.sort(), expected.sort());
                assert_eq!(found, expected);
            }
        }
    };
}

tests! { record request entry segment table manifest log_model store_model }
