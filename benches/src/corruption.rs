//! What a log answers when a byte of it has changed: Strandline's beside raft-engine.
//!
//! A small log is written, every record synced. Then one bit of one byte of its files is turned, the log
//! is opened and every record is read; and so for every byte up to where only zeros follow. Each case
//! ends in one of these:
//!
//! | count | means |
//! |---|---|
//! | `unused` | every record is there, with its bytes |
//! | `refused` | the log does not open, and says why |
//! | `suspect` | it opens and says that its end is in doubt (ours alone knows this word) |
//! | `on_reading` | it opens, and the read of a record says that it is damaged |
//! | `panicked` | it stops with a panic |
//! | `lost_silently` | it opens, and a record that was acknowledged is not there, without a word |
//! | `wrong_bytes` | a record is read that was not written |
//!
//! Only the last two break a promise. Nothing is timed here.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, ReadableSize, RecoveryMode};
use serde::Serialize;
use strandline_wal::disk::{RealDisk, Rung};
use strandline_wal::{Lsn, Options, Tail, Wal};

use crate::peers::raft_engine::Indexed;
use crate::random::Random;
use crate::{Error, Result};

/// Records of a log.
const RECORDS: u64 = 40;
/// Of raft-engine's log.
const REGION: u64 = 1;

/// The logs that are damaged, and how they are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Ours, closed in order: a marker follows its last group.
    Closed,
    /// Ours, as a kill leaves it.
    Killed,
    /// raft-engine as it is by default.
    RaftEngine,
    /// raft-engine at its strictest.
    RaftEngineStrict,
}

impl Subject {
    /// All of them.
    pub const ALL: [Subject; 4] =
        [Subject::Closed, Subject::Killed, Subject::RaftEngine, Subject::RaftEngineStrict];

    /// As rows name it.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Closed => "strandline, closed",
            Subject::Killed => "strandline, killed",
            Subject::RaftEngine => "raft-engine",
            Subject::RaftEngineStrict => "raft-engine, absolute-consistency",
        }
    }

    /// Whether a broken promise is ours.
    pub fn is_ours(self) -> bool {
        matches!(self, Subject::Closed | Subject::Killed)
    }
}

/// How the cases of one log ended.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Whose log.
    pub log: &'static str,
    /// Bytes damaged, one at a time.
    pub damaged: u64,
    /// See the module's documentation, as for the others.
    pub unused: u64,
    #[allow(missing_docs)]
    pub refused: u64,
    #[allow(missing_docs)]
    pub suspect: u64,
    #[allow(missing_docs)]
    pub on_reading: u64,
    #[allow(missing_docs)]
    pub panicked: u64,
    #[allow(missing_docs)]
    pub lost_silently: u64,
    #[allow(missing_docs)]
    pub wrong_bytes: u64,
}

impl Row {
    /// As one line of a table.
    pub fn line(&self) -> String {
        format!(
            "{:34} {:>8} {:>8} {:>8} {:>8} {:>10} {:>8} {:>13} {:>11}",
            self.log,
            self.damaged,
            self.unused,
            self.refused,
            self.suspect,
            self.on_reading,
            self.panicked,
            self.lost_silently,
            self.wrong_bytes
        )
    }

    /// Above the lines.
    pub fn heading() -> String {
        format!(
            "{:34} {:>8} {:>8} {:>8} {:>8} {:>10} {:>8} {:>13} {:>11}",
            "log",
            "damaged",
            "unused",
            "refused",
            "suspect",
            "on reading",
            "panicked",
            "lost silently",
            "wrong bytes"
        )
    }
}

/// What opening and reading a log showed.
enum Read {
    Refused,
    /// What could be read; whether some read was refused; whether the log was in doubt.
    Opened {
        records: BTreeMap<u64, Vec<u8>>,
        refused: bool,
        suspect: bool,
    },
}

/// Damages the log of `subject`, made in a new directory below `dir`: every `stride`th byte.
///
/// # Errors
///
/// If the log cannot be written, or its files cannot be copied.
pub fn matrix(subject: Subject, dir: &Path, stride: usize) -> Result<Row> {
    let made = tempfile::tempdir_in(dir).map_err(Error::io("create", dir))?;
    let (sound, work) = (made.path().join("sound"), made.path().join("work"));
    for dir in [&sound, &work] {
        fs::create_dir(dir).map_err(Error::io("create", dir))?;
    }
    write(subject, &sound)?;
    let files = files(&sound)?;
    let mut row = Row { log: subject.name(), ..Row::default() };
    for (name, content) in &files {
        let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..used).step_by(stride) {
            restore(&work, &files)?;
            let mut damaged = content.clone();
            damaged[at] ^= 1 << (at % 8);
            let path = work.join(name);
            fs::write(&path, damaged).map_err(Error::io("write", &path))?;
            row.damaged += 1;
            let read = catch_unwind(AssertUnwindSafe(|| read(subject, &work)));
            *outcome(&mut row, read.ok()) += 1;
        }
    }
    Ok(row)
}

