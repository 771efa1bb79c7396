//! `inspect wal|table|manifest|hard-state|standing PATH`: a file as annotated text.
//!
//! Reads only, and as much as can be read of a damaged file. The text is for people; the formats are
//! described in `docs/format/`. No lock is taken: the file may belong to a running node, and then the
//! end of the text is what was there at this moment.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use strandline_wal::disk::{Disk, RealDisk, Rung};

use super::error::{self, Error, Result};
use crate::backup::standing_file;

/// Show what stands in a file, as far as it can be read.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// What kind of file it is.
    #[arg(value_enum)]
    pub(crate) kind: FileKind,
    /// The file.
    pub(crate) path: PathBuf,
    /// Print one JSON object, with the text in it.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileKind {
    /// A segment of the log.
    Wal,
    /// A sorted table.
    Table,
    /// A manifest: which tables there are.
    Manifest,
    /// What a replica must never forget: who it is, its term and its vote.
    HardState,
    /// Whom a node follows, and who wrote its log.
    Standing,
}

/// Shows the file: exit code 0 if it could be read, 3 if not.
pub(crate) fn run(args: InspectArgs) -> ExitCode {
    let outcome = describe(&args).map(|text| {
        match args.json {
            true => println!(
                "{}",
                serde_json::json!({"path": args.path.display().to_string(), "text": text})
            ),
            false => print!("{text}"),
        }
        true
    });
    error::exit("inspect", outcome)
}

fn describe(args: &InspectArgs) -> Result<String> {
    let path = &args.path;
    let refused = |source| Error::Path { operation: "read", path: path.clone(), source };
    let found = std::fs::metadata(path).map_err(refused)?;
    if !found.is_file() {
        let reason = format!("{} is no file: name one of the files in it", path.display());
        return Err(Error::Usage { reason });
    }
    let disk = reading_disk(path)?;
    let text = match args.kind {
        FileKind::Wal => strandline_wal::inspect_segment(&*disk, path)?,
        FileKind::Table => strandline_engine::inspect_table(&disk, path)?,
        FileKind::Manifest => strandline_engine::inspect_manifest(&*disk, path)?,
        FileKind::HardState => {
            use strandline_replication::Error as Replica;
            strandline_replication::inspect_hard_state(&*disk, path).map_err(
                |error| match error {
                    Replica::Wal(error) => Error::Log(error),
                    Replica::Engine(error) => Error::Store(error),
                    other => refused(std::io::Error::other(other)),
                },
            )?
        }
        FileKind::Standing => standing_file::inspect(&*disk, path)?,
    };
    Ok(text)
}

/// A disk for reading only: this rung needs no trial, so nothing is created or written.
///
/// # Errors
///
/// None today; the disk may refuse.
pub(crate) fn reading_disk(path: &Path) -> Result<Arc<dyn Disk>> {
    Ok(Arc::new(RealDisk::open(path, Some(Rung::PortableFsync))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::scratch::Scratch;
    use strandline_wal::{Options, Wal};

    fn inspect(kind: FileKind, path: PathBuf) -> Result<String> {
        describe(&InspectArgs { kind, path, json: false })
    }

    #[test]
    fn a_segment_is_described() {
        let scratch = Scratch::create(None, "test").expect("there is a temporary directory");
        let disk =
            Arc::new(RealDisk::open(scratch.path(), Some(Rung::PortableFsync)).expect("opens"));
        let options = Options { segment_size: 1 << 20, ..Options::default() };
        let (wal, _) = Wal::open(disk, scratch.path(), options).expect("it is empty");
        let lsn = wal.append(b"record").expect("there is room");
        wal.wait(lsn).expect("the disk works");
        wal.close().expect("the disk works");
        let mut texts = Vec::new();
        for entry in std::fs::read_dir(scratch.path()).expect("it is there").flatten() {
            if entry.file_name() != "LOCK" {
                texts.push(inspect(FileKind::Wal, entry.path()).expect("it can be read"));
            }
        }
        let text = texts.join("\n");
        assert!(text.contains("positions 1 to 1, 1 records"), "{text}");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let error = inspect(FileKind::Table, std::env::temp_dir()).expect_err("a directory");
        assert_eq!(error.exit_code(), error::EXIT_USAGE);
        let error = inspect(FileKind::Manifest, "/nowhere/at/all".into()).expect_err("missing");
        assert_eq!(error.exit_code(), error::EXIT_CANNOT);
    }
}
