//! The group being filled, and groups that have been sealed.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::{ALIGNMENT_MAX, Buffer};
use crate::envelope::{Bound, ENVELOPE_LEN, Encryption, encrypt};
use crate::frame::{
    FLAG_ENCRYPTED, FLAG_LZ4, GROUP_HEADER_LEN, GroupHeader, GroupRefusal, len_on_disk,
};
use crate::parts::{self, Checksums, PART_LEN};
use crate::record::{
    FORM_AT, Framing, Kind, RECORD_HEADER_LEN, Record, Refusal, encode_header,
    encode_header_before, encode_header_with,
};
use crate::{Lsn, encoding};

/// A record on its way into a group: its header, made before any lock is taken, and its payload.
pub(crate) struct Framed<'a> {
    /// [`encode_header`] of the payload.
    pub header: [u8; RECORD_HEADER_LEN],
    /// The payload.
    pub payload: &'a [u8],
    /// Checksum of a large payload alone, so that it is read once for its record and its group.
    crc: Option<crc32fast::Hasher>,
    /// Checksums of its parts, which follow it; empty if it is in one.
    table: Vec<u8>,
}

/// From this length on joining two checksums costs less than reading the payload once more.
const CHECKSUMMED_ONCE_LEN_MIN: usize = 16 << 10;

impl<'a> Framed<'a> {
    /// A record of this kind.
    pub(crate) fn new(kind: Kind, payload: &'a [u8]) -> Self {
        if payload.len() < CHECKSUMMED_ONCE_LEN_MIN {
            let header = encode_header(kind, payload);
            return Self { header, payload, crc: None, table: Vec::new() };
        }
        let (crc, table) = parts::checksum(payload);
        let header = match table.is_empty() {
            true => encode_header_before(kind, payload.len(), &crc),
            false => encode_header_with(kind, payload.len(), &table),
        };
        Self { header, payload, crc: Some(crc), table }
    }

    /// Bytes in the group's body.
    pub(crate) fn len(&self) -> usize {
        RECORD_HEADER_LEN + self.payload.len() + self.table.len()
    }
}

/// A group that has not been given its place on disk yet.
pub(crate) struct Pending {
    /// Room for the header, then the records.
    buffer: Buffer,
    /// Checksum of the records so far.
    crc: crc32fast::Hasher,
    /// Position of the first record.
    pub first: Lsn,
    /// How many records.
    pub count: u32,
    /// Whether it opens a new segment.
    pub new_segment: bool,
    /// When somebody began to wait for it.
    pub wanted_at: Option<Duration>,
}

impl Pending {
    /// An empty group in `buffer`, whose first record will have the position `first`.
    pub(crate) fn new(mut buffer: Buffer, first: Lsn, new_segment: bool) -> Self {
        buffer.clear();
        buffer.resize(GROUP_HEADER_LEN);
        Self {
            buffer,
            crc: crc32fast::Hasher::new(),
            first,
            count: 0,
            new_segment,
            wanted_at: None,
        }
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, record: &Framed<'_>) {
        let start = self.buffer.len();
        self.buffer.extend(&record.header);
        self.buffer.extend(record.payload);
        self.buffer.extend(&record.table);
        match &record.crc {
            Some(payload) => {
                self.crc.update(&record.header);
                self.crc.combine(payload);
                self.crc.update(&record.table);
            }
            None => self.crc.update(&self.buffer[start..]),
        }
        self.count = self.count.checked_add(1).expect("a group's size bounds its count");
    }

    /// Adds the record of a payload. The checksums of a large one are those of the copy, part by part, while the
    /// processor still has it at hand.
    pub(crate) fn push_payload(&mut self, kind: Kind, payload: &[u8]) {
        if payload.len() <= PART_LEN {
            return self.push(&Framed::new(kind, payload));
        }
        let start = self.buffer.len();
        self.buffer.extend(&[0; RECORD_HEADER_LEN]);
        let mut checksums = Checksums::default();
        for part in payload.chunks(PART_LEN) {
            let at = self.buffer.len();
            self.buffer.extend(part);
            checksums.add(&self.buffer[at..]);
        }
        let header = encode_header_with(kind, payload.len(), &checksums.table);
        self.buffer.as_mut_slice()[start..start + RECORD_HEADER_LEN].copy_from_slice(&header);
        self.buffer.extend(&checksums.table);
        self.crc.update(&header);
        self.crc.combine(&checksums.whole);
        self.crc.update(&checksums.table);
        self.count += 1;
    }

    /// Bytes of the records so far.
    pub(crate) fn records_len(&self) -> usize {
        self.buffer.len() - GROUP_HEADER_LEN
    }

    /// Bytes so far, header included, without padding.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes that it takes on the disk if it is not compressed, with so many `more` in its body.
    pub(crate) fn len_on_disk(&self, more: usize) -> u64 {
        let body_len = self.records_len() + more;
        len_on_disk(u32::try_from(body_len).expect("a group fits into a segment"))
    }