/// The count that a case belongs to.
fn outcome(row: &mut Row, read: Option<Read>) -> &mut u64 {
    let (records, refused, suspect) = match read {
        None => return &mut row.panicked,
        Some(Read::Refused) => return &mut row.refused,
        Some(Read::Opened { records, refused, suspect }) => (records, refused, suspect),
    };
    if records.iter().any(|(index, bytes)| *index > RECORDS || *bytes != payload(*index)) {
        return &mut row.wrong_bytes;
    }
    if refused {
        return &mut row.on_reading;
    }
    if suspect {
        return &mut row.suspect;
    }
    match u64::try_from(records.len()) {
        Ok(RECORDS) => &mut row.unused,
        _ => &mut row.lost_silently,
    }
}

/// What was acknowledged at an index. Its first eight bytes are the index, as raft-engine wants it.
fn payload(index: u64) -> Vec<u8> {
    let mut random = Random::new(index);
    let len = if index.is_multiple_of(8) { 6000 } else { 20 + random.below(400) };
    let mut bytes = index.to_le_bytes().to_vec();
    for _ in 0..len {
        bytes.push(random.below(256).to_le_bytes()[0]);
    }
    bytes
}

fn write(subject: Subject, dir: &Path) -> Result<()> {
    match subject {
        Subject::Closed | Subject::Killed => {
            let wal = ours(dir).map_err(Error::store(subject.name(), "open"))?.0;
            for index in 1..=RECORDS {
                let done = wal.append(&payload(index)).and_then(|lsn| wal.wait(lsn));
                done.map_err(Error::store(subject.name(), "append"))?;
            }
            if subject == Subject::Killed {
                // As it is now: what follows is done to another directory.
                let files = files(dir)?;
                wal.close().map_err(Error::store(subject.name(), "close"))?;
                return restore(dir, &files);
            }
            wal.close().map_err(Error::store(subject.name(), "close"))
        }
        Subject::RaftEngine | Subject::RaftEngineStrict => {
            let engine = theirs(subject, dir).map_err(Error::store(subject.name(), "open"))?;
            for index in 1..=RECORDS {
                let mut entry = BytesValue::new();
                entry.value = payload(index);
                let mut batch = LogBatch::with_capacity(1);
                batch
                    .add_entries::<Indexed>(REGION, &[entry])
                    .and_then(|()| engine.write(&mut batch, true))
                    .map_err(Error::store(subject.name(), "append"))?;
            }
            Ok(())
        }
    }
}

fn read(subject: Subject, dir: &Path) -> Read {
    match subject {
        Subject::Closed | Subject::Killed => read_ours(dir),
        Subject::RaftEngine | Subject::RaftEngineStrict => read_theirs(subject, dir),
    }
}

fn ours(dir: &Path) -> strandline_wal::Result<(Wal, strandline_wal::Recovery)> {
    let disk = Arc::new(RealDisk::open(dir, Some(Rung::BufferedFdatasync))?);
    let options = Options {
        segment_size: 64 << 10,
        spares: 1,
        group_size_max: 8 << 10,
        background: false,
        ..Options::default()
    };
    Wal::open(disk, dir, options)
}

fn read_ours(dir: &Path) -> Read {
    let Ok((wal, recovery)) = ours(dir) else { return Read::Refused };
    let suspect = recovery.tail != Tail::Clean;
    let mut records = BTreeMap::new();
    let mut reader = wal.reader(Lsn(1));
    loop {
        match reader.next_records() {
            Ok(Some(some)) => {
                for record in some.iter() {
                    let Ok((lsn, record)) = record else {
                        return Read::Opened { records, refused: true, suspect };
                    };
                    records.insert(lsn.0, record.payload.to_vec());
                }
            }
            Ok(None) => return Read::Opened { records, refused: false, suspect },
            Err(_) => return Read::Opened { records, refused: true, suspect },
        }
    }
}

fn theirs(subject: Subject, dir: &Path) -> raft_engine::Result<Engine> {
    let recovery_mode = match subject {
        Subject::RaftEngineStrict => RecoveryMode::AbsoluteConsistency,
        _ => Config::default().recovery_mode,
    };
    Engine::open(Config {
        dir: dir.to_string_lossy().into_owned(),
        target_file_size: ReadableSize::kb(64),
        enable_log_recycle: false,
        recovery_mode,
        ..Config::default()
    })
}

fn read_theirs(subject: Subject, dir: &Path) -> Read {
    let Ok(engine) = theirs(subject, dir) else { return Read::Refused };
    let mut records = BTreeMap::new();
    let mut refused = false;
    for index in 1..=RECORDS {
        match engine.get_entry::<Indexed>(REGION, index) {
            Ok(Some(entry)) => drop(records.insert(index, entry.value)),
            Ok(None) => {}
            Err(_) => refused = true,
        }
    }
    if engine.last_index(REGION).is_some_and(|last| last > RECORDS) {
        records.insert(RECORDS + 1, Vec::new());
    }
    Read::Opened { records, refused, suspect: false }
}

/// The files of a log, lock files left out.
fn files(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = PathBuf::from(entry.file_name());
        if name.as_os_str().eq_ignore_ascii_case("lock") {
            continue;
        }
        let content = fs::read(entry.path()).map_err(Error::io("read", entry.path()))?;
        files.push((name, content));
    }
    files.sort();
    Ok(files)
}

/// Puts a directory back to what it was.
fn restore(dir: &Path, files: &[(PathBuf, Vec<u8>)]) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten() {
        fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
    }
    for (name, content) in files {
        let path = dir.join(name);
        fs::write(&path, content).map_err(Error::io("write", &path))?;
    }
    Ok(())
}
