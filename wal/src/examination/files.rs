//! The files of a log at rest: which have a header, and which can be given theirs back.

use std::path::Path;

use super::Examination;
use crate::disk::{ALIGNMENT_MAX, Disk};
use crate::frame::{BLOCK_LEN, GROUP_HEADER_LEN, GroupHeader};
use crate::scan::{read_group, scan};
use crate::segment::{GROUPS_START, Segment, SegmentHeader, SegmentId};
use crate::walk::Walk;
use crate::window::Window;
use crate::{Error, Lsn, Result};

/// The files of a directory, by what their headers say.
#[derive(Default)]
pub(super) struct Files {
    /// In use, by ascending incarnation; whether the header was given back.
    pub headed: Vec<(Segment, SegmentHeader, bool)>,
    pub spares: Vec<Segment>,
    /// Those whose header says nothing: why, and whether it is that of another file.
    pub unheaded: Vec<(Segment, Option<Error>, bool)>,
}

impl Files {
    pub(super) fn read(disk: &dyn Disk, dir: &Path, found: &mut Examination) -> Result<Files> {
        let mut files = Files::default();
        for name in disk.list(dir)? {
            let Some(id) = SegmentId::from_file_name(&name) else { continue };
            found.id_max = found.id_max.max(id.0);
            let segment = Segment::open(disk, dir, id)?;
            // Once more: what fails for a moment is no damage.
            let header = match segment.read_header() {
                Err(Error::Io { .. }) => segment.read_header(),
                header => header,
            };
            match header {
                Ok(Some(header)) if header.in_use => files.headed.push((segment, header, false)),
                Ok(Some(_)) => files.spares.push(segment),
                Ok(None) => files.unheaded.push((segment, None, false)),
                Err(error @ (Error::Corruption { .. } | Error::Io { .. })) => {
                    files.unheaded.push((segment, Some(error), false));
                }
                Err(error) => return Err(error),
            }
        }
        files.headed.sort_by_key(|(_, header, _)| header.incarnation);
        found.incarnation = files.headed.last().map_or(0, |(_, header, _)| header.incarnation);
        Ok(files)
    }

    /// Of files with one incarnation the one counts whose first group agrees with its header.
    pub(super) fn part_twins(&mut self, found: &mut Examination, window: &mut Window) {
        let mut at = 0;
        while at + 1 < self.headed.len() {
            let (one, other) = (&self.headed[at], &self.headed[at + 1]);
            if one.1.incarnation != other.1.incarnation {
                at += 1;
                continue;
            }
            let error = Error::Corruption {
                path: other.0.path.clone(),
                offset: 0,
                expected: "an incarnation that no other segment has".into(),
                found: format!("incarnation {} for the second time", other.1.incarnation),
            };
            let mut agrees = |at: &(Segment, SegmentHeader, bool)| {
                read_group(&at.0, &at.1, &Walk::new(&at.1), window).is_ok()
            };
            let (first, second) = (agrees(one), agrees(other));
            if first == second {
                found.unclear = Some(format!(
                    "{} and {} claim to be the same segment: move one of them away",
                    one.0.path.display(),
                    other.0.path.display()
                ));
            }
            let (segment, ..) = self.headed.remove(if first { at + 1 } else { at });
            self.unheaded.push((segment, Some(error), true));
        }
    }

    /// A file whose first group is newer than all headers has an old header, which landed there or was
    /// never replaced.
    pub(super) fn set_aside_old_headers(&mut self, newest: SegmentHeader, found: &mut Examination) {
        let mut is_newer = |segment: &Segment| {
            let group = GroupHeader::decode_astray(&first_group(segment), newest.log_id);
            let incarnation = group.map_or(0, |group| group.incarnation);
            found.incarnation = found.incarnation.max(incarnation);
            incarnation > newest.incarnation
        };
        let old = self.spares.extract_if(.., |segment| is_newer(segment)).collect::<Vec<_>>();
        let others = self.headed.extract_if(.., |(segment, header, _)| {
            header.incarnation != newest.incarnation && is_newer(segment)
        });
        let others = others.map(|(segment, ..)| segment).collect::<Vec<_>>();
        self.unheaded.extend(old.into_iter().chain(others).map(|segment| (segment, None, false)));
    }

