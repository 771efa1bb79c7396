//! A command as it stands in a log entry, after the engine's header.
//!
//! ```text
//! 0        2     4       8
//! +--------+-----+-------+--------+----------+
//! | opcode | 0   | count | length | argument |   length and argument repeated
//! +--------+-----+-------+--------+----------+
//! ```
//!
//! The opcode stands for the name; the arguments are those after the name, as the client sent them.
//! Relative times in them count from the time in the entry's header.

use strandline_engine::{ENTRY_HEADER_LEN, EntryHeader, Error, Result};

use crate::resp::{Args, Span};

const HEADER_LEN: usize = 8;
const LENGTH_LEN: usize = 4;

/// Appends an entry to `into`: the header, then the command `opcode` with the arguments after the
/// name.
pub fn encode<'a>(
    into: &mut Vec<u8>,
    header: &EntryHeader,
    opcode: u16,
    arguments: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
) {
    let count = u32::try_from(arguments.len()).expect("the protocol bounds the count");
    let body: usize = arguments.clone().map(|argument| LENGTH_LEN + argument.len()).sum();
    into.reserve(ENTRY_HEADER_LEN + HEADER_LEN + body);
    into.extend_from_slice(&header.encode());
    into.extend_from_slice(&opcode.to_le_bytes());
    into.extend_from_slice(&[0, 0]);
    into.extend_from_slice(&count.to_le_bytes());
    for argument in arguments {
        let len = u32::try_from(argument.len()).expect("the protocol bounds the length");
        into.extend_from_slice(&len.to_le_bytes());
        into.extend_from_slice(argument);
    }
}

/// The opcode of a command; puts the places of the name (empty) and of the arguments into `spans`.
///
/// # Errors
///
/// [`Error::Malformed`] if the bytes are not a command.
pub fn decode(command: &[u8], spans: &mut Vec<Span>) -> Result<u16> {
    let malformed =
        |offset, reason: &str| Error::Malformed { what: "command", offset, reason: reason.into() };
    let Some((header, _)) = command.split_first_chunk::<HEADER_LEN>() else {
        return Err(malformed(0, "it is shorter than its header"));
    };
    if header[2..4] != [0; 2] {
        return Err(malformed(2, "a reserved byte is not zero"));
    }
    let opcode = u16::from_le_bytes([header[0], header[1]]);
    let count = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    spans.clear();
    spans.push(Span::default());
    let mut at = HEADER_LEN;
    for _ in 0..count {
        let Some(length) = command[at..].first_chunk::<LENGTH_LEN>() else {
            return Err(malformed(at, "an argument's length is cut off"));
        };
        let start = at + LENGTH_LEN;
        let len = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let end = start.checked_add(len).filter(|end| *end <= command.len());
        let Some(end) = end else { return Err(malformed(start, "an argument is cut off")) };
        spans.push(Span { start, end });
        at = end;
    }
    if at != command.len() {
        return Err(malformed(at, "there is more after the last argument"));
    }
    Ok(opcode)
}

/// The arguments of the command that was just decoded.
pub fn args<'a>(command: &'a [u8], spans: &'a [Span]) -> Args<'a> {
    Args::new(command, spans)
}

#[cfg(test)]
mod tests {
    use strandline_engine::{Entry, EntryKind, Index};

    use super::*;

    #[test]
    fn a_command_comes_back_and_no_part_of_it_does() {
        let mut bytes = Vec::new();
        let header = EntryHeader::of_kind(EntryKind::COMMAND);
        encode(&mut bytes, &header, 7, [&b"key"[..], b"", b"value"].into_iter());
        let command = Entry::decode(Index(1), &bytes).unwrap().command;
        let mut spans = Vec::new();
        assert_eq!(decode(command, &mut spans).unwrap(), 7);
        let arguments: Vec<_> = args(command, &spans).from(0).collect();
        assert_eq!(arguments, [&b""[..], b"key", b"", b"value"]);
        for end in 0..command.len() {
            assert!(decode(&command[..end], &mut spans).is_err(), "cut at {end}");
        }
        assert!(decode(&[command, b"x"].concat(), &mut spans).is_err());
    }
}