    /// Gives the group its place: fills in the header and pads to whole blocks.
    pub(crate) fn seal(mut self, log_id: u64, place: Place) -> Group {
        let records_len = self.records_len();
        let header = self.header(&place, self.buffer.len(), self.crc.clone().finalize());
        finish(&mut self.buffer, &header, log_id);
        Group { header, records_len, bytes: Arc::new(self.buffer), encoded: None }
    }

    /// The same, compressed into `buffer` if that is worth it.
    pub(crate) fn seal_compressed(self, log_id: u64, place: Place, buffer: Buffer) -> Group {
        let raw_crc = self.crc.clone().finalize();
        let records = &self.buffer[GROUP_HEADER_LEN..];
        let Some(mut buffer) = encoding::compress(records, raw_crc, buffer, 0) else {
            return self.seal(log_id, place);
        };
        let body_crc = crc32fast::hash(&buffer[GROUP_HEADER_LEN..]);
        let place = Place { flags: place.flags | FLAG_LZ4, ..place };
        let header = self.header(&place, buffer.len(), body_crc);
        finish(&mut buffer, &header, log_id);
        Group {
            header,
            records_len: records.len(),
            bytes: Arc::new(self.buffer),
            encoded: Some(Arc::new(buffer)),
        }
    }

    /// The same, encrypted into `buffer`, and compressed before if it may be and that is worth it.
    pub(crate) fn seal_encrypted(
        self,
        log_id: u64,
        place: Place,
        mut buffer: Buffer,
        compress: bool,
        by: &Encryption,
    ) -> Group {
        let records = &self.buffer[GROUP_HEADER_LEN..];
        let compressed = compress.then(|| {
            let buffer = std::mem::replace(&mut buffer, Buffer::with_capacity(0));
            encoding::compress(records, self.crc.clone().finalize(), buffer, ENVELOPE_LEN)
        });
        let mut flags = place.flags | FLAG_ENCRYPTED;
        if let Some(compressed) = compressed.flatten() {
            flags |= FLAG_LZ4;
            buffer = compressed;
        } else {
            buffer.clear();
            buffer.resize(GROUP_HEADER_LEN + ENVELOPE_LEN);
            buffer.extend(records);
        }
        let (first, count) = (self.first, self.count);
        encrypt(&mut buffer, by, &Bound { log_id, flags, first, count });
        let body_crc = crc32fast::hash(&buffer[GROUP_HEADER_LEN..]);
        let header = self.header(&Place { flags, ..place }, buffer.len(), body_crc);
        finish(&mut buffer, &header, log_id);
        Group {
            header,
            records_len: records.len(),
            bytes: Arc::new(self.buffer),
            encoded: Some(Arc::new(buffer)),
        }
    }

    /// The header in front of a body that ends at `len`.
    fn header(&self, place: &Place, len: usize, body_crc: u32) -> GroupHeader {
        GroupHeader {
            flags: place.flags,
            incarnation: place.incarnation,
            offset: place.offset,
            first: self.first,
            count: self.count,
            body_len: u32::try_from(len - GROUP_HEADER_LEN).expect("a group fits into a segment"),
            durable: place.durable,
            chain: place.chain,
            body_crc,
        }
    }
}

/// Fills in the header and pads to whole blocks.
fn finish(buffer: &mut Buffer, header: &GroupHeader, log_id: u64) {
    buffer.as_mut_slice()[..GROUP_HEADER_LEN].copy_from_slice(&header.encode(log_id));
    buffer.pad_to(ALIGNMENT_MAX);
}

/// Where a group goes, and what stands before it.
pub(crate) struct Place {
    pub flags: u16,
    pub incarnation: u64,
    pub offset: u64,
    pub durable: Lsn,
    pub chain: u64,
}

/// A group with its place, on its way to the disk or there.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Its header, as it stands on the disk.
    pub header: GroupHeader,
    /// Bytes of its records.
    records_len: usize,
    /// Room for the header, then the records; unless they are encoded, the whole group, padded.
    pub bytes: Arc<Buffer>,
    /// The whole group, padded, if its records are compressed or encrypted and it is on its way to the disk.
    pub encoded: Option<Arc<Buffer>>,
}

impl Group {
    /// The records' bytes.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[GROUP_HEADER_LEN..GROUP_HEADER_LEN + self.records_len]
    }

    /// Bytes of its records.
    pub(crate) fn records_len(&self) -> u64 {
        u64::try_from(self.records_len).expect("it is in memory")
    }

    /// What is to be written.
    pub(crate) fn on_disk(&self) -> &Arc<Buffer> {
        self.encoded.as_ref().unwrap_or(&self.bytes)
    }

    /// The same records as a group without a place, to be written elsewhere.
    pub(crate) fn unseal(self, new_segment: bool) -> Pending {
        let len = GROUP_HEADER_LEN + self.body().len();
        let mut crc = crc32fast::Hasher::new();
        crc.update(self.body());
        let mut buffer = Arc::try_unwrap(self.bytes).unwrap_or_else(|shared| {
            let mut copy = Buffer::with_capacity(shared.len());
            copy.extend(&shared);
            copy
        });
        buffer.resize(len);
        let GroupHeader { first, count, .. } = self.header;
        Pending { buffer, crc, first, count, new_segment, wanted_at: None }
    }
}

