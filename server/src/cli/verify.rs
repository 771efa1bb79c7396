//! `verify DIR`: reads every checksum of a store that no process has open.
//!
//! The log, the manifest and every table are read from front to back, and everything that is damaged
//! is listed: file, offset, what belongs there, what stands there. Nothing is changed. A shared lock
//! keeps a node from opening the directory meanwhile; while one has it open, this refuses, since
//! files come and go then.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use strandline_engine::{group_dir, state_dir};
use strandline_wal::Tail;

use super::at_rest::{StoreArgs, StoreAtRest};
use super::error::{self, Result};
use crate::backup::standing_file;

/// What a replica of a cluster never forgets stands here, beside the log.
pub(crate) const HARD_STATE_FILE: &str = "hard-state";

/// Read every checksum of a store that is not running.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Verifies: exit code 0 if nothing is damaged, 1 if something is, 3 if it could not run.
pub(crate) fn run(args: VerifyArgs) -> ExitCode {
    let outcome = verify(&args.store).map(|report| {
        match args.json {
            true => println!("{}", report.json(&args.store.dir)),
            false => print!("{}", report.text()),
        }
        report.damages.is_empty() && report.others.is_empty()
    });
    error::exit("verify", outcome)
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Report {
    segments: u64,
    /// Sealed segments with a footer that agrees with them.
    footers: u64,
    groups: u64,
    first: u64,
    last: u64,
    tables: u64,
    cells: u64,
    /// The last position that the tables hold; 0 if that cannot be read.
    pub(crate) flushed: u64,
    /// The end of the log.
    tail: Tail,
    /// What is wrong with the log.
    pub(crate) damages: Vec<Damage>,
    /// What is wrong with everything else.
    pub(crate) others: Vec<Damage>,
}

/// One damage. Where an error tells no file or offset, the fields are empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    file: String,
    offset: u64,
    expected: String,
    found: String,
}

impl Damage {
    /// What an error says of damage.
    ///
    /// # Errors
    ///
    /// The error itself if it speaks of no damage: then the answer is not known.
    pub(crate) fn of(error: strandline_wal::Error) -> Result<Damage> {
        use strandline_wal::Error as Log;
        match error {
            Log::Corruption { path, offset, expected, found } => {
                Ok(Damage { file: path.display().to_string(), offset, expected, found })
            }
            Log::Foreign { path, expected, found } => {
                Ok(Damage { file: path.display().to_string(), offset: 0, expected, found })
            }
            Log::Io { operation, path, offset, source }
                if matches!(source.kind(), std::io::ErrorKind::NotFound)
                    || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
            {
                Ok(Damage {
                    file: path.display().to_string(),
                    offset,
                    expected: "bytes that can be read".into(),
                    found: format!("{operation}: {source}"),
                })
            }
            error => Err(error.into()),
        }
    }
}

fn verify(args: &StoreArgs) -> Result<Report> {
    verify_store(&StoreAtRest::open(args)?)
}

/// Reads everything in a store that is locked.
///
/// # Errors
///
/// What keeps the answer from being known; damage is none.
pub(crate) fn verify_store(store: &StoreAtRest) -> Result<Report> {
    let StoreAtRest { dir, log, disk, .. } = store;
    let mut report = Report {
        segments: 0,
        footers: 0,
        groups: 0,
        first: 0,
        last: 0,
        tables: 0,
        cells: 0,
        flushed: 0,
        tail: Tail::Clean,
        damages: Vec::new(),
        others: Vec::new(),
    };
    let state = state_dir(dir);
    // A node that was killed in its first moment has a log and nothing else yet.
    if state.is_dir() {
        let found = strandline_engine::verify_state(disk, &state)?;
        report.tables = found.tables;
        report.cells = found.checked;
        report.flushed = found.flushed.0;
        for error in found.damage {
            report.others.push(of_store(error, &state)?);
        }
    }
    let standing = group_dir(dir).join(standing_file::STANDING_FILE);
    if standing.is_file()
        && let Err(error) = standing_file::read(&**disk, &standing)
    {
        report.others.push(of_store(error, &standing)?);
    }
    if log.is_dir() {
        let found = strandline_wal::verify(&**disk, log)?;
        report.segments = u64::try_from(found.segments).unwrap_or(u64::MAX);
        report.footers = u64::try_from(found.footers).unwrap_or(u64::MAX);
        report.groups = u64::try_from(found.groups).unwrap_or(u64::MAX);
        report.first = found.first.0;
        report.last = found.last.0;
        report.tail = found.tail;
        for error in found.damages {
            report.damages.push(Damage::of(error)?);
        }
    }
    report.compare(log, group_dir(dir).join(HARD_STATE_FILE).exists());
    Ok(report)
}

/// What an error of the store says of damage to `path`.
fn of_store(error: strandline_engine::Error, path: &Path) -> Result<Damage> {
    match error {
        strandline_engine::Error::Wal(error) => Damage::of(error),
        other => Ok(Damage {
            file: path.display().to_string(),
            found: other.to_string(),
            ..Damage::default()
        }),
    }
}

impl Damage {
    /// For people.
    pub(crate) fn line(&self) -> String {
        let Damage { file, offset, expected, found } = self;
        match expected.is_empty() {
            true => format!("DAMAGED {file}: {found}\n"),
            false => format!("DAMAGED {file} at {offset}: expected {expected}, found {found}\n"),
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "file": self.file,
            "offset": self.offset,
            "expected": self.expected,
            "found": self.found,
        })
    }
}

