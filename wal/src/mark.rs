//! The mark of a log that has a spare directory: a small file in both, which names the log.
//!
//! Both say the same, so one that is damaged can be given back: if everything else in its directory says
//! that it is of the log that the other one names. That is beyond doubt when each segment that still has a
//! header is of that log, or, where there is none, when the damaged mark still names it: an identity is 64 random bits. What
//! is not tied like that is left to a person, for a mark on a directory of another log would make one log of
//! two.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, OpenMode, replace_file};
use crate::frame::{FORMAT_VERSION, u32_at, u64_at};
use crate::segment::{HEADER_LEN, SegmentHeader, SegmentId};
use crate::{Error, Result};

/// The mark's name, in either directory.
pub(crate) const MARK_FILE: &str = "SPARE";
/// First bytes of a mark.
const MAGIC: [u8; 4] = *b"SLSP";
/// A mark's length in bytes: magic, version, two reserved ones, the log's identity, checksum.
const MARK_LEN: usize = 20;

/// What stands in a directory.
#[derive(Debug)]
pub(crate) enum Mark {
    Absent,
    /// That of the log with this identity.
    Of(u64),
    /// What is wrong, and what stands where the identity belongs.
    Damaged(Error, u64),
}

impl Mark {
    /// That in `dir`.
    ///
    /// # Errors
    ///
    /// What the disk refuses, and [`Error::FormatVersion`].
    pub(crate) fn look(disk: &dyn Disk, dir: &Path) -> Result<Mark> {
        let path = dir.join(MARK_FILE);
        let file = match disk.open(&path, OpenMode::Read) {
            Err(error) if error.is_not_found() => return Ok(Mark::Absent),
            file => file?,
        };
        let mut bytes = [0; MARK_LEN];
        let count = file.read_at(&mut bytes, 0)?;
        let log_id = u64_at(&bytes, 8);
        let is_whole = count == MARK_LEN
            && bytes[..4] == MAGIC
            && u32_at(&bytes, MARK_LEN - 4) == crc32fast::hash(&bytes[..MARK_LEN - 4]);
        if !is_whole {
            let expected = "the mark of a spare directory".into();
            let found = format!("{:02x?}", &bytes[..count]);
            return Ok(Mark::Damaged(
                Error::Corruption { path, offset: 0, expected, found },
                log_id,
            ));
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version > FORMAT_VERSION {
            return Err(Error::FormatVersion { path, known: FORMAT_VERSION, found: version });
        }
        Ok(Mark::Of(log_id))
    }

    /// Which log the mark in `dir` names, if there is one.
    ///
    /// # Errors
    ///
    /// As for [`look`](Mark::look); [`Error::Corruption`] if it is damaged.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<u64>> {
        match Mark::look(disk, dir)? {
            Mark::Absent => Ok(None),
            Mark::Of(log_id) => Ok(Some(log_id)),
            Mark::Damaged(error, _) => Err(error),
        }
    }

    pub(crate) fn is_damaged(&self) -> bool {
        matches!(self, Mark::Damaged(..))
    }
}

/// Writes the mark of a log, durably and as a whole.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, log_id: u64) -> Result<()> {
    let mut bytes = [0; MARK_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&log_id.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..MARK_LEN - 4]);
    bytes[MARK_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    replace_file(disk, &dir.join(MARK_FILE), &bytes)
}

/// The mark as annotated text.
pub(crate) fn inspect(disk: &dyn Disk, path: &Path) -> Result<String> {
    let log_id = Mark::read(disk, path.parent().unwrap_or(Path::new("")))?.unwrap_or(0);
    Ok(format!("{}: log {log_id:016x} has a spare directory\n", path.display()))
}

/// What is wrong with the marks of a log at rest.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Marks that are damaged.
    pub damages: Vec<Error>,
    /// The directory of the one that can be given back, and the log that it is of.
    pub given_back: Option<(PathBuf, u64)>,
    /// Why a person has to say what belongs together: then the log must not be looked at as one.
    pub unclear: Option<String>,
}

