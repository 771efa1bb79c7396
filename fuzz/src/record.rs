//! Decoding records, groups' headers and segments' headers from slices.
//!
//! What is accepted is what would have been written: encoding it again gives the same bytes. So a
//! decoder that ignores a byte is found too.

use std::path::Path;

use strandline_wal::frame::{GROUP_HEADER_LEN, GroupHeader};
use strandline_wal::parts::PART_LEN;
use strandline_wal::record::{self, RECORD_HEADER_LEN};
use strandline_wal::{Lsn, SegmentHeader};

use crate::{Choices, seal};

/// See the module's documentation.
pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let (what, is_sealed) = (choices.below(3), choices.any::<bool>());
    let mut bytes = choices.rest().to_vec();
    match what {
        0 => {
            if is_sealed {
                seal::records(&mut bytes);
            }
            records(&bytes);
        }
        1 => group(&mut bytes, is_sealed),
        _ => {
            if is_sealed {
                seal::segment(&mut bytes);
            }
            segment_header(&bytes);
        }
    }
}

fn records(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok((found, taken)) = record::decode(rest) {
        let (header, behind) = rest[..taken].split_at(RECORD_HEADER_LEN);
        let (payload, table) = behind.split_at(found.payload.len());
        assert!(found.payload == payload, "a payload follows its header");
        let expected = match table.is_empty() {
            true => (record::encode_header(found.kind, payload), Vec::new()),
            false => record::encode_in_parts(found.kind, payload),
        };
        assert_eq!((header, table), (&expected.0[..], &expected.1[..]), "it was written otherwise");
        let range = payload.len() / 3..payload.len() - payload.len() / 5;
        assert!(record::decode_range(rest, range.clone()) == Ok(&payload[range]));
        assert!(table.is_empty() || payload.len() > PART_LEN, "a short payload is in one part");
        rest = &rest[taken..];
    }
}

/// The bytes are the log's identity, then a group, which is asked for where it says it belongs.
fn group(bytes: &mut [u8], is_sealed: bool) {
    let Some((log_id, bytes)) = bytes.split_first_chunk_mut::<8>() else { return };
    let log_id = u64::from_le_bytes(*log_id);
    if is_sealed {
        seal::group(bytes, log_id);
    }
    let word = |at: usize| {
        let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
        u64::from_le_bytes(word.copied().unwrap_or_default())
    };
    let (incarnation, offset) = (word(8), word(16));
    let Ok(header) = GroupHeader::decode(bytes, log_id, incarnation, offset) else { return };
    let encoded = header.encode(log_id);
    assert_eq!(encoded, bytes[..GROUP_HEADER_LEN], "a group that was written otherwise");
    for (incarnation, offset) in [(incarnation ^ 1, offset), (incarnation, offset ^ 4096)] {
        let elsewhere = GroupHeader::decode(bytes, log_id, incarnation, offset);
        assert!(elsewhere.is_err(), "a group is one at its own place only");
    }
    let body = &bytes[GROUP_HEADER_LEN..];
    let len = usize::try_from(header.body_len).unwrap_or(usize::MAX);
    if let Some(body) = body.get(..len)
        && header.check_body(body).is_ok()
        && let Ok(decoded) = header.decode_body(body)
    {
        assert!(decoded.len() <= 255 * body.len(), "memory is bounded by what stands there");
        records(&decoded);
    }
    assert!(header.len_on_disk() >= header.body_len.into());
    assert!(header.end() >= header.first);
    assert!(header.check_sequence(header.first, header.chain).is_ok());
    assert!(header.check_sequence(Lsn(header.first.0 ^ 1), header.chain).is_err());
    assert!(header.check_sequence(header.first, header.chain ^ 1).is_err());
    let _ = header.chain_after();
}

fn segment_header(bytes: &[u8]) {
    let path = Path::new("0000000000000001.segment");
    let Ok(Some(header)) = SegmentHeader::decode(bytes, path) else { return };
    let state: u16 = if header.in_use { 2 } else { 1 };
    let mut expected = b"SLSG".to_vec();
    expected.extend(1_u16.to_le_bytes());
    expected.extend(state.to_le_bytes());
    let words = [header.log_id, header.incarnation, header.first.0, header.chain];
    words.iter().for_each(|word| expected.extend(word.to_le_bytes()));
    expected.extend(header.len.to_le_bytes());
    expected.extend(header.trimmed.0.to_le_bytes());
    let back = if header.previous == 0 { 0 } else { header.incarnation - header.previous };
    expected.extend(u32::try_from(back).expect("it stands in four bytes").to_le_bytes());
    assert_eq!(bytes[..60], expected, "a segment header that was written otherwise");
}
