//! What stands in a segment: its groups from the first to the last that is valid, and what is behind them.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use crate::disk::Buffer;
use crate::envelope::Envelope;
use crate::frame::{BLOCK_LEN, FLAG_CLOSED, GROUP_HEADER_LEN, GroupHeader, GroupRefusal};
use crate::group;
use crate::segment::{GROUPS_START, Segment, SegmentHeader};
use crate::walk::Walk;
use crate::window::Window;
use crate::{Error, KeyId, Lsn};

/// What stands in one segment.
pub(crate) struct Scan {
    /// Position and offset of each group with records.
    pub offsets: Vec<(Lsn, u64)>,
    /// The position after the last valid record.
    pub next: Lsn,
    /// Where the next group would stand.
    pub end_offset: u64,
    /// Chain there.
    pub chain: u64,
    /// The highest durable position that a group claims.
    pub claimed: Lsn,
    /// Where the first group stands that nothing claims.
    pub unclaimed_offset: u64,
    /// What was read from there up to `end_offset`, if it is little, and all of it could be read.
    pub unclaimed: Option<Buffer>,
    /// Whether the last group is the marker of an orderly close.
    pub closed: bool,
    /// Why there is no valid group at `end_offset`; none at the end of the segment.
    pub refusal: Option<GroupRefusal>,
    /// The last group that is encrypted with each key.
    pub encrypted: BTreeMap<KeyId, GroupHeader>,
    /// How many groups are encrypted.
    pub encrypted_groups: usize,
    /// Whether something of this incarnation stands at or behind `end_offset`.
    pub residue: bool,
    /// A group behind `end_offset` that claims what is missing there: its offset and claim.
    pub claim: Option<(u64, Lsn)>,
    /// A group behind `end_offset` that is whole but not understood.
    unknown: Option<(u64, GroupRefusal)>,
}

impl Scan {
    /// The error, if what ends the groups, or stands behind their end, is whole but not understood:
    /// then nothing here may be taken for torn, voided or reused.
    pub(crate) fn not_understood(&self, path: &Path) -> Option<Error> {
        let end = self.refusal.as_ref().map(|refusal| (self.end_offset, refusal));
        let behind = self.unknown.as_ref().map(|(offset, refusal)| (*offset, refusal));
        end.into_iter().chain(behind).find_map(|(at, refusal)| refusal.not_understood(path, at))
    }
}

/// Reads a segment from its first group on, up to position `end` where one is known.
pub(crate) fn scan(
    segment: &Segment,
    header: &SegmentHeader,
    end: Option<Lsn>,
    window: &mut Window,
) -> Scan {
    let mut scan = Scan {
        offsets: Vec::new(),
        next: header.first,
        end_offset: GROUPS_START,
        chain: header.chain,
        claimed: Lsn(0),
        unclaimed_offset: GROUPS_START,
        unclaimed: None,
        closed: false,
        encrypted: BTreeMap::new(),
        encrypted_groups: 0,
        refusal: None,
        residue: false,
        claim: None,
        unknown: None,
    };
    // Those that nothing claims yet.
    let mut groups = VecDeque::new();
    while scan.end_offset + BLOCK_LEN <= segment.groups_end()
        && end.is_none_or(|end| scan.next < end)
    {
        let at = Walk { offset: scan.end_offset, next: scan.next, chain: scan.chain };
        match read_group(segment, header, &at, window) {
            Ok(group) => {
                if group.count > 0 {
                    scan.offsets.push((scan.next, scan.end_offset));
                }
                if let Some(envelope) = Envelope::of(segment, &group, window) {
                    scan.encrypted.insert(envelope.key, group);
                    scan.encrypted_groups += 1;
                }
                groups.push_back((group, scan.end_offset));
                scan.claimed = scan.claimed.max(group.durable);
                let is_claimed = |one: &&(GroupHeader, u64)| one.0.end().0 <= scan.claimed.0 + 1;
                while let Some((group, offset)) = groups.front().filter(is_claimed).copied() {
                    groups.pop_front();
                    // Markers have no position of their own: one is proven by the claimed group behind it.
                    if group.count > 0 {
                        scan.unclaimed_offset = offset + group.len_on_disk();
                    }
                }
                window.keep_back_to(scan.unclaimed_offset);
                scan.closed = group.flags & FLAG_CLOSED != 0;
                scan.chain = group.chain_after();
                scan.end_offset += group.len_on_disk();
                scan.next = group.end();
            }
            Err(refusal) => {
                scan.refusal = Some(refusal);
                break;
            }
        }
    }
    if end.is_none() {
        scan.unclaimed = window.held(segment, scan.unclaimed_offset..scan.end_offset);
        look_on(segment, header, &mut scan, window);
    }
    scan
}

/// The group that belongs at `at`.
pub(crate) fn read_group(
    segment: &Segment,
    header: &SegmentHeader,
    at: &Walk,
    window: &mut Window,
) -> std::result::Result<GroupHeader, GroupRefusal> {
    let bytes = window.bytes(segment, at.offset, GROUP_HEADER_LEN);
    let group = GroupHeader::decode(bytes, header.log_id, header.incarnation, at.offset)?;
    group.check_sequence(at.next, at.chain)?;
    read_body(segment, at.offset, group, window)
}

