//! Reading every checksum of a log that is not open.

use std::path::Path;

use crate::disk::Disk;
use crate::examination::examine;
use crate::recovery::Tail;
use crate::{Error, Lsn, Result};

/// What a verification found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verification {
    /// Segments that make up the log.
    pub segments: usize,
    /// Groups with records, all of whose checksums are right.
    pub groups: usize,
    /// How many of them are encrypted: it takes their key to say that their records are in order, and no key is
    /// asked for here.
    pub encrypted: usize,
    /// Sealed segments whose footer is whole and agrees with their groups. A log needs none.
    pub footers: usize,
    /// First position held; 0 in an empty directory.
    pub first: Lsn,
    /// Last position that can be read.
    pub last: Lsn,
    /// Everything that is damaged.
    pub damages: Vec<Error>,
    /// The end of the log. A suspect one is no damage: it is what a crash leaves behind, and the
    /// log opens with it.
    pub tail: Tail,
}

/// Reads the log in `dir` from front to back without opening or changing it. Nothing ends it early: behind
/// a segment that is gone or a header that is damaged it goes on with what is there.
///
/// # Errors
///
/// If the directory cannot be read, or holds something that another program wrote. Damage is not an
/// error but a finding.
pub fn verify(disk: &dyn Disk, dir: &Path) -> Result<Verification> {
    let mut report = Verification {
        segments: 0,
        groups: 0,
        encrypted: 0,
        footers: 0,
        first: Lsn(0),
        last: Lsn(0),
        damages: Vec::new(),
        tail: Tail::Clean,
    };
    let Some(found) = examine(disk, dir)? else { return Ok(report) };
    report.segments = found.parts.len();
    report.groups = found.groups;
    report.encrypted = found.encrypted;
    report.footers = found.footers;
    if let (Some(oldest), Some(newest)) = (found.parts.first(), found.parts.last()) {
        report.first = oldest.header.first;
        report.last = Lsn(newest.end.0 - 1);
    }
    report.damages = found.damages;
    report.tail = found.tail;
    Ok(report)
}
