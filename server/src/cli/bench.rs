//! `bench wal|kv|server`: how fast durable writes are here, and how long each takes.
//! `bench large|recovery`: whether a store larger than memory is read back, and how soon it opens.
//!
//! Each target is driven by threads that write as fast as they are answered (closed loop), or at a
//! given rate (open loop, `--rate`). At a given rate the time of a write runs from when it *should*
//! have begun: a stall is then seen by every write that it delayed, as users see it.
//!
//! Everything happens in a new directory, made where `--dir` says and removed afterwards. Compare
//! numbers only from one machine, one directory and one minute; `doctor` says what the disk can do.

mod data_set;
mod disk;
mod facts;
mod kv;
mod large;
mod measure;
mod page;
mod recovery;
mod server;
mod wal;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use strandline_wal::disk::Rung;

use super::error::{self, Error, Result};
use super::scratch;
use measure::Plan;

/// The most threads: more than any machine this runs on can use.
const THREADS_MAX: u64 = 1024;
/// The most connections: what a process may usually open.
const CONNECTIONS_MAX: u64 = 10_000;
/// The longest run.
const SECONDS_MAX: u64 = 3600;
/// The largest value: larger ones measure the memory.
const VALUE_BYTES_MAX: u64 = 16 << 20;

/// The rungs that can be asked for, best first.
const LADDER: [Rung; 5] = [
    Rung::IoUring,
    Rung::Pwritev2,
    Rung::DirectFdatasync,
    Rung::BufferedFdatasync,
    Rung::PortableFsync,
];

/// Measure durable writes of ourselves.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) target: Target,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Target {
    /// The log alone: append, wait until durable.
    Wal(WalArgs),
    /// The embedded store: put.
    Kv(LoadArgs),
    /// A server over sockets: SET.
    Server(ServerArgs),
    /// The embedded store with more data than memory: write, read all back, open again.
    Large(large::LargeArgs),
    /// Opening after a kill: what it costs, and on what that depends.
    Recovery(recovery::RecoveryArgs),
    /// The process that `recovery` kills.
    #[command(hide = true)]
    RecoveryWriter(recovery::WriterArgs),
}

/// When a write counts as answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// When it is on disk.
    Disk,
    /// When it is in memory.
    Memory,
}

impl Level {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Disk => "disk",
            Level::Memory => "memory",
        }
    }
}

/// The load, for all targets.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// How many threads write.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=THREADS_MAX))]
    pub(crate) threads: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(1..=VALUE_BYTES_MAX))]
    pub(crate) value_bytes: u64,
    /// How long to measure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// Writes per second of all threads together; as fast as possible if left out.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// When a write counts as answered.
    #[arg(long, value_enum, default_value_t = Level::Disk)]
    pub(crate) durability: Level,
    /// Where to make the directory of the run; the system's temporary files by default.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// How durable writes are made: io_uring, pwritev2, direct-fdatasync, buffered-fdatasync or fsync;
    /// probed by default.
    #[arg(long, value_parser = parse_rung)]
    pub(crate) rung: Option<Rung>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The load of the log.
#[derive(Clone, Debug, Args)]
pub(crate) struct WalArgs {
    /// The load.
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Measure at several numbers of threads, beside the bare disk, and write it as one page of HTML.
    #[arg(long, value_name = "FILE")]
    pub(crate) page: Option<PathBuf>,
}

/// The load of a server.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// The load.
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// How many connections all threads have together.
    #[arg(long, default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    pub(crate) connections: u64,
    /// How many requests a connection has in flight.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) pipeline: u64,
    /// Measure a server that is running there, instead of one of our own. It keeps the keys.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["dir", "rung", "durability"])]
    pub(crate) connect: Option<SocketAddr>,
}

impl LoadArgs {
    fn plan(&self) -> Plan {
        Plan {
            threads: to_usize(self.threads),
            time: Duration::from_secs(self.seconds),
            rate: self.rate,
        }
    }

    /// A value that no disk or file system can shorten.
    fn value(&self) -> Vec<u8> {
        let mut state: u64 = 0x5eed;
        let mut value = Vec::with_capacity(to_usize(self.value_bytes) + 8);
        while value.len() < to_usize(self.value_bytes) {
            // Xorshift: enough against compression, and the same in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            value.extend_from_slice(&state.to_le_bytes());
        }
        value.truncate(to_usize(self.value_bytes));
        value
    }
}

/// Numbers of the command line are bounded far below the address space.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("bounded by the parser of arguments")
}

/// A rung by its name.
fn parse_rung(name: &str) -> std::result::Result<Rung, Error> {
    let found = LADDER.into_iter().find(|rung| rung.name() == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = LADDER.iter().map(|rung| rung.name()).collect();
        Error::Usage { reason: format!("there is no such rung; there are {}", names.join(", ")) }
    })
}

/// The log, with a page if one is asked for.
fn wal(args: &WalArgs) -> Result<measure::Report> {
    match &args.page {
        Some(path) => page::run(&args.load, path),
        None => wal::run(&args.load),
    }
}

/// Runs a benchmark: exit code 0 if it ran, 1 if what was read back was wrong, 3 if it could not run.
pub(crate) fn run(args: BenchArgs) -> ExitCode {
    let outcome = scratch::watch_for_interrupts().and_then(|()| match &args.target {
        Target::Wal(args) => wal(args).map(|report| (report.facts(), args.load.json)),
        Target::Kv(load) => kv::run(load).map(|report| (report.facts(), load.json)),
        Target::Server(args) => server::run(args).map(|report| (report.facts(), args.load.json)),
        Target::Large(args) => large::run(args).map(|facts| (facts, args.json)),
        Target::Recovery(args) => recovery::run(args).map(|facts| (facts, args.json)),
        Target::RecoveryWriter(args) => Err(recovery::write_and_wait(args)),
    });
    let printed: Result<bool> = outcome.map(|(facts, json)| {
        match json {
            true => println!("{}", facts.json()),
            false => print!("{}", facts.table()),
        }
        facts.good
    });
    error::exit("bench", printed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_are_found_by_name() {
        assert_eq!(parse_rung("pwritev2").expect("there is one"), Rung::Pwritev2);
        let error = parse_rung("simulated").expect_err("only for tests");
        assert!(error.to_string().contains("io_uring"), "{error}");
    }
}