/// The group at `offset`, whatever stands before it.
pub(crate) fn read_loose_group(
    segment: &Segment,
    header: &SegmentHeader,
    offset: u64,
    window: &mut Window,
) -> std::result::Result<GroupHeader, GroupRefusal> {
    let bytes = window.bytes(segment, offset, GROUP_HEADER_LEN);
    let group = GroupHeader::decode(bytes, header.log_id, header.incarnation, offset)?;
    read_body(segment, offset, group, window)
}

fn read_body(
    segment: &Segment,
    offset: u64,
    group: GroupHeader,
    window: &mut Window,
) -> std::result::Result<GroupHeader, GroupRefusal> {
    if group.len_on_disk() > segment.groups_end().saturating_sub(offset) {
        return Err(GroupRefusal::Length(group.body_len));
    }
    let body_len = usize::try_from(group.body_len).expect("it fits into a segment");
    let bytes = window.bytes(segment, offset, GROUP_HEADER_LEN + body_len);
    let body = bytes.get(GROUP_HEADER_LEN..).unwrap_or(&[]);
    group::check_body(&group, body)?;
    match group.is_encrypted() {
        // What its records are takes the key: see `try_keys`.
        true => drop(Envelope::decode(body)?),
        false => group::check_records(&group.decode_body(body)?, group.count)?,
    }
    Ok(group)
}

/// Looks behind the last valid group for others of this incarnation.
fn look_on(segment: &Segment, header: &SegmentHeader, scan: &mut Scan, window: &mut Window) {
    scan.residue = match &scan.refusal {
        None | Some(GroupRefusal::Stale(_)) => false,
        Some(GroupRefusal::NotAGroup) => {
            // The place that a header names, or a block that could not be read: a header was here.
            let bytes = window.bytes(segment, scan.end_offset, GROUP_HEADER_LEN);
            let mut place = [0; 16];
            place[..8].copy_from_slice(&header.incarnation.to_le_bytes());
            place[8..].copy_from_slice(&scan.end_offset.to_le_bytes());
            bytes.get(8..24) == Some(&place) || bytes.iter().all(|byte| *byte == u8::MAX)
        }
        Some(_) => true,
    };
    let mut offset = scan.end_offset;
    while offset + BLOCK_LEN <= segment.len {
        let bytes = window.bytes(segment, offset, GROUP_HEADER_LEN);
        match GroupHeader::decode(bytes, header.log_id, header.incarnation, offset) {
            Ok(group) => {
                scan.residue = true;
                if offset > scan.end_offset && group.durable >= scan.next {
                    scan.claim.get_or_insert((offset, group.durable));
                }
            }
            Err(refusal @ GroupRefusal::Unknown { .. }) => {
                scan.unknown.get_or_insert((offset, refusal));
            }
            // What is missing at its own place stands here: case 5 of module `recovery`.
            Err(GroupRefusal::Misplaced { .. }) => {
                let astray = GroupHeader::decode_astray(bytes, header.log_id);
                scan.residue |= astray.is_some_and(|group| group.end() > scan.next);
            }
            Err(_) => {}
        }
        offset += BLOCK_LEN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, OpenMode, SimulatedDisk};
    use crate::record::{Kind, encode_header};
    use crate::segment::SegmentId;

    /// Bytes behind the last record of a group were not seen when the log was opened, and were an
    /// error when it was read.
    #[test]
    fn a_group_is_filled_by_its_records() {
        for (junk, count) in [(&b""[..], 1), (b"junk", 0)] {
            let body = [&encode_header(Kind::ENTRY, b"one")[..], b"one", junk].concat();
            let group = GroupHeader {
                flags: 0,
                incarnation: 1,
                offset: GROUPS_START,
                first: Lsn(1),
                count: 1,
                body_len: u32::try_from(body.len()).unwrap(),
                durable: Lsn(0),
                chain: 0,
                body_crc: crc32fast::hash(&body),
            };
            let header = SegmentHeader {
                in_use: true,
                log_id: 7,
                incarnation: 1,
                first: Lsn(1),
                chain: 0,
                len: 64 << 10,
                trimmed: Lsn(0),
                previous: 0,
            };
            let disk = SimulatedDisk::new(1);
            let id = SegmentId(1);
            let file = disk.open(Path::new(&id.file_name()), OpenMode::Create).unwrap();
            file.allocate(header.len).unwrap();
            file.write_at(&header.encode(), 0).unwrap();
            file.write_at(&[&group.encode(7)[..], &body].concat(), GROUPS_START).unwrap();
            let segment = Segment::open(&*disk, Path::new(""), id).unwrap();
            let scan = scan(&segment, &header, None, &mut Window::new());
            assert_eq!(scan.next, Lsn(1 + count));
            assert_eq!(
                scan.refusal.is_some_and(|refusal| refusal != GroupRefusal::NotAGroup),
                count == 0
            );
        }
    }
}
