//! Reading ahead in the active segment.
//!
//! The active segment is never mapped, and its file is often opened past the system's cache, so each
//! read is a transfer of the disk. Small groups would cost two each. So a reader that goes from group to
//! group takes in a stretch of the file at once, twice as long each time up to [`LEN_MAX`].
//!
//! The segment grows while it is read: a stretch is only good for groups that were durable *before* it
//! was taken in. What lies behind may have been half written then.

use std::ops::Range;
use std::sync::Arc;

use crate::Lsn;
use crate::disk::File;
use crate::frame::{GROUP_HEADER_LEN, GroupHeader};
use crate::segment::SegmentHeader;

/// How much is taken in first, in bytes: a reader of one record should not pay for many.
const LEN_MIN: usize = 16 << 10;
/// How much is taken in at the most, in bytes: most groups fit, as they are sealed at this size.
const LEN_MAX: usize = 1 << 20;

/// A stretch of the active segment.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Of which use of the segment file it is.
    incarnation: u64,
    /// Offset of `bytes` in the segment.
    start: u64,
    bytes: Arc<Vec<u8>>,
    /// What was durable before it was taken in.
    durable: Lsn,
}

impl Ahead {
    /// A stretch that begins at `offset`, longer than the one before if there is one. None if it
    /// cannot be read as a whole: then each group is read by itself.
    pub(crate) fn read(
        before: Option<Ahead>,
        file: &dyn File,
        header: &SegmentHeader,
        offset: u64,
        durable: Lsn,
    ) -> Option<Ahead> {
        let before = before.filter(|before| before.incarnation == header.incarnation);
        let len = before.map_or(LEN_MIN, |before| (2 * before.bytes.len()).min(LEN_MAX));
        let left = usize::try_from(header.len.saturating_sub(offset)).unwrap_or(LEN_MAX);
        let mut bytes = vec![0; len.min(left)];
        let count = file.read_at(&mut bytes, offset).ok()?;
        bytes.truncate(count);
        let bytes = Arc::new(bytes);
        Some(Ahead { incarnation: header.incarnation, start: offset, bytes, durable })
    }

    /// The group at `offset`, which was durable if `next` was: its header, and where its body lies.
    /// None if it does not lie here as a whole and valid; reading it by itself tells why.
    pub(crate) fn group(
        &self,
        header: &SegmentHeader,
        offset: u64,
        next: Lsn,
    ) -> Option<(GroupHeader, Range<usize>)> {
        if self.incarnation != header.incarnation || next > self.durable {
            return None;
        }
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let bytes = self.bytes.get(at..)?;
        let group = GroupHeader::decode(bytes, header.log_id, header.incarnation, offset).ok()?;
        let body_len = usize::try_from(group.body_len).ok()?;
        let body = bytes.get(GROUP_HEADER_LEN..)?.get(..body_len)?;
        group.check_body(body).ok()?;
        let from = at + GROUP_HEADER_LEN;
        Some((group, from..from + body_len))
    }

    /// The memory that bodies lie in.
    pub(crate) fn bytes(&self) -> Arc<Vec<u8>> {
        self.bytes.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::disk::{Disk, OpenMode};

    const BLOCK: usize = 4096;

    fn header(incarnation: u64) -> SegmentHeader {
        SegmentHeader {
            in_use: true,
            log_id: 5,
            incarnation,
            first: Lsn(1),
            chain: 0,
            len: 4 << 20,
            trimmed: Lsn(0),
            previous: 0,
        }
    }

    /// Groups of one byte each, one a block, from the second block on.
    fn file(count: u64) -> Arc<dyn File> {
        let disk = SimulatedDisk::new(1);
        let file = disk.open(Path::new("/segment"), OpenMode::Create).unwrap();
        file.write_at(&vec![0; 4 << 20], 0).unwrap();
        for number in 1..=count {
            let offset = number * 4096;
            let group = GroupHeader {
                flags: 0,
                incarnation: 1,
                offset,
                first: Lsn(number),
                count: 1,
                body_len: 1,
                durable: Lsn(number - 1),
                chain: 0,
                body_crc: crc32fast::hash(&[7]),
            };
            file.write_at(&group.encode(5), offset).unwrap();
            file.write_at(&[7], offset + 64).unwrap();
        }
        file
    }

    #[test]
    fn only_what_was_durable_before_is_given() {
        let ahead = Ahead::read(None, &*file(3), &header(1), 4096, Lsn(2)).unwrap();
        let first = ahead.group(&header(1), 4096, Lsn(1)).unwrap();
        assert_eq!((first.0.first, first.1), (Lsn(1), GROUP_HEADER_LEN..GROUP_HEADER_LEN + 1));
        let second = ahead.group(&header(1), 2 * 4096, Lsn(2)).unwrap();
        assert_eq!(ahead.bytes()[second.1], [7]);
        assert_eq!(ahead.group(&header(1), 3 * 4096, Lsn(3)), None, "not known to be whole");
        assert_eq!(ahead.group(&header(2), 4096, Lsn(1)), None, "another use of the file");
        assert_eq!(ahead.group(&header(1), 0, Lsn(1)), None, "before it");
        assert_eq!(ahead.group(&header(1), 1 << 19, Lsn(1)), None, "behind it");
    }

    #[test]
    fn it_grows_while_reading_goes_on_and_starts_small_again() {
        let file = file(1);
        let mut ahead = None;
        for len in [16, 32, 64, 128, 256, 512, 1024, 1024].map(|kib| kib << 10) {
            ahead = Ahead::read(ahead, &*file, &header(1), 4096, Lsn(1));
            assert_eq!(ahead.as_ref().unwrap().bytes().len(), len);
        }
        ahead = Ahead::read(ahead, &*file, &header(2), 4096, Lsn(1));
        assert_eq!(ahead.unwrap().bytes().len(), LEN_MIN);
        let end = (4 << 20) - 4096;
        let ahead = Ahead::read(None, &*file, &header(1), end, Lsn(1)).unwrap();
        assert_eq!(ahead.bytes().len(), BLOCK, "the file ends there");
    }
}
