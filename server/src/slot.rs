//! The hash slot of a key: Redis Cluster's CRC16 over the key, or over its hash tag.
//!
//! The tag is what stands between the first `{` and the next `}`, if that is not empty: keys with
//! the same tag share a slot.

/// How many slots there are.
pub const SLOT_COUNT: u16 = 1 << 14;

/// CRC16/XMODEM of every byte.
const TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    // A constant function has neither `for` nor conversions; both counters stay below 256.
    let mut high: u16 = 0;
    while byte < 256 {
        let mut crc = high << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
        high = high.wrapping_add(1);
    }
    table
}

/// The slot of a user's key.
pub fn slot_of(key: &[u8]) -> u16 {
    let crc = tag(key).iter().fold(0u16, |crc, byte| {
        let [low, high] = crc.to_le_bytes();
        u16::from_le_bytes([0, low]) ^ TABLE[usize::from(high ^ byte)]
    });
    crc % SLOT_COUNT
}

fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b""), 0);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
    }
}
