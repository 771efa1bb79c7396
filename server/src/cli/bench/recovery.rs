//! `bench recovery`: how long opening a store takes after its process was killed, and on what that
//! depends: on what is not in tables yet, not on what is stored.
//!
//! For each amount stored a store is filled, flushed and closed. For each amount unflushed another
//! process opens it, writes so many entries, says so, and is killed with SIGKILL. Then this process
//! opens the store, measures that, reads every entry of the killed one back, and opens it some more
//! times: each opening replays the same entries, for nothing is flushed in between.
//!
//! The files are in the system's cache: what is measured is the store's own work.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use strandline_engine::{Batch, Db, DbOptions, Durability, KeyspaceId, Options};
use strandline_wal::disk::Rung;

use super::data_set::{DataSet, Found, STAMP_LEN};
use super::facts::Facts;
use super::large::{millis, settled};
use super::{VALUE_BYTES_MAX, parse_rung};
use crate::cli::error::{Error, Result};
use crate::cli::node::program;
use crate::cli::scratch::Scratch;

/// How many threads fill the store.
const THREADS: usize = 4;
/// What the killed process says when all is written.
const WRITTEN: &str = "written";
/// Memory for unflushed entries: none of them may be flushed before the process is killed.
const MEMTABLE_SIZE: usize = 1 << 30;

/// Opening after a kill.
#[derive(Clone, Debug, Args)]
pub(crate) struct RecoveryArgs {
    /// What is stored in tables, each amount in turn.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 1024],
          value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub(crate) stored_mib: Vec<u64>,
    /// How many entries are not in tables when the process is killed, each amount in turn.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000],
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) unflushed: Vec<u64>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(STAMP_LEN..=VALUE_BYTES_MAX))]
    pub(crate) value_bytes: u64,
    /// How often each store is opened; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) rounds: u64,
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

/// What the process that is killed is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct WriterArgs {
    /// The store.
    #[arg(long)]
    dir: PathBuf,
    /// Entries.
    #[arg(long)]
    count: u64,
    /// Bytes of a value.
    #[arg(long)]
    value_bytes: u64,
    /// The version of the values.
    #[arg(long)]
    generation: u64,
    /// How durable writes are made.
    #[arg(long, value_parser = parse_rung)]
    rung: Option<Rung>,
}

fn options(rung: Option<Rung>) -> DbOptions {
    let engine = Options { memtable_size: MEMTABLE_SIZE, ..Options::default() };
    DbOptions { engine, rung, ..DbOptions::default() }
}

/// Measures all pairs of amounts.
///
/// # Errors
///
/// If a store cannot be opened or written, or the other process cannot be run.
pub(crate) fn run(args: &RecoveryArgs) -> Result<Facts> {
    let mut rows = Vec::new();
    let mut all = Found::default();
    for &stored_mib in &args.stored_mib {
        let scratch = Scratch::create(args.dir.as_deref(), "bench")?;
        let set = DataSet::of_bytes(stored_mib << 20, args.value_bytes);
        fill(&set, scratch.path(), args.rung)?;
        // Entries of a later amount have a later version: none may be mistaken for an earlier one.
        let mut least = None;
        for (version, &unflushed) in (2..).zip(&args.unflushed) {
            kill_writer(args, scratch.path(), unflushed, version)?;
            let run = measure(args, &set, scratch.path(), unflushed, version)?;
            let least = *least.get_or_insert((unflushed, run.median()));
            rows.push(run.row(unflushed, least));
            all.add(run.found);
        }
    }
    let pairs = vec![
        ("bench", "recovery".into()),
        ("value_bytes", args.value_bytes.into()),
        ("rounds", args.rounds.into()),
        ("runs", Value::Array(rows)),
        ("read_right", all.right.into()),
        ("read_missing", all.missing.into()),
        ("read_wrong", all.wrong.into()),
    ];
    Ok(Facts { pairs, good: all.missing == 0 && all.wrong == 0 })
}

/// A store with this data in tables, closed in order.
fn fill(set: &DataSet, dir: &Path, rung: Option<Rung>) -> Result<()> {
    let options = DbOptions { rung, ..DbOptions::default() };
    let db = Db::open(dir, options.clone())?;
    set.write(&db, 0..set.count, 1, THREADS)?;
    db.flush()?;
    db.close()?;
    drop(db);
    // Compaction that is left over would run beside what is measured.
    Ok(settled(dir, &options)?.close()?)
}

