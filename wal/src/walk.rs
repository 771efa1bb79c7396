//! Going through a segment from group to group, over damage and on.
//!
//! Opening a log stops at the first place where no valid group stands: nothing behind it can be used.
//! Whoever wants to know all that is wrong, or to mend it, goes on: what is missing between two sound
//! groups is a [`Gap`].

use std::path::Path;

use crate::encoding::{PREAMBLE_LEN, Preamble};
use crate::envelope::Envelope;
use crate::frame::{BLOCK_LEN, GROUP_HEADER_LEN, GroupHeader, GroupRefusal};
use crate::scan::{read_group, read_loose_group};
use crate::segment::{GROUPS_START, Segment, SegmentHeader};
use crate::window::Window;
use crate::{Error, Lsn};

/// Where one is in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// Of the next group, in bytes.
    pub offset: u64,
    /// The position that belongs there.
    pub next: Lsn,
    /// The chain that belongs there.
    pub chain: u64,
}

/// What was met.
#[derive(Debug)]
pub(crate) enum Step {
    /// A sound group.
    Group(GroupHeader),
    /// Damage.
    Gap(Gap),
}

/// A stretch of a segment in which no sound group stands.
#[derive(Clone, Debug)]
pub(crate) struct Gap {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// The first position that is missing.
    pub first: Lsn,
    /// The position after the last one that is missing.
    pub end: Lsn,
    /// The header of the group that stood there, if it is whole: then its body is damaged.
    pub group: Option<GroupHeader>,
    /// What the records of that group were, if they were compressed, not encrypted, and that is whole.
    pub preamble: Option<Preamble>,
    /// With what it was encrypted, if it was and that is whole.
    pub envelope: Option<Envelope>,
    /// The chain behind it, if something sound stands there.
    pub chain_after: Option<u64>,
    /// Why there is no group.
    pub refusal: GroupRefusal,
}

impl Gap {
    /// As an error that names every position that is missing.
    pub(crate) fn error(&self, path: &Path) -> Error {
        let expected = match self.end.0 - self.first.0 {
            0 => format!("a marker before position {}", self.first),
            1 => format!("the group of position {}", self.first),
            _ => format!("the groups of the positions {} to {}", self.first, self.end.0 - 1),
        };
        let (path, offset) = (path.to_path_buf(), self.offset);
        Error::Corruption { path, offset, expected, found: self.refusal.to_string() }
    }
}

impl Walk {
    /// At the first group.
    pub(crate) fn new(header: &SegmentHeader) -> Self {
        Self { offset: GROUPS_START, next: header.first, chain: header.chain }
    }

    /// Goes to the next group, or over what is damaged up to it; none at position `end`, before which
    /// everything was durable.
    pub(crate) fn step(
        &mut self,
        segment: &Segment,
        header: &SegmentHeader,
        end: Lsn,
        window: &mut Window,
    ) -> Option<Step> {
        if self.next >= end {
            return None;
        }
        let refusal = match self.offset + BLOCK_LEN <= segment.groups_end() {
            true => match read_group(segment, header, self, window) {
                Ok(group) => {
                    self.pass(&group);
                    return Some(Step::Group(group));
                }
                Err(refusal) => refusal,
            },
            false => GroupRefusal::NotAGroup,
        };
        let gap = self.gap(segment, header, end, window, refusal);
        Some(Step::Gap(gap))
    }

    fn pass(&mut self, group: &GroupHeader) {
        self.offset = group.offset + group.len_on_disk();
        self.next = group.end();
        self.chain = group.chain_after();
    }

    /// Goes on behind what is damaged here.
    fn gap(
        &mut self,
        segment: &Segment,
        header: &SegmentHeader,
        end: Lsn,
        window: &mut Window,
        refusal: GroupRefusal,
    ) -> Gap {
        let before = *self;
        let mut gap = Gap {
            offset: before.offset,
            first: before.next,
            end,
            group: None,
            preamble: None,
            envelope: None,
            chain_after: None,
            refusal,
        };
        // A header that is whole says what its damaged body was.
        if let Some(group) = self.headed(segment, header, window) {
            self.pass(&group);
            gap.end = self.next.min(end);
            gap.chain_after = Some(self.chain);
            gap.group = Some(group);
            gap.preamble = preamble(segment, &group, window);
            gap.envelope = Envelope::of(segment, &group, window);
            return gap;
        }
        let mut offset = before.offset + BLOCK_LEN;
        while offset + BLOCK_LEN <= segment.groups_end() {
            if let Ok(group) = read_loose_group(segment, header, offset, window)
                && group.first >= before.next
                && group.first < end
            {
                *self = Self { offset, next: group.first, chain: group.chain };
                gap.end = group.first;
                gap.chain_after = Some(group.chain);
                return gap;
            }
            offset += BLOCK_LEN;
        }
        *self = Self { offset: segment.len, next: end, chain: before.chain };
        gap
    }

    /// The header here, if it is whole and in its place.
    fn headed(
        &self,
        segment: &Segment,
        header: &SegmentHeader,
        window: &mut Window,
    ) -> Option<GroupHeader> {
        let bytes = window.bytes(segment, self.offset, GROUP_HEADER_LEN);
        let group =
            GroupHeader::decode(bytes, header.log_id, header.incarnation, self.offset).ok()?;
        group.check_sequence(self.next, self.chain).ok()?;
        let room = segment.groups_end().saturating_sub(self.offset);
        (group.len_on_disk() <= room).then_some(group)
    }
}

/// What the records of a compressed group were, if that can be read.
fn preamble(segment: &Segment, group: &GroupHeader, window: &mut Window) -> Option<Preamble> {
    let bytes = window.bytes(segment, group.offset, GROUP_HEADER_LEN + PREAMBLE_LEN);
    let body =
        bytes.get(GROUP_HEADER_LEN..).filter(|_| group.is_compressed() && !group.is_encrypted())?;
    Preamble::decode(body)
}
