//! Making checksums right again after an edit.
//!
//! A mutation behind a checksum is refused at once, and what lies behind it is never reached. These
//! functions walk over a file as its format's page in `docs/format/` says, as far as it can be walked,
//! and write every checksum anew. They are written from those pages, not from the product's code, so
//! they check the pages too. A file that was good before stays as it is, byte for byte.

/// Bytes of the log's headers, and where their checksums are.
const HEADER_LEN: usize = 64;
const HEADER_CRC_AT: usize = 60;
/// Bytes of a block of the log.
const BLOCK_LEN: usize = 4096;
/// Bytes before a record's payload.
const RECORD_HEADER_LEN: usize = 12;

/// Bytes of a part of a large payload, each with a checksum behind the payload.
const PART_LEN: usize = 64 << 10;
/// Flags of a group whose records are compressed, and the bytes of what stands before the block then.
const COMPRESSED: u8 = 2;
const PREAMBLE_LEN: usize = 16;
/// Flag of a group whose body is encrypted, and the bytes before the checksum of what stands before it then.
const ENCRYPTED: u8 = 4;
const ENVELOPE_CRC_AT: usize = 36;

/// CRC-32 over several slices.
fn crc(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_le_bytes()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).map(|word| u32::from_le_bytes(*word));
    word.and_then(|word| usize::try_from(word).ok()).unwrap_or_default()
}

/// Writes the checksum of the record at the start of `bytes`; returns the record's length, or none
/// if it does not fit.
pub(crate) fn record(bytes: &mut [u8]) -> Option<usize> {
    let payload_end = RECORD_HEADER_LEN.checked_add(u32_at(bytes, 0))?;
    let is_in_parts = bytes.get(9) == Some(&1) && payload_end > RECORD_HEADER_LEN + PART_LEN;
    let parts = if is_in_parts { (payload_end - RECORD_HEADER_LEN).div_ceil(PART_LEN) } else { 0 };
    let end = payload_end.checked_add(4 * parts)?;
    let record = bytes.get_mut(..end).filter(|record| record.len() >= RECORD_HEADER_LEN)?;
    for number in 0..parts {
        let from = RECORD_HEADER_LEN + number * PART_LEN;
        let sum = crc(&[&record[from..payload_end.min(from + PART_LEN)]]);
        record[payload_end + 4 * number..][..4].copy_from_slice(&sum);
    }
    let covered = if is_in_parts { payload_end } else { RECORD_HEADER_LEN };
    let sum = crc(&[&record[0..4], &record[8..RECORD_HEADER_LEN], &record[covered..]]);
    record[4..8].copy_from_slice(&sum);
    Some(end)
}

/// Writes the checksums of all records that follow one another from the start of `bytes` on.
pub(crate) fn records(mut bytes: &mut [u8]) {
    while let Some(len) = record(bytes) {
        bytes = &mut bytes[len..];
    }
}

/// Writes the checksums of the group at the start of `bytes`, in a log of this identity.
pub(crate) fn group(bytes: &mut [u8], log_id: u64) {
    let Some((header, rest)) = bytes.split_first_chunk_mut::<HEADER_LEN>() else { return };
    if let Some(body) = rest.get_mut(..u32_at(header, 36)) {
        match header[6] {
            COMPRESSED => preamble(body),
            flags if flags & ENCRYPTED != 0 => envelope(body),
            _ => records(body),
        }
        header[56..60].copy_from_slice(&crc(&[body]));
    }
    let sum = crc(&[&log_id.to_le_bytes(), &header[..HEADER_CRC_AT]]);
    header[HEADER_CRC_AT..].copy_from_slice(&sum);
}

/// Writes the checksum of what stands before an encrypted body. The tag is left: no checksum makes it right.
fn envelope(body: &mut [u8]) {
    let Some(envelope) = body.first_chunk_mut::<{ ENVELOPE_CRC_AT + 4 }>() else { return };
    let sum = crc(&[&envelope[..ENVELOPE_CRC_AT]]);
    envelope[ENVELOPE_CRC_AT..].copy_from_slice(&sum);
}

/// Writes the checksum of what stands before a compressed block. That of the records is left: who changed
/// the block has to change it, too.
fn preamble(body: &mut [u8]) {
    let Some(preamble) = body.first_chunk_mut::<PREAMBLE_LEN>() else { return };
    let sum = crc(&[&preamble[..12]]);
    preamble[12..].copy_from_slice(&sum);
}

/// Writes the checksum of the footer at the start of `bytes`.
pub(crate) fn footer(bytes: &mut [u8]) {
    let Some(block) = bytes.first_chunk_mut::<BLOCK_LEN>() else { return };
    let sum = crc(&[&block[..HEADER_CRC_AT], &block[HEADER_LEN..]]);
    block[HEADER_CRC_AT..HEADER_LEN].copy_from_slice(&sum);
}

