//! Strandline and its peers, side by side on this machine: see the crate's documentation.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use strandline_benches::comparison::{Plan, What};
use strandline_benches::{Error, holder, page, report};

/// Lets Strandline and its peers take turns, and prints the ratios.
#[derive(Debug, Parser)]
struct Arguments {
    /// What is compared
    #[arg(value_enum)]
    what: What,
    /// How often everybody takes a turn
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How long a turn lasts
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// One JSON object per row instead of a table
    #[arg(long)]
    json: bool,
    /// Writes the rows as a page of curves and tables, too
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Where the files are made: on the disk that is to be measured
    #[arg(long, default_value = "target/compare")]
    dir: PathBuf,
    /// Decides the order of turns
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this peer (may be repeated)
    #[arg(long)]
    peer: Vec<String>,
    /// Mebibytes of the log that is opened again after a kill (`wal`)
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=65536))]
    reopen_mib: u32,
    /// Records of the log whose index is looked at (`wal`)
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(64..))]
    index_records: u32,
    /// Only these numbers of threads or connections, separated by commas
    #[arg(long, value_delimiter = ',')]
    concurrency: Vec<usize>,
    /// Our server's program; without it, cargo builds it
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// A turn is between 50 ms, under which it measures its own start, and an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    match (0.05..=3600.0).contains(&seconds) {
        true => Ok(seconds),
        false => Err("not between 0.05 and 3600".into()),
    }
}

fn main() -> ExitCode {
    if let Some(error) = holder::run_if_asked() {
        eprintln!("compare: {error}");
        return ExitCode::from(3);
    }
    let arguments = Arguments::parse();
    let plan = Plan {
        rounds: usize::from(arguments.rounds),
        duration: Duration::from_secs_f64(arguments.seconds),
        dir: arguments.dir,
        seed: arguments.seed,
        peers: arguments.peer,
        concurrency: arguments.concurrency,
        reopen_mib: arguments.reopen_mib,
        index_records: arguments.index_records,
        binary: arguments.binary,
    };
    if !arguments.json {
        println!("{}", report::heading());
    }
    let mut rows = Vec::new();
    let shown = plan.run(arguments.what, &mut |row| {
        match arguments.json {
            true => println!("{}", row.json()),
            false => println!("{}", row.line()),
        }
        rows.push(row.clone());
    });
    let written = shown.and_then(|()| {
        let Some(path) = &arguments.page else { return Ok(()) };
        let what = format!("{:?}", arguments.what).to_lowercase();
        let (rounds, turn) = (plan.rounds, plan.duration);
        let setting = page::Setting { what: &what, rounds, turn, dir: &plan.dir };
        std::fs::write(path, page::page(&setting, &rows)).map_err(Error::io("write", path))
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(3)
        }
    }
}
