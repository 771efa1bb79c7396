//! A batch: puts and deletes that take effect together, as one entry at one index.
//!
//! ```text
//! 0     1          5            9              13
//! +-----+----------+------------+--------------+-----+-------+
//! | tag | keyspace | key length | value length | key | value |   repeated
//! +-----+----------+------------+--------------+-----+-------+
//! ```
//!
//! The tag is 1 for a put and 2 for a delete (with a value length of 0).

use crate::{
    BATCH_LEN_MAX, ENTRY_HEADER_LEN, EntryHeader, EntryKind, Error, KEY_LEN_MAX, KeyspaceId,
    Result, VALUE_LEN_MAX,
};

const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;
const OP_HEADER_LEN: usize = 13;

/// One change of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op<'a> {
    /// In which keyspace.
    pub keyspace: KeyspaceId,
    /// Of which key.
    pub key: &'a [u8],
    /// To which value; none deletes the key.
    pub value: Option<&'a [u8]>,
    /// Where the value starts in the encoded batch, in bytes.
    pub value_offset: usize,
}

/// Changes that take effect together. The last change of a key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The encoded operations, behind room for the entry's header.
    bytes: Vec<u8>,
    /// How many operations.
    count: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    ///
    /// If the key, the value or the batch would be over its limit; the batch is then unchanged.
    pub fn put(&mut self, keyspace: KeyspaceId, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_parts(keyspace, key, [value, &[]])
    }

    /// As [`put`](Batch::put), of a value in two parts that lie apart.
    ///
    /// # Errors
    ///
    /// As for [`put`](Batch::put).
    pub fn put_parts(&mut self, keyspace: KeyspaceId, key: &[u8], value: [&[u8]; 2]) -> Result<()> {
        let len = value[0].len() + value[1].len();
        if len > VALUE_LEN_MAX {
            return Err(Error::ValueLength { len });
        }
        self.push(TAG_PUT, keyspace, key, value)
    }

    /// Deletes `key`.
    ///
    /// # Errors
    ///
    /// As for [`put`](Batch::put).
    pub fn delete(&mut self, keyspace: KeyspaceId, key: &[u8]) -> Result<()> {
        self.push(TAG_DELETE, keyspace, key, [&[], &[]])
    }

    fn push(&mut self, tag: u8, keyspace: KeyspaceId, key: &[u8], value: [&[u8]; 2]) -> Result<()> {
        let value_len = value[0].len() + value[1].len();
        if key.is_empty() || key.len() > KEY_LEN_MAX {
            return Err(Error::KeyLength { len: key.len() });
        }
        let len = self.encoded().len() + OP_HEADER_LEN + key.len() + value_len;
        if len > BATCH_LEN_MAX {
            return Err(Error::BatchLength { len });
        }
        if self.bytes.is_empty() {
            self.bytes.reserve(ENTRY_HEADER_LEN + len);
            self.bytes.extend_from_slice(&EntryHeader::of_kind(EntryKind::BATCH).encode());
        }
        let key_len = u32::try_from(key.len()).expect("bounded by KEY_LEN_MAX");
        let value_len = u32::try_from(value_len).expect("bounded by VALUE_LEN_MAX");
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&keyspace.0.to_le_bytes());
        self.bytes.extend_from_slice(&key_len.to_le_bytes());
        self.bytes.extend_from_slice(&value_len.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value[0]);
        self.bytes.extend_from_slice(value[1]);
        self.count += 1;
        Ok(())
    }

    /// Takes the operations of an encoded batch, in place of those it holds.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if the bytes are not a batch within the limits; it is empty then.
    pub fn load(&mut self, encoded: &[u8]) -> Result<()> {
        self.clear();
        let mut count = 0;
        for op in Batch::decode(encoded) {
            op?;
            count += 1;
        }
        self.bytes.extend_from_slice(&EntryHeader::of_kind(EntryKind::BATCH).encode());
        self.bytes.extend_from_slice(encoded);
        self.count = count;
        Ok(())
    }

    /// How many operations.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets all operations, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// The encoded operations.
    pub fn encoded(&self) -> &[u8] {
        self.bytes.get(ENTRY_HEADER_LEN..).unwrap_or(&[])
    }

    /// The batch as the payload of a log record: an entry of kind [`EntryKind::BATCH`].
    pub fn as_entry(&self) -> &[u8] {
        &self.bytes
    }

    /// The operations, in the order in which they were added.
    pub fn ops(&self) -> impl Iterator<Item = Op<'_>> {
        Batch::decode(self.encoded()).map(|op| op.expect("a batch holds what it encoded"))
    }

    /// The operations of an encoded batch; ends after the first error.
    ///
    /// # Errors
    ///
    /// Each item is [`Error::Malformed`] where the bytes are not an operation within the limits.
    pub fn decode(bytes: &[u8]) -> impl Iterator<Item = Result<Op<'_>>> {
        let mut offset = 0;
        std::iter::from_fn(move || {
            if offset >= bytes.len() {
                return None;
            }
            let op = decode_op(bytes, offset);
            offset = match &op {
                Ok(op) => op.value_offset + op.value.map_or(0, <[u8]>::len),
                Err(_) => bytes.len(),
            };
            Some(op)
        })
    }
}