/// Lets another process write, and kills it.
fn kill_writer(args: &RecoveryArgs, dir: &Path, count: u64, version: u64) -> Result<()> {
    let program = program()?;
    let mut command = Command::new(&program);
    command.args(["bench", "recovery-writer", "--dir"]).arg(dir);
    for (name, value) in
        [("--count", count), ("--value-bytes", args.value_bytes), ("--generation", version)]
    {
        command.arg(name).arg(value.to_string());
    }
    if let Some(rung) = args.rung {
        command.args(["--rung", rung.name()]);
    }
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut writer = Writer(spawned.map_err(|source| Error::Spawn { program, source })?);
    let stdout = writer.0.stdout.take().expect("standard output was asked to be a pipe");
    let mut line = String::new();
    // An error reads like an early end.
    let _ = BufReader::new(stdout).read_line(&mut line);
    match line.trim() {
        WRITTEN => Ok(()),
        other => Err(Error::EarlyEnd { said: other.to_owned() }),
    }
}

/// Killed, whichever way its owner goes.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process that is killed: writes entries, says so, and waits for its end.
///
/// Returns only if the store cannot be opened or written.
pub(crate) fn write_and_wait(args: &WriterArgs) -> Error {
    match write(args) {
        Ok(_db) => {
            // Nobody to tell if the other end is gone: then so is the wish to know.
            let _ = writeln!(std::io::stdout(), "{WRITTEN}");
            // Ends too if the process that would kill us has died.
            let _ = std::io::stdin().read(&mut [0]);
            std::process::abort();
        }
        Err(error) => error,
    }
}

fn write(args: &WriterArgs) -> Result<Db> {
    let db = Db::open(&args.dir, options(args.rung))?;
    let set = DataSet { count: args.count, value_len: args.value_bytes };
    for number in 0..args.count {
        let mut batch = Batch::new();
        let value = set.value(number, args.generation);
        batch.put(KeyspaceId::DEFAULT, &DataSet::key(number), &value)?;
        // All are on disk when the last one is: there is one log.
        let is_last = number + 1 == args.count;
        db.write(&batch, if is_last { Durability::Disk } else { Durability::Memory })?;
    }
    Ok(db)
}

/// What the openings of one store showed.
struct Run {
    /// The first, after the kill.
    first: Duration,
    /// All, sorted.
    times: Vec<Duration>,
    log_bytes_read: u64,
    log_bytes_rewritten: u64,
    tables: usize,
    stored_bytes: u64,
    found: Found,
}

impl Run {
    fn median(&self) -> Duration {
        self.times[self.times.len() / 2]
    }

    /// The row, beside the run with the `least` entries over the same data: what opening costs in any
    /// case is in both.
    fn row(&self, unflushed: u64, least: (u64, Duration)) -> Value {
        let more = unflushed.saturating_sub(least.0);
        let longer = self.median().saturating_sub(least.1).as_nanos();
        let each = u32::try_from(longer / u128::from(more.max(1))).unwrap_or(u32::MAX);
        json!({
            "stored_bytes": self.stored_bytes,
            "tables": self.tables,
            "unflushed": unflushed,
            "open_first_ms": millis(self.first),
            "open_ms": millis(self.median()),
            "open_min_ms": millis(self.times[0]),
            "open_max_ms": millis(self.times[self.times.len() - 1]),
            "us_per_entry": (more > 0).then(|| f64::from(each) / 1000.0),
            "log_bytes_read": self.log_bytes_read,
            "log_bytes_rewritten": self.log_bytes_rewritten,
            "lost": self.found.missing + self.found.wrong,
        })
    }
}

fn measure(
    args: &RecoveryArgs,
    set: &DataSet,
    dir: &Path,
    unflushed: u64,
    version: u64,
) -> Result<Run> {
    let open = || {
        let started = Instant::now();
        let db = Db::open(dir, options(args.rung))?;
        Ok::<_, Error>((started.elapsed(), db))
    };
    let (first, db) = open()?;
    let levels = db.stats().0.levels;
    let mut run = Run {
        first,
        times: vec![first],
        log_bytes_read: db.recovery().bytes_read,
        log_bytes_rewritten: db.recovery().bytes_rewritten,
        tables: levels.iter().map(|level| level.tables).sum(),
        stored_bytes: levels.iter().map(|level| level.bytes).sum(),
        found: read_back(&db, set, unflushed, version)?,
    };
    db.close()?;
    drop(db);
    for _ in 1..args.rounds {
        let (took, db) = open()?;
        run.times.push(took);
        db.close()?;
    }
    run.times.sort();
    Ok(run)
}

/// Every entry of the killed process.
fn read_back(db: &Db, set: &DataSet, unflushed: u64, version: u64) -> Result<Found> {
    let mut found = Found::default();
    for number in 0..unflushed {
        let value = db.get(KeyspaceId::DEFAULT, &DataSet::key(number))?;
        found.take(value.as_deref(), &set.value(number, version));
    }
    Ok(found)
}
