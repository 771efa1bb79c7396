//! The body of an encrypted group: an *envelope*, and what stood there otherwise, encrypted.
//!
//! ```text
//! 0     8      24        32         36      40    56
//! +-----+------+---------+----------+-------+-----+------------+
//! | key | salt | counter | reserved | crc32 | tag | ciphertext |
//! +-----+------+---------+----------+-------+-----+------------+
//! ```
//!
//! What is encrypted is the body that the group would have else: records, or a compressed block with its
//! preamble. The group's checksum and the chain cover what stands on the disk, so whoever checks, copies, moves or
//! cuts groups needs no key. The tag covers what must not be exchanged as well: the log, the key, the group's flags, its
//! first position and its count; not its offset and its chain, because groups are moved. The envelope says nothing
//! about the records, not even a checksum of them: that would tell them to who can guess.
//!
//! *Nonces.* Salt and counter together are the nonce. The salt is drawn at each opening and at each repair, the
//! counter counts groups from there on, also those that are written for the second time. Nothing of it is
//! kept anywhere: after a crash the next life cannot know which ones were used at this position.
//!
//! A missing key and a wrong tag are no damage, and are never taken for a torn tail: see
//! [`GroupRefusal::not_understood`].

use std::borrow::Cow;
use std::sync::Arc;

use crate::disk::{Buffer, Disk};
use crate::frame::{FLAG_ENCRYPTED, GROUP_HEADER_LEN, GroupHeader, GroupRefusal, u32_at, u64_at};
use crate::keyring::{Cipher, KeyId, Keyring, NONCE_LEN, TAG_LEN};
use crate::segment::{Segment, SegmentHeader};
use crate::window::Window;
use crate::{Lsn, Result, canary, encoding, group};

/// Bytes before the ciphertext.
pub(crate) const ENVELOPE_LEN: usize = TAG_AT + TAG_LEN;
const NONCE_AT: usize = 8;
const RESERVED_AT: usize = NONCE_AT + NONCE_LEN;
const CRC_AT: usize = RESERVED_AT + 4;
const TAG_AT: usize = CRC_AT + 4;
/// Bytes of a nonce that are drawn; the others count.
const SALT_LEN: usize = 16;
/// Bytes that the tag covers beside the ciphertext.
const ASSOCIATED_LEN: usize = 30;

/// How one group is encrypted.
pub(crate) struct Encryption {
    pub key: KeyId,
    pub cipher: Arc<dyn Cipher>,
    pub nonce: [u8; NONCE_LEN],
}

/// Gives every group that it is asked for a nonce of its own.
pub(crate) struct Encryptor {
    keyring: Keyring,
    salt: [u8; SALT_LEN],
    /// Nonces given.
    counter: u64,
}

impl Encryptor {
    /// One that no other has the nonces of.
    pub(crate) fn draw(disk: &dyn Disk, keyring: &Keyring) -> Result<Self> {
        let mut salt = [0; SALT_LEN];
        if !canary::is_on(canary::SALT_NOT_DRAWN) {
            disk.draw(&mut salt)?;
        }
        Ok(Self { keyring: keyring.clone(), salt, counter: 0 })
    }

    /// How the next group is encrypted, if new groups are.
    pub(crate) fn next(&mut self) -> Option<Encryption> {
        let (key, cipher) = self.keyring.current()?;
        self.counter = self.counter.checked_add(1).expect("2^64 groups are never written");
        let mut nonce = [0; NONCE_LEN];
        nonce[..SALT_LEN].copy_from_slice(&self.salt);
        nonce[SALT_LEN..].copy_from_slice(&self.counter.to_le_bytes());
        Some(Encryption { key, cipher, nonce })
    }
}

/// What the tag covers beside the ciphertext.
pub(crate) struct Bound {
    pub log_id: u64,
    pub flags: u16,
    pub first: Lsn,
    pub count: u32,
}

impl Bound {
    fn encode(&self, key: KeyId) -> [u8; ASSOCIATED_LEN] {
        let mut bytes = [0; ASSOCIATED_LEN];
        bytes[0..8].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[8..16].copy_from_slice(&key.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.count.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }
}

/// Encrypts what stands in `buffer` behind room for a group's header and an envelope.
pub(crate) fn encrypt(buffer: &mut Buffer, by: &Encryption, bound: &Bound) {
    let (front, text) = buffer.as_mut_slice().split_at_mut(GROUP_HEADER_LEN + ENVELOPE_LEN);
    let tag = by.cipher.encrypt(&by.nonce, &bound.encode(by.key), text);
    let envelope = Envelope { key: by.key, nonce: by.nonce }.encode();
    front[GROUP_HEADER_LEN..][..TAG_AT].copy_from_slice(&envelope);
    front[GROUP_HEADER_LEN + TAG_AT..].copy_from_slice(&tag);
}

/// With which key, and which nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub key: KeyId,
    pub nonce: [u8; NONCE_LEN],
}