/// Checks that a body whose checksum is right holds this many records and nothing else.
///
/// # Errors
///
/// [`GroupRefusal::Length`], or [`GroupRefusal::Unknown`] for a record of another make.
pub(crate) fn check_records(body: &[u8], count: u32) -> Result<(), GroupRefusal> {
    let mut at = 0;
    let mut found = 0;
    while at < body.len() {
        match crate::record::decode(&body[at..]) {
            Ok((_, taken)) => at += taken,
            Err(Refusal::Reserved) => {
                let offset = GROUP_HEADER_LEN + at + FORM_AT;
                let offset = u64::try_from(offset).expect("it lies in memory");
                let found = "others".into();
                let expected = "the form of a record and its reserved bytes, all zero";
                return Err(GroupRefusal::Unknown { offset, expected, found });
            }
            Err(_) => break,
        }
        found += 1;
    }
    match at == body.len() && found == count {
        true => Ok(()),
        false => Err(GroupRefusal::Length(u32::try_from(body.len()).unwrap_or(u32::MAX))),
    }
}

/// Checks the body of a group as it stands on disk. What is damaged is named as closely as it is known: the
/// first part of a large payload that is not what it was.
///
/// # Errors
///
/// [`GroupRefusal::BodyChecksum`], or [`GroupRefusal::Part`].
pub(crate) fn check_body(header: &GroupHeader, body: &[u8]) -> Result<(), GroupRefusal> {
    header.check_body(body).map_err(|refusal| {
        match header.is_compressed() || header.is_encrypted() {
            false => damaged_part(header, body).unwrap_or(refusal),
            true => refusal,
        }
    })
}

/// The first damaged part in a damaged body, as far as the records before it are whole.
fn damaged_part(header: &GroupHeader, body: &[u8]) -> Option<GroupRefusal> {
    let mut rest = body;
    let mut lsn = header.first;
    while lsn < header.end() {
        let framing = Framing::decode(rest).ok()?;
        let mut parts = framing.damaged_parts();
        if let Some(part) = parts.next() {
            return Some(GroupRefusal::Part { lsn, part, others: parts.count() });
        }
        rest = rest.get(framing.len..)?;
        lsn = lsn.next();
    }
    None
}

/// The records in a group's body, with their positions; ends after the first refusal.
pub(crate) fn records(
    body: &[u8],
    first: Lsn,
) -> impl Iterator<Item = Result<(Lsn, Record<'_>), crate::record::Refusal>> {
    let mut rest = body;
    let mut lsn = first;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        Some(match crate::record::decode(rest) {
            Ok((record, taken)) => {
                let at = lsn;
                rest = &rest[taken..];
                lsn = lsn.next();
                Ok((at, record))
            }
            Err(refusal) => {
                rest = &[];
                Err(refusal)
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sealed, taken apart and sealed elsewhere, a group holds the same records; its memory may be shared.
    #[test]
    fn a_group_that_is_written_once_more_holds_the_same_records() {
        let large = vec![3; CHECKSUMMED_ONCE_LEN_MIN];
        let payloads = [&b"one"[..], b"", &[7; 5000], &large, &large[1..], b"last"];
        let mut pending = Pending::new(Buffer::with_capacity(64), Lsn(5), false);
        for (number, payload) in payloads.into_iter().enumerate() {
            match number % 2 {
                0 => pending.push_payload(Kind::ENTRY, payload),
                _ => pending.push(&Framed::new(Kind::ENTRY, payload)),
            }
        }
        let place = |offset| Place { flags: 0, incarnation: 3, offset, durable: Lsn(4), chain: 9 };
        let first = pending.seal(7, place(4096));
        let shared = first.bytes.clone();
        let second = first.unseal(true).seal(7, place(8192));
        for (bytes, offset) in [(&shared, 4096), (&second.bytes, 8192)] {
            assert_eq!(bytes.len() % ALIGNMENT_MAX, 0);
            let header = GroupHeader::decode(bytes, 7, 3, offset).unwrap();
            let body_len = usize::try_from(header.body_len).unwrap();
            let body = &bytes[GROUP_HEADER_LEN..GROUP_HEADER_LEN + body_len];
            header.check_body(body).unwrap();
            check_records(body, 6).unwrap();
            assert!(check_records(body, 5).is_err() && check_records(&body[1..], 6).is_err());
            let found: Vec<_> = records(body, header.first).map(Result::unwrap).collect();
            let expected = payloads.iter().zip(5..);
            for ((lsn, record), (payload, at)) in found.iter().zip(expected) {
                assert_eq!((*lsn, record.payload), (Lsn(at), *payload));
            }
            assert_eq!(found.len(), 6);
        }
    }
}
