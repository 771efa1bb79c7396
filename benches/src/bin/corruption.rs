//! The corruption matrix, Strandline's log beside raft-engine: see `strandline_benches::corruption`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use strandline_benches::corruption::{Row, Subject, matrix};
use strandline_benches::corruption_page;

/// Turns one bit of every byte of a small log, opens it, and counts what each log answers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only every so-many-th byte
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    stride: u32,
    /// One JSON object per row instead of a table
    #[arg(long)]
    json: bool,
    /// Writes the rows as a page, too
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Where the logs are made: in memory by default, as nothing here is timed or outlives a power cut
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let in_memory = Path::new("/dev/shm");
    let dir = arguments.dir.unwrap_or_else(|| match in_memory.is_dir() {
        true => in_memory.to_path_buf(),
        false => std::env::temp_dir(),
    });
    let stride = usize::try_from(arguments.stride).unwrap_or(usize::MAX);
    // What a peer prints when it panics is counted, not shown.
    std::panic::set_hook(Box::new(|_| ()));
    if !arguments.json {
        println!("{}", Row::heading());
    }
    let mut broken = 0;
    let mut rows = Vec::new();
    for subject in Subject::ALL {
        let row = match matrix(subject, &dir, stride) {
            Ok(row) => row,
            Err(error) => {
                eprintln!("corruption: {error}");
                return ExitCode::from(3);
            }
        };
        if subject.is_ours() {
            broken += row.lost_silently + row.wrong_bytes + row.panicked;
        }
        match (arguments.json, serde_json::to_string(&row)) {
            (true, Ok(text)) => println!("{text}"),
            _ => println!("{}", row.line()),
        }
        rows.push(row);
    }
    if let Some(path) = &arguments.page
        && let Err(error) = std::fs::write(path, corruption_page::page(&rows, stride, &dir))
    {
        eprintln!("corruption: could not write {}: {error}", path.display());
        return ExitCode::from(3);
    }
    match broken {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(1),
    }
}
