//! Where the next record goes: into the group being filled, a new group, or a new segment.
//!
//! The plan runs ahead of the disk, so that an append is refused for lack of space before it is
//! accepted, and never after. It is a few numbers, cheap to copy: a batch is tried on a copy first.

use crate::Options;
use crate::frame::{BLOCK_LEN, GROUP_HEADER_LEN};

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Into the group being filled.
    Extend,
    /// It opens a group in the same segment.
    NewGroup,
    /// It opens a group that opens a segment.
    NewSegment,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Bytes of the group being filled, with its header; 0 if there is none.
    group_len: u64,
    /// Bytes left in the segment behind that group, whole blocks.
    room: u64,
    /// Groups do not grow beyond this.
    group_size_max: u64,
    /// Room of an empty segment.
    segment_room: u64,
    /// Bytes of a group before its records.
    head_len: u64,
}

impl Plan {
    /// No group yet, `room` bytes left in the segment.
    pub(crate) fn new(room: u64, options: &Options, segment_room: u64) -> Self {
        let group_size_max = u64::try_from(options.group_size_max).unwrap_or(u64::MAX);
        let head_len = GROUP_HEADER_LEN + options.envelope_len();
        let head_len = u64::try_from(head_len).expect("small constants");
        let room = room - room % BLOCK_LEN;
        Self { group_len: 0, room, group_size_max, segment_room, head_len }
    }

    /// Decides where a record of `len` bytes (with its header) goes.
    pub(crate) fn place(&mut self, len: usize) -> Placement {
        let len = u64::try_from(len).expect("it is in memory");
        if self.group_len > 0 && self.group_len + len <= self.group_size_max {
            let grown = self.group_len + len;
            let blocks =
                grown.next_multiple_of(BLOCK_LEN) - self.group_len.next_multiple_of(BLOCK_LEN);
            if blocks <= self.room {
                self.room -= blocks;
                self.group_len = grown;
                return Placement::Extend;
            }
        }
        let size = (self.head_len + len).next_multiple_of(BLOCK_LEN);
        self.group_len = self.head_len + len;
        if size <= self.room {
            self.room -= size;
            return Placement::NewGroup;
        }
        assert!(size <= self.segment_room, "a record's size is bounded by the segment's");
        self.room = self.segment_room - size;
        Placement::NewSegment
    }

    /// The next record opens a group.
    pub(crate) fn close_group(&mut self) {
        self.group_len = 0;
    }

    /// An empty segment has been opened.
    pub(crate) fn begin_segment(&mut self) {
        self.group_len = 0;
        self.room = self.segment_room;
    }

    /// As many bytes, whole blocks, are free after all.
    pub(crate) fn give_back(&mut self, len: u64) {
        debug_assert!(len.is_multiple_of(BLOCK_LEN), "groups take whole blocks");
        self.room += len;
    }

    /// Nothing is planned yet, and `room` bytes are left in the segment.
    pub(crate) fn begin_at(&mut self, room: u64) {
        self.group_len = 0;
        self.room = room - room % BLOCK_LEN;
    }

    /// The next record opens a segment.
    pub(crate) fn end_segment(&mut self) {
        self.group_len = 0;
        self.room = 0;
    }

    /// Takes a block for a marker, if there is one.
    pub(crate) fn place_marker(&mut self) -> bool {
        assert_eq!(self.group_len, 0, "markers are written when nothing is pending");
        let fits = self.has_room(BLOCK_LEN);
        if fits {
            self.room -= BLOCK_LEN;
        }
        fits
    }

    /// Whether this many bytes are left in the segment.
    pub(crate) fn has_room(&self, len: u64) -> bool {
        self.room >= len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_groups_then_segments() {
        let options = Options { group_size_max: 4096, ..Options::default() };
        let mut plan = Plan::new(8192, &options, 16384);
        assert_eq!(plan.place(1000), Placement::NewGroup);
        assert_eq!(plan.place(1000), Placement::Extend);
        assert_eq!(plan.place(3000), Placement::NewGroup, "over the group's size");
        assert_eq!(plan.place(2000), Placement::NewSegment);
        plan.close_group();
        assert!(plan.place_marker());
        plan.end_segment();
        assert!(!plan.has_room(1));
        assert_eq!(plan.place(10), Placement::NewSegment);
    }
}
