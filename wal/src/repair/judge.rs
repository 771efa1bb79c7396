//! Whether records that are offered for a repair are those that belong there.
//!
//! A sound group holds its records. Of a damaged one what is left of its header and envelope tells, or the
//! chain behind it. Of an encrypted group the checksum is that of what stands on the disk, so judging it takes its
//! envelope and its key.

use super::Offer;
use crate::core::InUse;
use crate::envelope::{Encryption, Envelope};
use crate::frame::{GROUP_HEADER_LEN, GroupHeader};
use crate::group::Place;
use crate::walk::Gap;
use crate::window::Window;
use crate::{Error, Keyring, Lsn, Result, record};

/// Holds what is offered against a sound group.
///
/// # Errors
///
/// [`Error::Mismatch`] if the group holds other records, [`Error::KeyMissing`] if that takes a key that is not
/// there.
pub(super) fn agrees(
    group: &GroupHeader,
    offer: &Offer<'_>,
    in_use: &InUse,
    keyring: Option<&Keyring>,
    window: &mut Window,
) -> Result<()> {
    let common = group.first.0.max(offer.first.0)..group.end().0.min(offer.end().0);
    if common.is_empty() {
        return Ok(());
    }
    let segment = &in_use.segment;
    let damaged = |found: &dyn std::fmt::Display| Error::Corruption {
        path: segment.path.clone(),
        offset: group.offset,
        expected: format!("the group of position {}", group.first),
        found: found.to_string(),
    };
    let len = usize::try_from(group.body_len).expect("a group was in memory");
    let bytes = window.bytes(segment, group.offset, GROUP_HEADER_LEN + len);
    let body = bytes.get(GROUP_HEADER_LEN..).unwrap_or(&[]);
    let body = group.decode_with(in_use.header.log_id, body, keyring);
    let body = body.map_err(|refusal| {
        let not_understood = refusal.not_understood(&segment.path, group.offset);
        not_understood.unwrap_or_else(|| damaged(&refusal))
    })?;
    let mut rest = &body[..];
    for lsn in group.first.0..common.end {
        let (there, len) = record::decode(rest).map_err(|refusal| damaged(&refusal))?;
        rest = &rest[len..];
        if lsn >= common.start && offer.record(Lsn(lsn)) != &there {
            return Err(Error::Mismatch {
                lsn,
                expected: "the record that stands there whole".to_owned(),
                found: "another one".to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether what is offered is proven to be what stood in the gap, which followed a group with this
/// chain.
///
/// # Errors
///
/// [`Error::Mismatch`] if it is proven not to be, [`Error::KeyMissing`] if that takes a key that is not there.
pub(super) fn judge(
    gap: &Gap,
    chain: u64,
    offer: &Offer<'_>,
    in_use: &InUse,
    keyring: Option<&Keyring>,
) -> Result<bool> {
    let encrypted = |compress, by: Option<&Encryption>| {
        let place = Place { flags: 0, incarnation: 0, offset: gap.offset, durable: Lsn(0), chain };
        let log_id = in_use.header.log_id;
        offer.group((gap.first, gap.end), log_id, place, compress, by).header
    };
    let sealed = |compress| encrypted(compress, None);
    let raw = sealed(false);
    let Some(group) = &gap.group else {
        // One group, and perhaps a marker behind it or before it: then the chain tells.
        let marker = |chain| GroupHeader { first: gap.end, count: 0, body_crc: 0, chain, ..raw };
        let before = GroupHeader { first: gap.first, count: 0, body_crc: 0, ..raw };
        let is_after = |sealed: GroupHeader| {
            let after = [
                sealed.chain_after(),
                marker(sealed.chain_after()).chain_after(),
                GroupHeader { chain: before.chain_after(), ..sealed }.chain_after(),
            ];
            gap.chain_after.is_some_and(|chain| after.contains(&chain))
        };
        return Ok(is_after(raw) || is_after(sealed(true)));
    };
    // Of a group whose end is void, not all records are asked for.
    if group.end() > gap.end {
        return Ok(false);
    }
    if group.is_encrypted() {
        return judge_encrypted(gap, group, in_use, keyring, |by| {
            encrypted(group.is_compressed(), Some(by))
        });
    }
    // Another compressor may make another block of the same records: the preamble tells, if it is whole.
    let expected = match (group.is_compressed(), gap.preamble) {
        (false, _) => (group.body_len, group.body_crc),
        (true, Some(preamble)) => (preamble.raw_len, preamble.raw_crc),
        (true, None) => {
            let again = sealed(true);
            return Ok((again.body_len, again.body_crc) == (group.body_len, group.body_crc));
        }
    };
    if expected == (raw.body_len, raw.body_crc) {
        return Ok(true);
    }
    Err(mismatch(gap, expected, &raw))
}

/// The same for an encrypted group. The envelope says how what stood there was encrypted: what is offered, done
/// `again` and written nowhere, tells.
fn judge_encrypted(
    gap: &Gap,
    group: &GroupHeader,
    in_use: &InUse,
    keyring: Option<&Keyring>,
    again: impl Fn(&Encryption) -> GroupHeader,
) -> Result<bool> {
    let Some(Envelope { key, nonce }) = gap.envelope else { return Ok(false) };
    let Some(cipher) = keyring.and_then(|keyring| keyring.cipher(key)) else {
        let (path, offset) = (in_use.segment.path.clone(), gap.offset);
        return Err(Error::KeyMissing { path, offset, key: key.0 });
    };
    let again = again(&Encryption { key, cipher, nonce });
    let is_same = (again.body_len, again.body_crc) == (group.body_len, group.body_crc);
    match is_same || group.is_compressed() {
        // Another compressor may make another block: then nothing is proven, either way.
        true => Ok(is_same),
        false => Err(mismatch(gap, (group.body_len, group.body_crc), &again)),
    }
}

fn mismatch(gap: &Gap, expected: (u32, u32), found: &GroupHeader) -> Error {
    Error::Mismatch {
        lsn: gap.first.0,
        expected: format!("{} bytes, checksum {:#010x}", expected.0, expected.1),
        found: format!("{} bytes, checksum {:#010x}", found.body_len, found.body_crc),
    }
}
