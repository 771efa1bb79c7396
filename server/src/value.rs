//! What is stored under a data key.
//!
//! ```text
//! 0      1       2           10
//! +------+-------+-----------+---------+
//! | kind | 0     | expire_ms | payload |
//! +------+-------+-----------+---------+
//! ```
//!
//! `expire_ms` is in milliseconds since 1970 (UTC), little-endian; 0 for never. The second byte is
//! reserved and zero. Kind 1 is a string, whose payload is its bytes; other kinds are kept for the
//! data types to come.

use std::sync::Arc;

use strandline_engine::{Error, Result, VALUE_LEN_MAX, Value};

/// Bytes before the payload.
pub const HEADER_LEN: usize = 10;
/// The longest payload.
pub const PAYLOAD_LEN_MAX: usize = VALUE_LEN_MAX - HEADER_LEN;

/// The kind of a string.
const KIND_STRING: u8 = 1;

/// A stored value, checked.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The header and the payload.
    bytes: Bytes,
    /// When it expires; 0 for never.
    expire_ms: u64,
}

/// Where a stored value is.
#[derive(Clone, Debug)]
enum Bytes {
    /// In the store's memory.
    Read(Value),
    /// In an entry of the cache, from this byte on.
    Cached(Arc<[u8]>, usize),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Read(value) => value,
            Bytes::Cached(entry, start) => &entry[*start..],
        }
    }
}

impl Stored {
    /// Checks what was read from the store.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if it is no stored value.
    pub fn decode(bytes: Value) -> Result<Self> {
        let malformed =
            |offset, reason: String| Err(Error::Malformed { what: "stored value", offset, reason });
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return malformed(0, format!("{} bytes where {HEADER_LEN} belong", bytes.len()));
        };
        let [kind, reserved, expire_ms @ ..] = *header;
        if kind != KIND_STRING {
            return malformed(0, format!("kind {kind}, which this program does not know"));
        }
        if reserved != 0 {
            return malformed(1, "a reserved byte is not zero".into());
        }
        Ok(Self { expire_ms: u64::from_le_bytes(expire_ms), bytes: Bytes::Read(bytes) })
    }

    /// The stored value that was put into a cache's entry at `start`.
    ///
    /// # Panics
    ///
    /// If there are not even the bytes of a header.
    pub(crate) fn in_cache(entry: Arc<[u8]>, start: usize) -> Self {
        let expire_ms = entry[start + 2..].first_chunk::<8>();
        let expire_ms = u64::from_le_bytes(*expire_ms.expect("only whole values are put in"));
        Self { bytes: Bytes::Cached(entry, start), expire_ms }
    }

    /// The stored form.
    pub(crate) fn encoded(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// What is stored.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_slice()[HEADER_LEN..]
    }

    /// When it expires, in milliseconds since 1970; none for never.
    pub fn expire_ms(&self) -> Option<u64> {
        (self.expire_ms != 0).then_some(self.expire_ms)
    }

    /// Whether it is gone at `now_ms`: from that very millisecond on, as in Redis.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expire_ms != 0 && self.expire_ms <= now_ms
    }
}

/// The bytes before the payload of a string.
pub fn string_header(expire_ms: Option<u64>) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = KIND_STRING;
    header[2..].copy_from_slice(&expire_ms.unwrap_or(0).to_le_bytes());
    header
}

/// A string as it is stored.
#[cfg(test)]
pub(crate) fn encode_string(payload: &[u8], expire_ms: Option<u64>) -> Vec<u8> {
    [&string_header(expire_ms), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_comes_back_with_its_expiry() {
        let stored = Stored::decode(encode_string(b"abc", Some(9)).into()).unwrap();
        assert_eq!((stored.payload(), stored.expire_ms()), (&b"abc"[..], Some(9)));
        assert!(stored.is_expired(9));
        assert!(!stored.is_expired(8));
        let forever = Stored::decode(encode_string(b"", None).into()).unwrap();
        assert!(!forever.is_expired(u64::MAX));
    }

    #[test]
    fn what_is_no_stored_value_is_refused() {
        let good = encode_string(b"abc", None);
        assert!(Stored::decode(good[..9].to_vec().into()).is_err());
        for (at, byte) in [(0, 2), (1, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(Stored::decode(bad.into()).is_err());
        }
    }
}