impl Report {
    /// Files of two times: the log must reach to where the tables end. That of a replica may end before, for
    /// a moment: when it was given a whole state.
    fn compare(&mut self, log: &Path, is_replica: bool) {
        let (first, last, flushed) = (self.first, self.last, self.flushed);
        let is_short = last < flushed && !is_replica;
        let is_late = flushed > 0 && first > flushed + 1;
        // A log that is damaged anyway has been told of.
        if !self.damages.is_empty() || !(is_short || is_late) {
            return;
        }
        self.damages.push(Damage {
            file: log.display().to_string(),
            offset: 0,
            expected: format!("a log that goes on behind position {flushed}, where the tables end"),
            found: format!("positions {first} to {last}"),
        });
    }

    fn text(&self) -> String {
        let mut text = format!(
            "log: {} segments, {} footers, {} groups, positions {} to {}\nstate: {} tables, {} cells, up to \
             position {}\n",
            self.segments,
            self.footers,
            self.groups,
            self.first,
            self.last,
            self.tables,
            self.cells,
            self.flushed
        );
        if let Tail::Suspect { path, offset, first } = &self.tail {
            text += &format!(
                "suspect {} at {offset}: position {first} and what follows was under way in a crash, or \
                 has gone bad\n",
                path.display()
            );
        }
        for damage in self.damages.iter().chain(&self.others) {
            text += &damage.line();
        }
        text += &match self.damages.len() + self.others.len() {
            0 => "every checksum is right\n".to_owned(),
            count => format!(
                "{count} damaged; `strandline repair DIR` says what can be mended and what that costs\n"
            ),
        };
        text
    }

    fn json(&self, dir: &Path) -> Value {
        let damages: Vec<Value> =
            self.damages.iter().chain(&self.others).map(Damage::json).collect();
        let suspect = match &self.tail {
            Tail::Suspect { path, offset, first } => {
                json!({"file": path.display().to_string(), "offset": offset, "first": first.0})
            }
            _ => Value::Null,
        };
        json!({
            "dir": dir.display().to_string(),
            "segments": self.segments,
            "footers": self.footers,
            "groups": self.groups,
            "first": self.first,
            "last": self.last,
            "tables": self.tables,
            "cells": self.cells,
            "flushed": self.flushed,
            "suspect_tail": suspect,
            "damages": damages,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::Error;
    use crate::cli::scratch::Scratch;
    use std::fs;
    use std::os::unix::fs::FileExt;
    use strandline_engine::{Db, DbOptions, KeyspaceId};

    /// A closed store with a few keys in its log and in a table.
    fn store() -> Scratch {
        let scratch = Scratch::create(None, "test").expect("there is a temporary directory");
        let db = Db::open(scratch.path(), DbOptions::default()).expect("it is empty");
        for number in 0..100 {
            let key = format!("key{number}");
            db.put(KeyspaceId::DEFAULT, key.as_bytes(), b"value").expect("there is room");
        }
        db.flush().expect("there is room");
        db.put(KeyspaceId::DEFAULT, b"last", b"value").expect("there is room");
        db.close().expect("the disk works");
        scratch
    }

    fn verify(scratch: &Scratch) -> Result<Report> {
        let dir = scratch.path().to_path_buf();
        super::verify(&StoreArgs { dir, log_spare_dir: None, config: None })
    }

    /// Turns a bit of the first file in `dir` whose name ends like this.
    fn damage(dir: &Path, ending: &str, offset: u64) {
        let mut entries = fs::read_dir(dir).expect("it is there").flatten();
        let path = entries
            .find(|entry| entry.file_name().to_string_lossy().ends_with(ending))
            .expect("there is such a file")
            .path();
        let file = fs::File::options().read(true).write(true).open(path).expect("it is ours");
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("it is long enough");
        file.write_all_at(&[byte[0] ^ 0x10], offset).expect("it is ours");
    }

    #[test]
    fn a_store_that_was_closed_is_clean() {
        let scratch = store();
        let report = verify(&scratch).expect("it can be read");
        assert_eq!(report.damages, vec![]);
        assert!(report.groups > 0 && report.tables > 0, "{report:?}");
        assert!(report.text().contains("every checksum is right"));
    }

    #[test]
    fn a_turned_bit_in_a_table_is_found() {
        let scratch = store();
        damage(&state_dir(scratch.path()), ".table", 100);
        let report = verify(&scratch).expect("it can be read");
        assert_eq!(report.others.len(), 1, "{report:?}");
        assert!(report.others[0].file.ends_with(".table"));
        assert_eq!(report.json(scratch.path())["damages"][0]["file"], report.others[0].file);
    }

    #[test]
    fn a_store_in_use_is_refused() {
        let scratch = store();
        let db = Db::open(scratch.path(), DbOptions::default()).expect("it was closed");
        let error = verify(&scratch).expect_err("it is open");
        assert!(matches!(error, Error::Log(strandline_wal::Error::Locked { .. })), "{error}");
        drop(db);
    }

    #[test]
    fn what_is_no_store_is_refused() {
        let scratch = Scratch::create(None, "test").expect("there is a temporary directory");
        let error = verify(&scratch).expect_err("it is empty");
        assert!(error.to_string().contains("find a store in"), "{error}");
    }
}
