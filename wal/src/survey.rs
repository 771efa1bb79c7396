//! The segment files of a log at rest: which of them make up the log, and which are free.
//!
//! What is damaged here is told from what a crash leaves behind. A crash leaves spares whose first
//! header write was cut off: they have no header, and no group that is newer than all others. A segment that
//! was put to use had its header and its length, durably, before it took a group. The write of a header
//! may also have gone astray and left an old one, whole: so the first group of every segment but the
//! newest is looked at, and must not be newer than the newest header. The write that went astray may as well
//! be that of a group, and have landed on the header.
//!
//! The headers of a segment and of its first group come with one read. With its footer that is all that opening
//! reads of a sealed segment. Several files are read at once, where the disk gains from it.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use crate::core::InUse;
use crate::crew::share_out;
use crate::disk::{ALIGNMENT_MAX, Disk};
use crate::frame::{BLOCK_LEN, GROUP_HEADER_LEN, GroupHeader};
use crate::segment::{FOOTER_LEN, GROUPS_START, HEADER_LEN, Segment, SegmentHeader, SegmentId};
use crate::window::Window;
use crate::{Error, Lsn, Result};

/// Bytes that are read of the front of each file: the block of its header, and the header of its first group.
const FRONT_LEN: usize = ALIGNMENT_MAX + GROUP_HEADER_LEN;
const _: () = assert!(
    GROUPS_START == 4096 && ALIGNMENT_MAX == 4096,
    "the first group is behind the header's block"
);

/// The segment files of a directory.
pub(crate) struct Survey {
    /// Those in use, by ascending incarnation.
    pub in_use: Vec<(Segment, SegmentHeader)>,
    /// The others.
    pub spares: Vec<Segment>,
    /// Bytes that were read.
    pub bytes_read: u64,
}

