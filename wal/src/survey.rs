//! The segment files of a directory, told apart by their headers.
//!
//! A header may be missing: a spare whose preparation was cut off. It may also be lost, by damage or
//! because its write went astray; then records would be lost in silence. So the first group of every
//! segment but the newest is looked at: it must not be newer than the newest header.

use std::path::Path;

use crate::disk::Disk;
use crate::frame::{GROUP_HEADER_LEN, GroupHeader};
use crate::segment::{GROUPS_START, Segment, SegmentHeader, SegmentId};
use crate::{Error, Result};

/// The segment files of a directory.
pub(crate) struct Survey {
    /// Those in use, by ascending incarnation.
    pub in_use: Vec<(Segment, SegmentHeader)>,
    /// The others.
    pub spares: Vec<Segment>,
}

/// Opens every segment file and reads its header.
pub(crate) fn survey(disk: &dyn Disk, dir: &Path) -> Result<Survey> {
    let mut in_use: Vec<(Segment, SegmentHeader)> = Vec::new();
    let mut spares = Vec::new();
    let mut damaged = Vec::new();
    for name in disk.list(dir)? {
        let Some(id) = SegmentId::from_file_name(&name) else { continue };
        let segment = Segment::open(disk, dir, id)?;
        match segment.read_header() {
            Ok(Some(header)) if header.in_use => in_use.push((segment, header)),
            Ok(Some(_)) => spares.push(segment),
            Ok(None) => damaged.push((segment, None)),
            Err(error @ Error::Corruption { .. }) => damaged.push((segment, Some(error))),
            Err(error) => return Err(error),
        }
    }
    in_use.sort_by_key(|(_, header)| header.incarnation);
    if let Some(((_, newest), older)) = in_use.split_last()
        && let Some((segment, other)) = older.iter().find(|(_, h)| h.log_id != newest.log_id)
    {
        return Err(Error::Foreign {
            path: segment.path.clone(),
            expected: format!("a segment of log {:016x}", newest.log_id),
            found: format!("one of log {:016x}", other.log_id),
        });
    }
    let newest = in_use.last().map(|(_, header)| (header.log_id, header.incarnation));
    if newest.is_some() {
        // A header that is whole may be an old one: the write of the new one went astray.
        let older = in_use.iter().rev().skip(1).map(|(segment, _)| segment);
        for segment in spares.iter().chain(older) {
            check_header(segment, newest, None)?;
        }
    }
    for (segment, error) in damaged {
        check_header(&segment, newest, error)?;
        spares.push(segment);
    }
    Ok(Survey { in_use, spares })
}

/// A segment whose header is not valid, or older than the newest, is a spare whose preparation was cut
/// off, or old, unless it holds groups that are newer than all others: then its header was lost, because
/// groups are written only when the header is durable.
fn check_header(segment: &Segment, newest: Option<(u64, u64)>, error: Option<Error>) -> Result<()> {
    let mut bytes = [0; GROUP_HEADER_LEN];
    if segment.file.read_at(&mut bytes, GROUPS_START)? < GROUP_HEADER_LEN {
        return Ok(());
    }
    let incarnation = crate::frame::u64_at(&bytes, 8);
    let is_needed = match newest {
        Some((log_id, last)) => {
            let group = GroupHeader::decode(&bytes, log_id, incarnation, GROUPS_START);
            group.is_ok() && incarnation > last
        }
        // Nothing else tells whether this was the log: when in doubt it was.
        None => GroupHeader::is_likely(&bytes, GROUPS_START),
    };
    if !is_needed {
        return Ok(());
    }
    Err(error.unwrap_or_else(|| Error::Corruption {
        path: segment.path.clone(),
        offset: 0,
        expected: format!("the header of a segment of incarnation {incarnation}"),
        found: "none, or an older one".into(),
    }))
}