/// Writes the checksums of a segment's header, and of every block that begins like a group or a footer.
pub(crate) fn segment(file: &mut [u8]) {
    let Some(header) = file.first_chunk_mut::<HEADER_LEN>() else { return };
    if header.starts_with(b"SLSG") {
        let sum = crc(&[&header[..HEADER_CRC_AT]]);
        header[HEADER_CRC_AT..].copy_from_slice(&sum);
    }
    let mut log_id = [0; 8];
    log_id.copy_from_slice(&header[8..16]);
    for at in (BLOCK_LEN..file.len()).step_by(BLOCK_LEN) {
        if file[at..].starts_with(b"SLGR") {
            group(&mut file[at..], u64::from_le_bytes(log_id));
        } else if file[at..].starts_with(b"SLSF") {
            footer(&mut file[at..]);
        }
    }
}

/// Bytes of a table's header, of its footer and of the trailer behind each section.
const TABLE_HEADER_LEN: usize = 32;
const TABLE_FOOTER_LEN: usize = 80;
const TRAILER_LEN: usize = 12;
/// Bytes of an entry of the block index.
const INDEX_ENTRY_LEN: usize = 32;

/// Writes the checksums of a table: of its header, of every section that its footer and block index
/// name, and of the footer.
pub(crate) fn table(file: &mut [u8]) {
    if file.len() < TABLE_HEADER_LEN + TABLE_FOOTER_LEN {
        return;
    }
    let sum = crc(&[&file[..28]]);
    file[28..TABLE_HEADER_LEN].copy_from_slice(&sum);
    let mut id = [0; 8];
    id.copy_from_slice(&file[16..24]);
    let footer = file.len() - TABLE_FOOTER_LEN;
    let [index, filter, properties] =
        [0, 16, 32].map(|at| (u64_at(file, footer + at), u64_at(file, footer + at + 8)));
    for number in 0..u64_at(file, footer + 56).min(file.len() / INDEX_ENTRY_LEN) {
        let entry = index.0.saturating_add(number * INDEX_ENTRY_LEN);
        section(file, id, (u64_at(file, entry), u32_at(file, entry.saturating_add(24))));
    }
    for extent in [index, filter, properties] {
        section(file, id, extent);
    }
    let footer = &mut file[footer..];
    let sum = crc(&[&footer[..68], &footer[72..]]);
    footer[68..72].copy_from_slice(&sum);
}

/// Writes the checksum in the trailer behind a section, if both lie in the file.
fn section(file: &mut [u8], id: [u8; 8], (offset, len): (usize, usize)) {
    let Some(end) = offset.checked_add(len) else { return };
    let Some(trailer) = file.get(end..).and_then(<[u8]>::first_chunk::<TRAILER_LEN>) else {
        return;
    };
    let (trailer, place) = (*trailer, u64::try_from(offset).expect("an offset is a word"));
    let sum = crc(&[&id, &place.to_le_bytes(), &file[offset..end], &trailer[..8]]);
    file[end + 8..end + TRAILER_LEN].copy_from_slice(&sum);
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).map(|word| u64::from_le_bytes(*word));
    word.and_then(|word| usize::try_from(word).ok()).unwrap_or_default()
}

/// Writes the checksums of a manifest: of its header, and of all records that follow one another.
pub(crate) fn manifest(file: &mut [u8]) {
    let Some((header, rest)) = file.split_first_chunk_mut::<40>() else { return };
    let sum = crc(&[&header[..36]]);
    header[36..].copy_from_slice(&sum);
    records(rest);
}

/// Writes the checksum of the line in `CURRENT`, behind the name that it begins with.
pub(crate) fn current(file: &mut [u8]) {
    let Some(end) = file.iter().position(|byte| *byte == b' ') else { return };
    let line = format!(" crc32 {:08x}\n", crc32fast::hash(&file[..end]));
    if let Some(rest) = file.get_mut(end..end + line.len()) {
        rest.copy_from_slice(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages in `docs/format/` and the code agree: what was written stays as it is.
    #[test]
    fn good_files_stay_as_they_are_and_get_their_checksums_back() {
        let record = crate::seeds::record(b"payload");
        // A good file, who gives it its checksums back, and where one of them lies.
        type Case = (Vec<u8>, fn(&mut [u8]), usize);
        let truncated = crate::segment::truncated().first_segment();
        let compressed = crate::segment::compressed().first_segment();
        let encrypted = crate::segment::encrypted().first_segment();
        let in_parts = crate::seeds::record_in_parts(&[3; 140_000]);
        let files: [Case; 10] = [
            (crate::segment::short().first_segment(), segment, HEADER_CRC_AT),
            (truncated.clone(), segment, truncated.len() - BLOCK_LEN + HEADER_CRC_AT),
            (compressed, segment, BLOCK_LEN + HEADER_LEN + 12),
            (encrypted, segment, BLOCK_LEN + HEADER_LEN + ENVELOPE_CRC_AT),
            (crate::manifest::sample(".table"), table, 28),
            (crate::manifest::sample("MANIFEST-"), manifest, 36),
            (in_parts.clone(), records, 4),
            (in_parts, records, RECORD_HEADER_LEN + 140_000),
            (record, records, 4),
            (crate::manifest::sample("CURRENT"), current, 32),
        ];
        for (file, seal, crc_at) in files {
            let mut again = file.clone();
            seal(&mut again);
            assert!(again == file, "{}", again.escape_ascii());
            again[crc_at] ^= 1;
            seal(&mut again);
            assert!(again == file);
        }
    }
}
