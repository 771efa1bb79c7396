//! Where a user's key lies in the store (design D18).
//!
//! ```text
//! 0       4      6          14
//! +-------+------+----------+----------+
//! | space | slot | hash     | user key |      keyspace `data`
//! +-------+------+----------+----------+
//!
//! 0           8
//! +-----------+----------------+
//! | expire_ms | data key       |               keyspace `expiry`
//! +-----------+----------------+
//! ```
//!
//! All numbers have their most significant byte first, so that the store's order is the order of
//! the numbers. The *space* stands for one life of a database: emptying a database gives it a new
//! space, and what lies in the old one is unreachable at once (see [`crate::databases`]). The slot is
//! Redis Cluster's; the hash is SipHash-1-3 with a key of zeros, part of the format, so that SCAN meets
//! keys in an order that no client controls.
//!
//! A SCAN cursor is the place in that order where the scan goes on: 14 bits of slot, then the upper 49
//! bits of the hash. Nothing is kept in the server between calls, and a key that is there during the
//! whole scan is met exactly once, however many others come and go. Keys that agree in those 49 bits
//! are returned together.

use crate::slot::slot_of;

/// Bytes of a data key before the user's key.
pub const PREFIX_LEN: usize = 14;
/// Bytes of a space.
pub const SPACE_LEN: usize = 4;
/// Bytes of an expiry key before the data key.
pub const EXPIRY_LEN: usize = 8;
/// The longest key that a client may use: what the engine takes, less both prefixes.
pub const USER_KEY_LEN_MAX: usize = strandline_engine::KEY_LEN_MAX - PREFIX_LEN - EXPIRY_LEN;

/// How many bits of the hash a cursor lacks.
const CURSOR_HASH_SHIFT: u32 = 15;
/// How many bits of a cursor are hash.
const CURSOR_HASH_BITS: u32 = 64 - CURSOR_HASH_SHIFT;

/// Replaces what is in `into` by the data key of `user_key`.
pub fn write_data_key(into: &mut Vec<u8>, space: u32, user_key: &[u8]) {
    into.clear();
    into.reserve(PREFIX_LEN + user_key.len());
    push_number(into, space.into(), 4);
    push_number(into, slot_of(user_key).into(), 2);
    push_number(into, hash_of(user_key), 8);
    into.extend_from_slice(user_key);
}

/// The data key of `user_key`.
pub fn data_key(space: u32, user_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::new();
    write_data_key(&mut key, space, user_key);
    key
}

/// The key in keyspace `expiry` that belongs to a data key.
pub fn expiry_key(expire_ms: u64, data_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(EXPIRY_LEN + data_key.len());
    push_number(&mut key, expire_ms, 8);
    key.extend_from_slice(data_key);
    key
}

/// The user's key in a data key.
pub fn user_key(data_key: &[u8]) -> &[u8] {
    &data_key[PREFIX_LEN..]
}

/// The space in a data key.
pub fn space_of(data_key: &[u8]) -> u32 {
    u32::try_from(read_number(&data_key[..SPACE_LEN])).expect("four bytes")
}

/// The first bytes of all data keys of a space.
pub fn space_prefix(space: u32) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(4);
    push_number(&mut prefix, space.into(), 4);
    prefix
}

/// The hash in a data key.
pub fn hash_in(data_key: &[u8]) -> u64 {
    let hash = data_key[SPACE_LEN + 2..].first_chunk::<8>();
    u64::from_le_bytes(*hash.expect("a data key has its prefix"))
}

/// When the expiry key says, and for which data key.
pub fn split_expiry_key(key: &[u8]) -> (u64, &[u8]) {
    let (expire_ms, data_key) = key.split_at(EXPIRY_LEN);
    (read_number(expire_ms), data_key)
}

/// The cursor that stands at a data key.
pub fn cursor_of(data_key: &[u8]) -> u64 {
    let slot = read_number(&data_key[4..6]);
    let hash = read_number(&data_key[6..PREFIX_LEN]);
    slot << CURSOR_HASH_BITS | hash >> CURSOR_HASH_SHIFT
}

/// The smallest data key at or after `cursor` in a space.
pub fn cursor_start(space: u32, cursor: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_LEN);
    push_number(&mut key, space.into(), 4);
    push_number(&mut key, cursor >> CURSOR_HASH_BITS, 2);
    push_number(&mut key, cursor << CURSOR_HASH_SHIFT, 8);
    key
}

fn push_number(into: &mut Vec<u8>, number: u64, len: u32) {
    into.extend((0..len).rev().map(|byte| (number >> (byte * 8)).to_le_bytes()[0]));
}

fn read_number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// SipHash-1-3 with a key of zeros.
fn hash_of(bytes: &[u8]) -> u64 {
    let mut state: [u64; 4] = [
        0x736f_6d65_7073_6575,
        0x646f_7261_6e64_6f6d,
        0x6c79_6765_6e65_7261,
        0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        absorb(&mut state, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The last byte is the length, modulo 256.
    last[7] = bytes.len().to_le_bytes()[0];
    absorb(&mut state, u64::from_le_bytes(last));
    state[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut state);
    }
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

fn absorb(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    round(state);
    state[0] ^= word;
}

fn round(state: &mut [u64; 4]) {
    let [mut a, mut b, mut c, mut d] = *state;
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    *state = [a, b, c, d];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_siphash_1_3_for_ever() {
        // As computed by the SipHash-1-3 of the standard library with a key of zeros.
        use std::hash::Hasher;
        for len in 0..40u8 {
            let bytes: Vec<u8> = (0..len).collect();
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write(&bytes);
            assert_eq!(hash_of(&bytes), hasher.finish(), "length {len}");
        }
        assert_eq!(hash_of(b"strandline"), 10_616_962_094_494_991_445);
    }

    #[test]
    fn a_data_key_is_ordered_by_space_slot_and_hash() {
        let key = data_key(0x0102_0304, b"foo");
        assert_eq!(&key[..6], [1, 2, 3, 4, 0x2f, 0x96]);
        assert_eq!((space_of(&key), user_key(&key)), (0x0102_0304, &b"foo"[..]));
        let expiry = expiry_key(77, &key);
        assert_eq!(split_expiry_key(&expiry), (77, &key[..]));
    }

    #[test]
    fn a_cursor_leads_back_to_its_key() {
        for number in 0..1000u32 {
            let key = data_key(3, &number.to_le_bytes());
            let cursor = cursor_of(&key);
            assert!(cursor <= i64::MAX.unsigned_abs(), "some clients read cursors as signed");
            let start = cursor_start(3, cursor);
            assert!(start <= key);
            assert_eq!(cursor_of(&start), cursor);
            assert!(cursor_start(3, cursor + 1) > key);
        }
    }
}
