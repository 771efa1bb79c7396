//! `bench large`: a data set several times larger than the store's memory, written while compaction
//! runs behind it, read back to the last byte, and read once more after reopening.
//!
//! The memory given is divided up: memtables three eighths, cache of blocks two, what waits for the
//! log one; the rest is for compaction. Tables are mapped files, so what the system keeps of them in
//! its own cache shows in the resident size; it is told apart, because the system takes it back when
//! it needs the room.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use strandline_engine::{Db, DbOptions, KeyspaceId, Options, Range, Read, Stats, Worked};
use strandline_wal::disk::Rung;

use super::data_set::{DataSet, Found};
use super::facts::Facts;
use super::{THREADS_MAX, VALUE_BYTES_MAX, parse_rung, to_usize};
use crate::cli::error::Result;
use crate::cli::scratch::{self, Scratch};

/// Every so many keys are written a second time.
const REWRITTEN_EVERY: u64 = 4;
/// How often the memory in use is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A data set larger than memory.
#[derive(Clone, Debug, Args)]
pub(crate) struct LargeArgs {
    /// Memory of the store: memtables, caches, buffers.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(4..=1 << 20))]
    pub(crate) memory_mib: u64,
    /// Keys and values; four times the memory if left out.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub(crate) data_mib: Option<u64>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1024,
          value_parser = clap::value_parser!(u64).range(1..=VALUE_BYTES_MAX))]
    pub(crate) value_bytes: u64,
    /// How many threads write and read.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=THREADS_MAX))]
    pub(crate) threads: u64,
    /// Where to make the directory of the run; the system's temporary files by default.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// How durable writes are made, as for the others.
    #[arg(long, value_parser = parse_rung)]
    pub(crate) rung: Option<Rung>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Settings that keep a store within this much memory.
fn options(memory: u64, rung: Option<Rung>) -> DbOptions {
    let eighth = to_usize(memory / 8);
    DbOptions {
        wal: strandline_wal::Options {
            // Freed segments come back soon, so that the log stays small beside the data.
            segment_size: (memory / 4).next_multiple_of(4096).clamp(1 << 20, 64 << 20),
            group_size_max: eighth.clamp(4096, 1 << 20),
            pending_size_max: eighth,
            ..strandline_wal::Options::default()
        },
        engine: Options {
            memtable_size: eighth,
            sealed_max: 2,
            block_cache_size: 2 * eighth,
            table_size: memory / 8,
            level_1_size: memory / 2,
            ..Options::default()
        },
        rung,
        ..DbOptions::default()
    }
}

/// Writes, reads back, opens again, reads back.
///
/// # Errors
///
/// If the store cannot be opened, written or read.
pub(crate) fn run(args: &LargeArgs) -> Result<Facts> {
    let scratch = Scratch::create(args.dir.as_deref(), "bench")?;
    let memory = args.memory_mib << 20;
    let data = args.data_mib.map_or(4 * memory, |mib| mib << 20);
    let set = DataSet::of_bytes(data, args.value_bytes);
    let (peak, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&peak, &ended));
        let outcome = measure(args, &set, &scratch, memory);
        ended.store(true, Ordering::Relaxed);
        outcome
    })
    .map(|(mut pairs, good)| {
        pairs.push(("peak_anonymous_bytes", known(peak.into_inner())));
        pairs.push(("peak_resident_bytes", known(status("VmHWM:"))));
        Facts { pairs, good }
    })
}