impl Envelope {
    fn encode(self) -> [u8; TAG_AT] {
        let mut bytes = [0; TAG_AT];
        bytes[..NONCE_AT].copy_from_slice(&self.key.0.to_le_bytes());
        bytes[NONCE_AT..RESERVED_AT].copy_from_slice(&self.nonce);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The envelope at the start of a body.
    ///
    /// # Errors
    ///
    /// [`GroupRefusal::Encoding`] if it is not whole, [`GroupRefusal::Unknown`] if it is of another make.
    pub(crate) fn decode(body: &[u8]) -> std::result::Result<Self, GroupRefusal> {
        let bytes = body.first_chunk::<ENVELOPE_LEN>();
        let Some(bytes) =
            bytes.filter(|bytes| crc32fast::hash(&bytes[..CRC_AT]) == u32_at(*bytes, CRC_AT))
        else {
            return Err(GroupRefusal::Encoding("an envelope that does not check"));
        };
        let reserved = u32_at(bytes, RESERVED_AT);
        if reserved != 0 {
            let offset = u64::try_from(GROUP_HEADER_LEN + RESERVED_AT).expect("small constants");
            let expected = "the reserved bytes of an envelope, all zero";
            return Err(GroupRefusal::Unknown { offset, expected, found: reserved.to_string() });
        }
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&bytes[NONCE_AT..RESERVED_AT]);
        Ok(Self { key: KeyId(u64_at(bytes, 0)), nonce })
    }

    /// That of a group, if the group has one that is whole.
    pub(crate) fn of(segment: &Segment, group: &GroupHeader, window: &mut Window) -> Option<Self> {
        if !group.is_encrypted() {
            return None;
        }
        let bytes = window.bytes(segment, group.offset, GROUP_HEADER_LEN + ENVELOPE_LEN);
        Self::decode(bytes.get(GROUP_HEADER_LEN..)?).ok()
    }
}

impl GroupHeader {
    /// Whether its body is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.flags & FLAG_ENCRYPTED != 0
    }

    /// The records' bytes from a body whose checksum is right, decrypted and decompressed as need be.
    pub(crate) fn decode_with<'a>(
        &self,
        log_id: u64,
        body: &'a [u8],
        keyring: Option<&Keyring>,
    ) -> std::result::Result<Cow<'a, [u8]>, GroupRefusal> {
        if !self.is_encrypted() {
            return self.decode_body(body);
        }
        let Envelope { key, nonce } = Envelope::decode(body)?;
        let cipher = keyring.and_then(|keyring| keyring.cipher(key));
        let cipher = cipher.ok_or(GroupRefusal::KeyMissing(key))?;
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&body[TAG_AT..ENVELOPE_LEN]);
        let mut text = body[ENVELOPE_LEN..].to_vec();
        let Self { flags, first, count, .. } = *self;
        let bound = Bound { log_id, flags, first, count }.encode(key);
        if !cipher.decrypt(&nonce, &bound, &mut text, &tag) {
            return Err(GroupRefusal::WrongTag(key));
        }
        let records = match self.is_compressed() {
            true => encoding::decompress(&text)?,
            false => text,
        };
        group::check_records(&records, self.count)?;
        Ok(Cow::Owned(records))
    }
}