    /// Gives files their headers back that are needed: those newer than all others, and those that
    /// others continue.
    pub(super) fn give_back_headers(
        &mut self,
        newest: SegmentHeader,
        found: &mut Examination,
        window: &mut Window,
    ) {
        let mut lost: Vec<_> = std::mem::take(&mut self.unheaded)
            .into_iter()
            .map(|(segment, error, is_twin)| {
                let groups = loose_groups(&segment, newest.log_id, window);
                (segment, error, is_twin, groups)
            })
            .collect();
        lost.sort_by_key(|(.., groups)| groups.iter().map(|group| group.incarnation).max());
        for (segment, error, is_twin, groups) in lost {
            let incarnation = groups.iter().map(|group| group.incarnation).max().unwrap_or(0);
            found.incarnation = found.incarnation.max(incarnation);
            // A header that is newer and names one that is older passes it by: it was truncated.
            let is_passed_by = self.headed.iter().any(|(_, header, is_given_back)| {
                header.incarnation > incarnation && header.previous < incarnation && !is_given_back
            });
            let is_there = self.headed.iter().any(|one| one.1.incarnation == incarnation);
            let is_trimmed = groups.iter().all(|group| group.end().0 <= newest.trimmed.0 + 1);
            if incarnation == 0 || is_there || is_trimmed || is_passed_by {
                // What cannot be read stands in the way, and so does a header that is another one's.
                let is_in_the_way = is_twin || matches!(error, Some(Error::Io { .. }));
                if is_in_the_way {
                    found.damages.extend(error);
                    found.away.push(segment);
                }
                continue;
            }
            found.damages.push(error.unwrap_or_else(|| Error::Corruption {
                path: segment.path.clone(),
                offset: 0,
                expected: format!("the header of a segment of incarnation {incarnation}"),
                found: "none, or an older one".into(),
            }));
            match self.header_of(&segment, incarnation, newest, window) {
                Some(header) => {
                    let at = self.headed.partition_point(|one| one.1.incarnation < incarnation);
                    self.headed.insert(at, (segment, header, true));
                }
                None => {
                    let ends = groups.iter().filter(|group| group.incarnation == incarnation);
                    let end = ends.map(GroupHeader::end).max().unwrap_or(Lsn(1));
                    found.seen = found.seen.max(end);
                    found.unplaced.push((incarnation, segment));
                }
            }
        }
    }

    /// The header that a file had, if its first group is there to say so.
    fn header_of(
        &self,
        segment: &Segment,
        incarnation: u64,
        newest: SegmentHeader,
        window: &mut Window,
    ) -> Option<SegmentHeader> {
        let bytes = first_group(segment);
        let group = GroupHeader::decode(&bytes, newest.log_id, incarnation, GROUPS_START).ok()?;
        let (first, chain) = (group.first, group.chain);
        if first.0 <= newest.trimmed.0 && incarnation > newest.incarnation {
            return None;
        }
        let len = segment.len.max(newest.len);
        let trimmed = newest.trimmed.min(Lsn(first.0 - 1));
        let mut header = SegmentHeader {
            in_use: true,
            log_id: newest.log_id,
            incarnation,
            first,
            chain,
            len,
            trimmed,
            previous: 0,
        };
        let before = self.headed.iter().rev();
        let mut before =
            before.filter(|one| one.1.incarnation < incarnation && one.1.first < first);
        let proven = before.find(|(segment, header, _)| {
            let scan = scan(segment, header, Some(first), window);
            scan.next >= first && scan.chain == chain
        });
        header.previous = proven.map_or(0, |(_, one, _)| one.incarnation);
        Some(header)
    }
}

/// What stands where the header of the first group belongs. One block is read for it.
pub(super) fn first_group(segment: &Segment) -> Vec<u8> {
    Window::of_len(ALIGNMENT_MAX).bytes(segment, GROUPS_START, GROUP_HEADER_LEN).to_vec()
}

/// The headers of the groups of this log that a file holds, whatever stands around them, and whichever
/// place they name.
pub(super) fn loose_groups(
    segment: &Segment,
    log_id: u64,
    window: &mut Window,
) -> Vec<GroupHeader> {
    let mut groups = Vec::new();
    let mut offset = 0;
    while offset < segment.len {
        let bytes = window.bytes(segment, offset, GROUP_HEADER_LEN);
        groups.extend(GroupHeader::decode_astray(bytes, log_id));
        offset += BLOCK_LEN;
    }
    groups
}