type Pairs = Vec<(&'static str, Value)>;

fn measure(
    args: &LargeArgs,
    set: &DataSet,
    scratch: &Scratch,
    memory: u64,
) -> Result<(Pairs, bool)> {
    let threads = to_usize(args.threads);
    let options = options(memory, args.rung);
    let db = Db::open(scratch.path(), options.clone())?;
    let started = Instant::now();
    set.write(&db, 0..set.count, 1, threads)?;
    set.write(&db, (0..set.count).step_by(to_usize(REWRITTEN_EVERY)), 2, threads)?;
    db.flush()?;
    let written = started.elapsed();
    let (before, log) = db.stats();
    db.close()?;
    drop(db);
    let started = Instant::now();
    let db = settled(scratch.path(), &options)?;
    let settled = started.elapsed();
    let mut stats = db.stats().0;
    stats.flushes += before.flushes;
    stats.flushed_bytes += before.flushed_bytes;
    stats.compactions += before.compactions;
    stats.compaction_written_bytes += before.compaction_written_bytes;
    stats.moves += before.moves;
    let payload = set.bytes() + set.count.div_ceil(REWRITTEN_EVERY) * set.bytes() / set.count;
    let to_device = log.device_bytes + stats.flushed_bytes + stats.compaction_written_bytes;

    let started = Instant::now();
    let got = set.read(&db, threads, &version_of)?;
    let read = started.elapsed();
    db.close()?;
    drop(db);
    let started = Instant::now();
    let db = Db::open(scratch.path(), options)?;
    let opened = started.elapsed();
    let scanned = scan(&db, set)?;
    db.close()?;

    let all_right = Found { right: set.count, ..Found::default() };
    let stored: u64 = stats.levels.iter().map(|level| level.bytes).sum();
    let pairs = vec![
        ("bench", "large".into()),
        ("memory_bytes", memory.into()),
        ("data_bytes", set.bytes().into()),
        ("keys", set.count.into()),
        ("value_bytes", set.value_len.into()),
        ("payload_bytes", payload.into()),
        ("log_bytes", log.device_bytes.into()),
        ("flushed_bytes", stats.flushed_bytes.into()),
        ("compacted_bytes", stats.compaction_written_bytes.into()),
        ("write_amplification", ratio(to_device, payload)),
        ("stored_bytes", stored.into()),
        ("space_amplification", ratio(stored, set.bytes())),
        ("flushes", stats.flushes.into()),
        ("compactions", stats.compactions.into()),
        ("moves", stats.moves.into()),
        ("levels", levels(&stats)),
        ("write_ms", millis(written)),
        ("settle_ms", millis(settled)),
        ("read_ms", millis(read)),
        ("open_ms", millis(opened)),
        ("read_right", got.right.into()),
        ("read_missing", got.missing.into()),
        ("read_wrong", got.wrong.into()),
        ("scanned_right", scanned.right.into()),
        ("scanned_missing", scanned.missing.into()),
        ("scanned_wrong", scanned.wrong.into()),
    ];
    Ok((pairs, got == all_right && scanned == all_right))
}

/// The version that a key has at the end.
fn version_of(number: u64) -> u64 {
    if number.is_multiple_of(REWRITTEN_EVERY) { 2 } else { 1 }
}

/// Opens the store without threads and steps it until compaction has nothing to do, so that what it
/// costs is counted to its end.
pub(super) fn settled(dir: &Path, options: &DbOptions) -> Result<Db> {
    let db = Db::open(dir, DbOptions { background: false, ..options.clone() })?;
    while db.work()? == Worked::Done {
        scratch::check()?;
    }
    Ok(db)
}

/// Reads all pairs in order; a pair that should not be there is wrong.
fn scan(db: &Db, set: &DataSet) -> Result<Found> {
    let mut found = Found::default();
    let view = db.view();
    for pair in view.range(KeyspaceId::DEFAULT, Range::all()) {
        scratch::check()?;
        let (key, value) = pair?;
        match set.number(&key) {
            Some(number) => {
                found.take(Some(&value), &set.value(number, version_of(number)));
            }
            None => found.wrong += 1,
        }
    }
    found.missing = set.count.saturating_sub(found.right + found.wrong);
    Ok(found)
}

fn levels(stats: &Stats) -> Value {
    let rows = stats.levels.iter().enumerate().filter(|(_, level)| level.tables > 0);
    rows.map(|(at, level)| json!({ "level": at, "tables": level.tables, "bytes": level.bytes }))
        .collect()
}

/// Keeps the highest use of memory that is not the system's cache of files.
fn watch(peak: &AtomicU64, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        peak.fetch_max(status("RssAnon:"), Ordering::Relaxed);
        std::thread::sleep(LOOK);
    }
}

/// A size in bytes that the system tells of this process; 0 if it does not.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn known(bytes: u64) -> Value {
    if bytes == 0 { Value::Null } else { bytes.into() }
}

pub(super) fn millis(time: Duration) -> Value {
    let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    (f64::from(micros) / 1000.0).into()
}

/// With two decimals.
fn ratio(numerator: u64, denominator: u64) -> Value {
    let hundredths = numerator.saturating_mul(100) / denominator.max(1);
    (f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0).into()
}
