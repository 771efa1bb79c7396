//! The first answer of a numbered request, kept for its retries.
//!
//! ```text
//! key:    | session (8) | number (8) |                 most significant byte first
//! value:  | kind (1) | reserved (3) | digest (4) | answer, or its length (8) |
//! ```
//!
//! The value is little-endian. Kind 1 holds the answer, in RESP2; kind 2 only its length, because it was
//! longer than [`ANSWER_LEN_MAX`]. The digest is a CRC-32 of the command: who gives a number twice, to
//! two commands, is told, and not given the answer of the other one.

use std::ops::Bound;

use strandline_engine::{Direction, Error, Range, Result};
use strandline_replication::Request;

use crate::resp::Args;

/// Longer answers are not kept: what a session keeps is bounded, by 128 of these.
pub const ANSWER_LEN_MAX: usize = 1024;

const HEADER_LEN: usize = 8;
const KIND_WHOLE: u8 = 1;
const KIND_TOO_LONG: u8 = 2;

/// What is kept of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it.
    Whole(Vec<u8>),
    /// How many bytes it had.
    TooLong(u64),
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAnswer {
    /// Of the command, see [`digest`].
    pub digest: u32,
    /// The answer.
    pub kept: Kept,
}

/// The key of a request's answer.
#[expect(clippy::big_endian_bytes, reason = "the order of keys is the order of numbers")]
pub fn key(request: Request) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&request.session.to_be_bytes());
    key[8..].copy_from_slice(&request.number.to_be_bytes());
    key
}

/// The keys of a session's answers from one number to another, both included.
pub fn keys(session: u64, first: u64, last: u64) -> Range {
    let key = |number| key(Request { session, number }).to_vec();
    Range {
        start: Bound::Included(key(first)),
        end: Bound::Included(key(last)),
        direction: Direction::Forward,
    }
}

/// Tells commands apart: a checksum of the name, in lower case, and of the arguments.
pub fn digest(args: Args<'_>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&args.at(0).to_ascii_lowercase());
    for argument in args.from(1) {
        let len = u64::try_from(argument.len()).unwrap_or(u64::MAX);
        crc.update(&len.to_le_bytes());
        crc.update(argument);
    }
    crc.finalize()
}

impl FirstAnswer {
    /// Of a command, to be kept.
    pub fn new(digest: u32, answer: &[u8]) -> Self {
        let kept = match answer.len() > ANSWER_LEN_MAX {
            true => Kept::TooLong(u64::try_from(answer.len()).unwrap_or(u64::MAX)),
            false => Kept::Whole(answer.to_vec()),
        };
        Self { digest, kept }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kept {
            Kept::Whole(_) => KIND_WHOLE,
            Kept::TooLong(_) => KIND_TOO_LONG,
        };
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend_from_slice(&self.digest.to_le_bytes());
        match &self.kept {
            Kept::Whole(answer) => bytes.extend_from_slice(answer),
            Kept::TooLong(len) => bytes.extend_from_slice(&len.to_le_bytes()),
        }
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if they are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let malformed = |offset, reason: &str| Error::Malformed {
            what: "first answer",
            offset,
            reason: reason.into(),
        };
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(malformed(0, "it is shorter than its header"));
        };
        if header[1..4] != [0; 3] {
            return Err(malformed(1, "a reserved byte is not zero"));
        }
        let digest = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let kept = match header[0] {
            KIND_WHOLE => Kept::Whole(rest.to_vec()),
            KIND_TOO_LONG => {
                let len = rest.try_into().map_err(|_| malformed(8, "a length has 8 bytes"))?;
                Kept::TooLong(u64::from_le_bytes(len))
            }
            _ => return Err(malformed(0, "its kind is unknown")),
        };
        Ok(Self { digest, kept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_and_what_is_none_is_refused() {
        let long = vec![b'x'; ANSWER_LEN_MAX + 1];
        for (answer, bytes) in [
            (&b":7\r\n"[..], [&[1, 0, 0, 0, 9, 0, 0, 0][..], b":7\r\n"].concat()),
            (&long, [[2, 0, 0, 0, 9, 0, 0, 0], 1025_u64.to_le_bytes()].concat()),
        ] {
            let first = FirstAnswer::new(9, answer);
            assert_eq!(first.encode(), bytes);
            assert_eq!(FirstAnswer::decode(&bytes).unwrap(), first);
            for (at, byte) in [(0, 3), (1, 1), (3, 1)] {
                let mut changed = bytes.clone();
                changed[at] = byte;
                assert!(FirstAnswer::decode(&changed).is_err(), "byte {at}");
            }
            assert!(FirstAnswer::decode(&bytes[..7]).is_err());
        }
        let short = [2, 0, 0, 0, 9, 0, 0, 0, 1];
        assert!(FirstAnswer::decode(&short).is_err());
    }
}
