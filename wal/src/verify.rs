//! Reading every checksum of a log that is not open.

use std::path::Path;

use crate::disk::Disk;
use crate::recovery::scan;
use crate::survey::{arrange, survey};
use crate::walk::{Step, Walk};
use crate::window::Window;
use crate::{Error, Lsn, Result};

/// What a verification found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Verification {
    /// Segments that make up the log.
    pub segments: usize,
    /// Groups with records, all of whose checksums are right.
    pub groups: usize,
    /// First position held; 0 in an empty directory.
    pub first: Lsn,
    /// Last position that can be read.
    pub last: Lsn,
    /// Everything that is damaged.
    pub damages: Vec<Error>,
}

/// Reads the log in `dir` from front to back without opening or changing it.
///
/// # Errors
///
/// If the directory cannot be read, or is foreign or newer. Damage is not an error but a finding.
pub fn verify(disk: &dyn Disk, dir: &Path) -> Result<Verification> {
    let mut report = Verification::default();
    let survey = match survey(disk, dir) {
        Ok(survey) => survey,
        Err(error @ Error::Corruption { .. }) => {
            report.damages.push(error);
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let Some((active, newest)) = survey.in_use.last().cloned() else { return Ok(report) };
    let sealed = match arrange(&survey, newest) {
        Ok((sealed, _)) => sealed,
        Err(error) => {
            report.damages.push(error);
            return Ok(report);
        }
    };
    let mut window = Window::new();
    report.first = sealed.front().map_or(newest.first, |oldest| oldest.header.first);
    report.segments = sealed.len() + 1;
    for in_use in &sealed {
        let end = in_use.end.expect("a sealed segment has an end");
        let mut walk = Walk::new(&in_use.header);
        while let Some(step) = walk.step(&in_use.segment, &in_use.header, end, &mut window) {
            match step {
                Step::Group(group) => report.groups += usize::from(group.count > 0),
                Step::Gap(gap) => {
                    let path = &in_use.segment.path;
                    if let Some(error) = gap.refusal.not_understood(path, gap.offset) {
                        return Err(error);
                    }
                    report.damages.push(gap.error(path));
                }
            }
        }
    }
    let found = scan(&active, &newest, None, &mut window);
    report.groups += found.offsets.len();
    if let Some(error) = found.not_understood(&active.path) {
        return Err(error);
    }
    report.last = Lsn(found.next.0 - 1);
    if let Some((offset, claim)) = found.claim {
        report.damages.push(Error::Corruption {
            path: active.path,
            offset: found.end_offset,
            expected: format!(
                "the group of position {}: the group at offset {offset} says that all up to \
                 {claim} was durable",
                found.next
            ),
            found: found.refusal.map_or("the segment's end".into(), |refusal| refusal.to_string()),
        });
    }
    Ok(report)
}
