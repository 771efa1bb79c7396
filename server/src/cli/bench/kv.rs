//! `bench kv`: each thread puts keys into the embedded store.

use strandline_engine::{Batch, Db, DbOptions, Durability, KeyspaceId};

use super::measure::{self, Counted, Report};
use super::{Level, LoadArgs};
use crate::cli::error::Result;
use crate::cli::scratch::Scratch;

/// How many keys a thread has; it writes them in a scattered order, again and again.
const KEYS: u64 = 1 << 20;
/// Scatters the keys: odd, so that every key is met once in `KEYS` steps.
const STRIDE: u64 = 0x9_e377;
const _: () = assert!(KEYS.is_power_of_two() && !STRIDE.is_multiple_of(2));

/// Measures the store.
///
/// # Errors
///
/// If it cannot be opened or written.
pub(crate) fn run(args: &LoadArgs) -> Result<Report> {
    let scratch = Scratch::create(args.dir.as_deref(), "bench")?;
    let options = DbOptions { rung: args.rung, ..DbOptions::default() };
    let db = Db::open(scratch.path(), options)?;
    let value = args.value();
    let durability = match args.durability {
        Level::Disk => Durability::Disk,
        Level::Memory => Durability::Memory,
    };
    let before = Counted::from(db.stats().1);
    let (times, took) = measure::run(&args.plan(), 1, &|thread, pace, times| {
        while let Some(due) = pace.wait() {
            let key = key(thread, times.count());
            let mut batch = Batch::new();
            batch.put(KeyspaceId::DEFAULT, key.as_bytes(), &value)?;
            db.write(&batch, durability)?;
            times.note(due);
        }
        Ok(())
    })?;
    let counted = Counted::from(db.stats().1).since(before);
    db.close()?;
    let key_bytes = u64::try_from(key(0, 0).len()).expect("keys are short");
    let payload_bytes = times.count().saturating_mul(args.value_bytes + key_bytes);
    let facts = vec![
        ("threads", args.threads.into()),
        ("value_bytes", args.value_bytes.into()),
        ("rate", args.rate.into()),
        ("durability", args.durability.name().into()),
    ];
    Ok(Report { target: "kv", facts, times, took, counted: Some(counted), payload_bytes })
}

/// The key of a write; all are equally long.
fn key(thread: usize, number: u64) -> String {
    format!("{thread:04}:{:08}", number.wrapping_mul(STRIDE) % KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_scattered_and_do_not_repeat_early() {
        let keys: std::collections::HashSet<String> = (0..10_000).map(|n| key(1, n)).collect();
        assert_eq!(keys.len(), 10_000);
        assert!(keys.iter().all(|one| one.len() == key(0, 0).len()));
    }
}