fn decode_op(bytes: &[u8], offset: usize) -> Result<Op<'_>> {
    let malformed = |reason: String| Error::Malformed { what: "batch", offset, reason };
    let rest = &bytes[offset..];
    let Some((header, body)) = rest.split_first_chunk::<OP_HEADER_LEN>() else {
        return Err(malformed(format!("{} bytes where {OP_HEADER_LEN} belong", rest.len())));
    };
    let u32_at = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let key_len = usize::try_from(u32_at(5)).unwrap_or(usize::MAX);
    let value_len = usize::try_from(u32_at(9)).unwrap_or(usize::MAX);
    if key_len == 0 || key_len > KEY_LEN_MAX || value_len > VALUE_LEN_MAX {
        return Err(malformed(format!("a key of {key_len} and a value of {value_len} bytes")));
    }
    let Some(key_and_value) = body.get(..key_len + value_len) else {
        return Err(malformed(format!(
            "{} bytes where {} belong",
            body.len(),
            key_len + value_len
        )));
    };
    let (key, value) = key_and_value.split_at(key_len);
    let value = match header[0] {
        TAG_PUT => Some(value),
        TAG_DELETE if value.is_empty() => None,
        tag => return Err(malformed(format!("tag {tag} with a value of {value_len} bytes"))),
    };
    let keyspace = KeyspaceId(u32_at(1));
    Ok(Op { keyspace, key, value, value_offset: offset + OP_HEADER_LEN + key_len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_back_in_order() {
        let mut batch = Batch::new();
        batch.put(KeyspaceId(7), b"a", b"1").unwrap();
        batch.delete(KeyspaceId(0), b"b").unwrap();
        batch.put(KeyspaceId(7), b"c", b"").unwrap();
        let ops: Vec<_> = batch.ops().map(|op| (op.keyspace.0, op.key, op.value)).collect();
        assert_eq!(
            ops,
            [(7, &b"a"[..], Some(&b"1"[..])), (0, b"b", None), (7, b"c", Some(&b""[..]))]
        );
        for end in 0..batch.encoded().len() {
            let cut = Batch::decode(&batch.encoded()[..end]);
            assert!(cut.filter(|op| op.is_ok()).count() < 3);
        }
    }

    #[test]
    fn limits_refuse_and_change_nothing() {
        let mut batch = Batch::new();
        assert!(matches!(
            batch.put(KeyspaceId::DEFAULT, b"", b"v"),
            Err(Error::KeyLength { len: 0 })
        ));
        let long = vec![0; KEY_LEN_MAX + 1];
        assert!(matches!(batch.delete(KeyspaceId::DEFAULT, &long), Err(Error::KeyLength { .. })));
        assert!(batch.is_empty());
        assert!(batch.as_entry().is_empty());
    }
}
