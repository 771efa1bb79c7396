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
    let end = RECORD_HEADER_LEN.checked_add(u32_at(bytes, 0))?;
    let record = bytes.get_mut(..end).filter(|record| record.len() >= RECORD_HEADER_LEN)?;
    let sum = crc(&[&record[0..4], &record[8..]]);
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
        records(body);
        header[56..60].copy_from_slice(&crc(&[body]));
    }
    let sum = crc(&[&log_id.to_le_bytes(), &header[..HEADER_CRC_AT]]);
    header[HEADER_CRC_AT..].copy_from_slice(&sum);
}

/// Writes the checksums of a segment's header, and of every block that begins like a group.
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
        }
    }
}