/// Decrypts these groups of a segment, to see whether the keys are there and are the right ones.
///
/// # Errors
///
/// [`Error::KeyMissing`](crate::Error::KeyMissing) or [`Error::WrongTag`](crate::Error::WrongTag).
pub(crate) fn try_keys(
    segment: &Segment,
    header: &SegmentHeader,
    groups: impl IntoIterator<Item = GroupHeader>,
    keyring: Option<&Keyring>,
    window: &mut Window,
) -> Result<()> {
    for group in groups {
        let body_len = usize::try_from(group.body_len).expect("it fits into a segment");
        let bytes = window.bytes(segment, group.offset, GROUP_HEADER_LEN + body_len);
        let body = bytes.get(GROUP_HEADER_LEN..).unwrap_or(&[]);
        if let Err(refusal) = group.decode_with(header.log_id, body, keyring)
            && let Some(error) = refusal.not_understood(&segment.path, group.offset)
        {
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use crate::group::{Framed, Pending, Place};
    use crate::record::Kind;

    /// Adds a number to each byte; the tag is a checksum of all that it covers.
    struct Shift(u8);

    fn tag_of(nonce: &[u8], associated: &[u8], text: &[u8]) -> [u8; TAG_LEN] {
        let crc = crc32fast::hash(&[nonce, associated, text].concat());
        let mut tag = [0; TAG_LEN];
        tag[..4].copy_from_slice(&crc.to_le_bytes());
        tag
    }

    impl Cipher for Shift {
        fn encrypt(
            &self,
            nonce: &[u8; NONCE_LEN],
            associated: &[u8],
            bytes: &mut [u8],
        ) -> [u8; TAG_LEN] {
            let tag = tag_of(nonce, associated, bytes);
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(self.0));
            tag
        }

        fn decrypt(
            &self,
            nonce: &[u8; NONCE_LEN],
            associated: &[u8],
            bytes: &mut [u8],
            tag: &[u8; TAG_LEN],
        ) -> bool {
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_sub(self.0));
            *tag == tag_of(nonce, associated, bytes)
        }
    }

    const LOG_ID: u64 = 7;

    /// The header and the body of a group of two records.
    fn encrypted(keyring: &Keyring, compress: bool) -> (GroupHeader, Vec<u8>) {
        let mut encryptor = Encryptor::draw(&*SimulatedDisk::new(1), keyring).unwrap();
        let mut pending = Pending::new(Buffer::with_capacity(64), Lsn(5), false);
        pending.push(&Framed::new(Kind::ENTRY, &[9; 5000]));
        pending.push(&Framed::new(Kind::ENTRY, b"two"));
        let place = Place { flags: 0, incarnation: 1, offset: 4096, durable: Lsn(4), chain: 0 };
        let by = encryptor.next().unwrap();
        let group = pending.seal_encrypted(LOG_ID, place, Buffer::with_capacity(0), compress, &by);
        let end = GROUP_HEADER_LEN + usize::try_from(group.header.body_len).unwrap();
        (group.header, group.on_disk()[GROUP_HEADER_LEN..end].to_vec())
    }

    fn keyring() -> Keyring {
        Keyring::new(KeyId(3), Arc::new(Shift(100)))
    }

    #[test]
    fn what_is_encrypted_is_decrypted_with_its_key_in_its_place_only() {
        let ring = keyring();
        let (raw, _) = encrypted(&ring, false);
        for compress in [false, true] {
            let (header, body) = encrypted(&ring, compress);
            assert_eq!(header.is_compressed(), compress);
            assert_eq!(header.len_on_disk() < raw.len_on_disk(), compress);
            header.check_body(&body).unwrap();
            let records = header.decode_with(LOG_ID, &body, Some(&ring)).unwrap();
            assert_eq!(group::records(&records, Lsn(5)).count(), 2);
            let others = [
                (GroupHeader { first: Lsn(6), ..header }, LOG_ID),
                (GroupHeader { count: 1, ..header }, LOG_ID),
                (GroupHeader { flags: header.flags ^ 2, ..header }, LOG_ID),
                (header, 8),
            ];
            for (header, log_id) in others {
                let refused = header.decode_with(log_id, &body, Some(&ring));
                assert_eq!(refused, Err(GroupRefusal::WrongTag(KeyId(3))));
            }
            let moved = GroupHeader { offset: 8192, chain: 1, incarnation: 2, ..header };
            assert_eq!(moved.decode_with(LOG_ID, &body, Some(&ring)).unwrap(), records);
            let missing = Err(GroupRefusal::KeyMissing(KeyId(3)));
            for other in [None, Some(Keyring::for_reading())] {
                assert_eq!(header.decode_with(LOG_ID, &body, other.as_ref()), missing);
            }
            assert_eq!(header.decode_body(&body), missing);
        }
    }

    /// Also behind a right checksum: what is changed is told, and nothing panics.
    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let ring = keyring();
        let (header, body) = encrypted(&ring, true);
        for bit in 0..body.len() * 8 {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(header.decode_with(LOG_ID, &damaged, Some(&ring)).is_err(), "bit {bit}");
        }
        for end in 0..body.len() {
            assert!(header.decode_with(LOG_ID, &body[..end], Some(&ring)).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn an_envelope_of_another_make_is_unknown() {
        let (_, mut body) = encrypted(&keyring(), false);
        body[RESERVED_AT] = 1;
        let crc = crc32fast::hash(&body[..CRC_AT]);
        body[CRC_AT..TAG_AT].copy_from_slice(&crc.to_le_bytes());
        let refused = Envelope::decode(&body);
        assert!(matches!(refused, Err(GroupRefusal::Unknown { offset: 96, .. })), "{refused:?}");
    }

    #[test]
    fn nonces_differ_within_a_life_and_between_lives() {
        let (disk, ring) = (SimulatedDisk::new(1), keyring());
        let mut nonces = std::collections::HashSet::new();
        for _ in 0..10 {
            let mut encryptor = Encryptor::draw(&*disk, &ring).unwrap();
            for _ in 0..10 {
                assert!(nonces.insert(encryptor.next().unwrap().nonce));
            }
            disk.power_cut();
        }
    }
}