/// Looks at the marks of the log in `dir`: at both, if `disk` is one of both directories.
///
/// # Errors
///
/// [`Error::SpareAbsent`] if the log has a spare directory and `disk` has not, and what the disk refuses.
pub(crate) fn examine(disk: &dyn Disk, dir: &Path) -> Result<Marks> {
    let own = Mark::look(disk, dir)?;
    let Some(spare) = disk.spare_of(dir) else {
        return alone(own, dir);
    };
    let there = Mark::look(disk, &spare)?;
    let mut marks = Marks::default();
    let tie = match (own, there) {
        (Mark::Damaged(error, claims), Mark::Of(log_id)) => {
            marks.damages.push(error);
            is_tied(disk, dir, claims, log_id)?.then(|| (dir.to_path_buf(), log_id))
        }
        (Mark::Of(log_id), Mark::Damaged(error, claims)) => {
            marks.damages.push(error);
            is_tied(disk, &spare, claims, log_id)?.then(|| (spare.clone(), log_id))
        }
        // A log that was closed in order, with nothing in its spare directory, has no mark of its own.
        (Mark::Absent, Mark::Damaged(error, claims)) => {
            marks.damages.push(error);
            match logs_in(disk, dir)?.as_slice() {
                [log_id] if is_tied(disk, &spare, claims, *log_id)? => {
                    Some((spare.clone(), *log_id))
                }
                _ => None,
            }
        }
        (own, there) => {
            for mark in [own, there] {
                if let Mark::Damaged(error, _) = mark {
                    marks.damages.push(error);
                }
            }
            None
        }
    };
    if !marks.damages.is_empty() && tie.is_none() {
        marks.unclear = Some(format!(
            "nothing ties {there} to the log in {own}, for a mark is damaged: name the right spare directory, or, if this \
             is it, move its segments into {own} and the file {MARK_FILE} of both away",
            there = spare.display(),
            own = dir.display()
        ));
    }
    marks.given_back = tie;
    Ok(marks)
}

/// Of a directory that is looked at without another one.
fn alone(own: Mark, dir: &Path) -> Result<Marks> {
    match own {
        Mark::Absent => Ok(Marks::default()),
        Mark::Of(log_id) => Err(Error::SpareAbsent { path: dir.to_path_buf(), log_id }),
        Mark::Damaged(error, _) => Ok(Marks {
            damages: vec![error],
            given_back: None,
            unclear: Some(format!(
                "the log in {} has a spare directory, or is one, and its mark is damaged: name the spare directory \
                 (--log-spare-dir), whose own mark can mend this one",
                dir.display()
            )),
        }),
    }
}

/// Whether everything in `dir` says that it is of the log `log_id`, the damaged mark itself if nothing else.
fn is_tied(disk: &dyn Disk, dir: &Path, claims: u64, log_id: u64) -> Result<bool> {
    Ok(match logs_in(disk, dir)?.as_slice() {
        [] => claims == log_id,
        [only] => *only == log_id,
        _ => false,
    })
}

/// The logs that the segments in a directory are of, as far as their headers say so; in that directory only.
fn logs_in(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>> {
    let mut logs = Vec::new();
    for name in disk.list(dir)? {
        let is_here = SegmentId::from_file_name(&name).is_some()
            && disk.locate(dir, &name)? == dir.join(&name);
        if is_here && let Some(log_id) = log_of(disk, &dir.join(&name))? {
            logs.push(log_id);
        }
    }
    logs.sort_unstable();
    logs.dedup();
    Ok(logs)
}

/// The log that a segment's header names, if it is whole.
fn log_of(disk: &dyn Disk, path: &Path) -> Result<Option<u64>> {
    let mut bytes = [0; HEADER_LEN];
    let count = disk.open(path, OpenMode::Read)?.read_at(&mut bytes, 0)?;
    let header = SegmentHeader::decode(&bytes[..count], path).ok().flatten();
    Ok(header.map(|header| header.log_id))
}

/// Whether there are segments in `dir`, and which log the first one that says so is of.
pub(crate) fn log_in(disk: &dyn Disk, dir: &Path) -> Result<(bool, Option<u64>)> {
    let mut has_segments = false;
    for name in disk.list(dir)? {
        if SegmentId::from_file_name(&name).is_none() {
            continue;
        }
        has_segments = true;
        if let Some(log_id) = log_of(disk, &dir.join(&name))? {
            return Ok((true, Some(log_id)));
        }
    }
    Ok((has_segments, None))
}