/// Opens every segment file and reads its header.
pub(crate) fn survey(disk: &dyn Disk, dir: &Path) -> Result<Survey> {
    let mut in_use: Vec<(Segment, SegmentHeader)> = Vec::new();
    let mut spares = Vec::new();
    let mut damaged = Vec::new();
    let mut fronts = BTreeMap::new();
    let mut bytes_read = 0;
    let names = disk.list(dir)?;
    let ids: Vec<_> = names.iter().filter_map(|name| SegmentId::from_file_name(name)).collect();
    let found = share_out(&ids, disk.readers_max(), |id| {
        let segment = Segment::open(disk, dir, *id)?;
        let front = read_front(&segment)?;
        Ok((segment, front))
    });
    for found in found {
        let (segment, front) = found?;
        let id = segment.id;
        bytes_read += u64::try_from(front.len()).expect("it is in memory");
        let header = SegmentHeader::decode(&front[..front.len().min(HEADER_LEN)], &segment.path);
        fronts.insert(id, front.get(ALIGNMENT_MAX..).map(<[u8]>::to_vec));
        match header {
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
    check_incarnations(&in_use)?;
    let newest = in_use.last().map(|(_, header)| (header.log_id, header.incarnation));
    if newest.is_some() {
        let older = in_use.iter().rev().skip(1).map(|(segment, _)| segment);
        for segment in spares.iter().chain(older) {
            if let Some(Some(group)) = fronts.get(&segment.id) {
                check_block(segment, GROUPS_START, group, newest, &mut None)?;
                continue;
            }
            // It did not come with the header. One block: opening reads as much as there are segments, not as
            // they are long.
            let mut window = Window::of_len(ALIGNMENT_MAX);
            let group = window.bytes(segment, GROUPS_START, GROUP_HEADER_LEN);
            check_block(segment, GROUPS_START, group, newest, &mut None)?;
            bytes_read += window.bytes_read;
        }
    }
    for (segment, mut error) in damaged {
        bytes_read += check_unheaded(&segment, newest, &mut error)?;
        spares.push(segment);
    }
    Ok(Survey { in_use, spares, bytes_read })
}

/// The front of a file, or what there is of it.
fn read_front(segment: &Segment) -> Result<Vec<u8>> {
    let mut bytes = vec![0; FRONT_LEN];
    let count = match segment.file.read_at(&mut bytes, 0) {
        Ok(count) => count,
        // If it is the first group that cannot be read, that hides no header.
        Err(_) => segment.file.read_at(&mut bytes[..HEADER_LEN], 0)?,
    };
    bytes.truncate(count);
    Ok(bytes)
}

/// An incarnation is given once. A file that has it twice is a copy, or a header that went astray.
fn check_incarnations(in_use: &[(Segment, SegmentHeader)]) -> Result<()> {
    let twice = in_use.windows(2).find(|pair| pair[0].1.incarnation == pair[1].1.incarnation);
    let Some([(_, header), (segment, _)]) = twice else { return Ok(()) };
    Err(Error::Corruption {
        path: segment.path.clone(),
        offset: 0,
        expected: "an incarnation that no other segment has".into(),
        found: format!("incarnation {} for the second time", header.incarnation),
    })
}

/// A segment without a valid header is a spare that was being put to use, or old and reused by
/// nobody, unless it holds a group that is newer than all others: then its header was lost. Every
/// block is looked at, for what took the header may have taken the first groups with it. Returns how
/// many bytes were read.
fn check_unheaded(
    segment: &Segment,
    newest: Option<(u64, u64)>,
    error: &mut Option<Error>,
) -> Result<u64> {
    let mut window = Window::new();
    let mut offset = 0;
    while offset < segment.len {
        let bytes = window.bytes(segment, offset, GROUP_HEADER_LEN);
        check_block(segment, offset, bytes, newest, error)?;
        offset += BLOCK_LEN;
    }
    Ok(window.bytes_read)
}

/// A block that holds a group newer than the newest header proves that a header was lost: groups are
/// written only when the header of their segment is durable. Then `error` is the reason, if there is
/// one.
fn check_block(
    segment: &Segment,
    offset: u64,
    bytes: &[u8],
    newest: Option<(u64, u64)>,
    error: &mut Option<Error>,
) -> Result<()> {
    let Some(bytes) = bytes.first_chunk() else { return Ok(()) };
    let incarnation = crate::frame::u64_at(bytes, 8);
    let is_needed = match newest {
        Some((log_id, last)) => {
            incarnation > last && GroupHeader::decode_astray(bytes, log_id).is_some()
        }
        // Nothing else tells whether this was the log: when in doubt it was.
        None => GroupHeader::is_likely(bytes, offset),
    };
    if !is_needed {
        return Ok(());
    }
    Err(error.take().unwrap_or_else(|| Error::Corruption {
        path: segment.path.clone(),
        offset: 0,
        expected: format!("the header of a segment of incarnation {incarnation}"),
        found: "none, or an older one".into(),
    }))
}

/// A segment has its length, durably, before it is put to use.
fn check_len(segment: &Segment, header: &SegmentHeader) -> Result<()> {
    if segment.len == header.len {
        return Ok(());
    }
    Err(Error::Corruption {
        path: segment.path.clone(),
        offset: segment.len.min(header.len),
        expected: format!("a segment of {} bytes", header.len),
        found: format!("a file of {} bytes", segment.len),
    })
}

/// Which segments make up the log, oldest first; and which are free again. Each header names the segment
/// that it continues: one that is missing between two others is missed. Where their groups stand is
/// taken from their footers.
pub(crate) fn arrange(
    disk: &dyn Disk,
    survey: &mut Survey,
    newest: SegmentHeader,
) -> Result<(VecDeque<Arc<InUse>>, Vec<Segment>)> {
    // Each with the header of the one behind it, newest first.
    let mut continued = Vec::new();
    let mut free = survey.spares.clone();
    let mut next = newest;
    if let Some((active, header)) = survey.in_use.last() {
        check_len(active, header)?;
    }
    for (segment, header) in survey.in_use.iter().rev().skip(1) {
        let is_trimmed = next.first.0 <= newest.trimmed.0 + 1;
        let is_continued = header.incarnation == next.previous && header.first < next.first;
        if is_trimmed || !is_continued {
            free.push(segment.clone());
            continue;
        }
        check_len(segment, header)?;
        continued.push((segment.clone(), *header, next));
        next = *header;
    }
    let SegmentHeader { first: end, previous, .. } = next;
    if end.0 > newest.trimmed.0 + 1 {
        let path = survey.in_use.last().map(|(segment, _)| segment.path.clone());
        return Err(Error::Corruption {
            path: path.unwrap_or_default(),
            offset: 0,
            expected: format!(
                "the segment of incarnation {previous} with the positions up to {}, behind the trimmed \
                 position {}",
                end.0 - 1,
                newest.trimmed
            ),
            found: "no such file in its directory".into(),
        });
    }
    let offsets = share_out(&continued, disk.readers_max(), |(segment, header, next)| {
        places(segment, header, next)
    });
    let mut sealed = VecDeque::new();
    for ((segment, header, next), offsets) in continued.into_iter().zip(offsets) {
        survey.bytes_read += FOOTER_LEN;
        sealed.push_front(Arc::new(InUse::new(segment, header, offsets, Some(next.first))));
    }
    Ok((sealed, free))
}

/// Where groups stand in a segment that `next` continues, as far as its footer says; only those that count.
fn places(segment: &Segment, header: &SegmentHeader, next: &SegmentHeader) -> Vec<(Lsn, u64)> {
    let footer = segment.read_footer().filter(|footer| footer.is_of(header, next));
    let mut places = footer.map(|footer| footer.places).unwrap_or_default();
    places.retain(|(first, offset)| *first < next.first && *offset < segment.groups_end());
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{OpenMode, SimulatedDisk};
    use crate::{Options, Wal};

    const DIR: &str = "/log";

    fn open(disk: &Arc<SimulatedDisk>) -> Result<Wal> {
        let options = Options { segment_size: 64 << 10, background: false, ..Options::default() };
        Ok(Wal::open(Arc::clone(disk) as _, Path::new(DIR), options)?.0)
    }

    /// A closed log of two segments, of which the second voids the end of the first; and the path of
    /// the second.
    fn truncated() -> (Arc<SimulatedDisk>, std::path::PathBuf) {
        let disk = SimulatedDisk::new(1);
        let wal = open(&disk).unwrap();
        for _ in 0..4 {
            let lsn = wal.append(b"void").unwrap();
            wal.wait(lsn).unwrap();
        }
        wal.truncate(Lsn(2)).unwrap();
        for _ in 0..4 {
            let lsn = wal.append(b"true").unwrap();
            wal.wait(lsn).unwrap();
        }
        wal.close().unwrap();
        drop(wal);
        let survey = survey(&*disk, Path::new(DIR)).unwrap();
        let (newest, _) = survey.in_use.last().unwrap();
        (disk, newest.path.clone())
    }

    /// Damage to the first 8 KiB of the newest segment took its header and its first group. The log
    /// opened without a word: acknowledged records were gone, and truncated ones were back.
    #[test]
    fn a_header_that_was_lost_with_the_first_group_is_missed() {
        let (disk, path) = truncated();
        disk.corrupt(&path, 0, &[0; 4096]);
        let cut_off = disk.fork(1);
        disk.corrupt(&path, 4096, &[0; 4096]);
        assert!(matches!(open(&disk), Err(Error::Corruption { .. })));
        let content = cut_off.visible_content(&path).unwrap();
        cut_off.remove(&path).unwrap();
        let file = cut_off.open(&path, OpenMode::Create).unwrap();
        file.write_at(&content[..4200], 0).unwrap();
        assert!(matches!(open(&cut_off), Err(Error::Corruption { .. })), "and cut off");
        let alone = SimulatedDisk::new(1);
        alone.create_dir_all(Path::new(DIR)).unwrap();
        let file = alone.open(&path, OpenMode::Create).unwrap();
        file.write_at(&disk.visible_content(&path).unwrap(), 0).unwrap();
        assert!(matches!(open(&alone), Err(Error::Corruption { .. })), "no other segment is there");
    }

    /// A segment that was cut off between two groups read as the end of the log.
    #[test]
    fn a_segment_that_was_cut_off_is_damaged() {
        let (disk, path) = truncated();
        let content = disk.visible_content(&path).unwrap();
        disk.remove(&path).unwrap();
        let file = disk.open(&path, OpenMode::Create).unwrap();
        file.write_at(&content[..8192], 0).unwrap();
        assert!(matches!(open(&disk), Err(Error::Corruption { .. })));
        let verified = crate::verify(&*disk, Path::new(DIR)).unwrap();
        assert_eq!(verified.damages.len(), 1);
    }
}
