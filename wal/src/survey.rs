//! The segment files of a directory, told apart by their headers.
//!
//! A header may be missing: a spare whose preparation was cut off. It may also be lost, by damage or
//! because its write went astray; then records would be lost in silence. So the first group of every
//! segment but the newest is looked at: it must not be newer than the newest header.

use std::path::Path;

use crate::disk::Disk;
use crate::frame::{GROUP_HEADER_LEN, GroupHeader, u64_at};
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
    let mut first_groups = Vec::new();
    for name in disk.list(dir)? {
        let Some(id) = SegmentId::from_file_name(&name) else { continue };
        let segment = Segment::open(disk, dir, id)?;
        let head = read_head(&segment)?;
        let group = head.get(GROUPS_AT..).unwrap_or(&[]);
        match SegmentHeader::decode(&head, &segment.path) {
            Ok(Some(header)) if header.in_use => {
                first_groups.push((segment.path.clone(), group.to_vec()));
                in_use.push((segment, header));
            }
            Ok(Some(_)) => {
                first_groups.push((segment.path.clone(), group.to_vec()));
                spares.push(segment);
            }
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
    for (path, group) in &first_groups {
        // A header that is whole may be an old one: the write of the new one went astray.
        check_group(path, group, newest, None)?;
    }
    for (segment, error) in damaged {
        let mut group = [0; GROUP_HEADER_LEN];
        let count = segment.file.read_at(&mut group, GROUPS_START)?;
        let is_whole = count == GROUP_HEADER_LEN;
        if newest.is_none() && is_whole && GroupHeader::is_likely(&group, GROUPS_START) {
            // Nothing else tells whether this was the log: when in doubt it was.
            return Err(error.unwrap_or_else(|| lost_header(&segment.path, &group)));
        }
        check_group(&segment.path, &group[..count], newest, error)?;
        spares.push(segment);
    }
    Ok(Survey { in_use, spares })
}

/// Where the first group stands in what [`read_head`] reads.
const GROUPS_AT: usize = crate::disk::ALIGNMENT_MAX;

/// The block with the header, and the header of the first group; only the header's block if the next
/// one cannot be read, because a block that went bad is for those to find who need it.
fn read_head(segment: &Segment) -> Result<Vec<u8>> {
    let mut head = vec![0; GROUPS_AT + GROUP_HEADER_LEN];
    let count = match segment.file.read_at(&mut head, 0) {
        Ok(count) => count,
        Err(_) => segment.file.read_at(&mut head[..GROUPS_AT], 0)?,
    };
    head.truncate(count);
    Ok(head)
}

/// A segment whose header is not valid, or older than the newest, is a spare whose preparation was cut
/// off, or old, unless its first group is newer than all others: then its header was lost, because
/// groups are written only when the header is durable.
fn check_group(
    path: &Path,
    group: &[u8],
    newest: Option<(u64, u64)>,
    error: Option<Error>,
) -> Result<()> {
    let (Some((log_id, last)), true) = (newest, group.len() >= GROUP_HEADER_LEN) else {
        return Ok(());
    };
    let incarnation = u64_at(group, 8);
    let is_valid = GroupHeader::decode(group, log_id, incarnation, GROUPS_START).is_ok();
    match is_valid && incarnation > last {
        true => Err(error.unwrap_or_else(|| lost_header(path, group))),
        false => Ok(()),
    }
}

fn lost_header(path: &Path, group: &[u8]) -> Error {
    Error::Corruption {
        path: path.to_path_buf(),
        offset: 0,
        expected: format!("the header of a segment of incarnation {}", u64_at(group, 8)),
        found: "none, or an older one".into(),
    }
}
