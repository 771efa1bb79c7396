//! Requests: from the bytes that have arrived to the spans of arguments, step by step.
//!
//! The parser keeps what it knows of an unfinished request, so that a large request which arrives in
//! many pieces is looked at once. It never keeps bytes: every call gets the buffer from the
//! beginning of the current request on, with more at its end than before. Where the pieces are cut
//! changes nothing.
//!
//! Left out on purpose: nested arrays and all types but bulk strings, which no client sends.

use std::fmt;

use super::inline::{self, Unbalanced};
use super::limits::LINE_LEN_MAX;
use super::{Args, Limits, Span};

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A request of so many bytes; its arguments are at [`Parser::args`].
    Request(usize),
    /// So many bytes that ask for nothing: an empty line or an empty array.
    Nothing(usize),
    /// More bytes are needed.
    Incomplete,
}

/// Why a client's bytes are not the protocol. The connection is closed after saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The count of arguments is no number, or over the limit.
    MultibulkLength,
    /// The length of an argument is no number, or negative, or absurd.
    BulkLength,
    /// An argument does not begin with `$`.
    ExpectedBulk(u8),
    /// An argument is not followed by CRLF.
    ExpectedLineEnd,
    /// More arguments than a stranger may send.
    UnauthenticatedMultibulkLength,
    /// A longer argument than a stranger may send.
    UnauthenticatedBulkLength,
    /// An inline line without an end.
    InlineTooBig,
    /// A count of arguments without an end.
    MultibulkHeaderTooBig,
    /// A length of an argument without an end.
    BulkHeaderTooBig,
    /// Quotes of an inline line that do not match.
    UnbalancedQuotes,
    /// An argument that is over the limit.
    ArgumentTooBig {
        /// Its announced length in bytes.
        len: usize,
        /// The largest allowed.
        len_max: usize,
    },
    /// A request that is over the limit as a whole.
    RequestTooBig {
        /// The largest allowed.
        len_max: usize,
    },
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MultibulkLength => out.write_str("invalid multibulk length"),
            Self::BulkLength => out.write_str("invalid bulk length"),
            Self::ExpectedBulk(b'\r' | b'\n') => out.write_str("expected '$', got ' '"),
            Self::ExpectedBulk(found) => write!(out, "expected '$', got '{}'", char::from(*found)),
            Self::ExpectedLineEnd => out.write_str("expected CRLF after a bulk string"),
            Self::UnauthenticatedMultibulkLength => {
                out.write_str("unauthenticated multibulk length")
            }
            Self::UnauthenticatedBulkLength => out.write_str("unauthenticated bulk length"),
            Self::InlineTooBig => out.write_str("too big inline request"),
            Self::MultibulkHeaderTooBig => out.write_str("too big mbulk count string"),
            Self::BulkHeaderTooBig => out.write_str("too big bulk count string"),
            Self::UnbalancedQuotes => out.write_str("unbalanced quotes in request"),
            Self::ArgumentTooBig { len, len_max } => {
                write!(out, "an argument of {len} bytes is over the limit of {len_max} bytes")
            }
            Self::RequestTooBig { len_max } => {
                write!(out, "the request is over the limit of {len_max} bytes")
            }
        }
    }
}

impl std::error::Error for ProtocolError {}

/// The longest bulk string that Redis takes by default; a longer announcement is no mistake about
/// our limit but nonsense, and is answered in Redis' words.
const REDIS_BULK_LEN_MAX: usize = 512 << 20;

/// The state of the request that is being received.
#[derive(Debug, Default)]
pub struct Parser {
    /// The arguments that are complete, in bytes from the beginning of the request.
    spans: Vec<Span>,
    /// The bytes of an inline request after unquoting; empty for an array.
    inline: Vec<u8>,
    /// How many bytes of the request are understood.
    at: usize,
    /// How many arguments are still to come; none while the header is not complete.
    missing: Option<usize>,
    /// The length of the argument that is being received.
    bulk_len: Option<usize>,
}

impl Parser {
    /// At the beginning of a request.
    pub fn new() -> Self {
        Self::default()
    }

    /// The arguments of the request that was just found at the start of `buffer`.
    pub fn args<'a>(&'a self, buffer: &'a [u8]) -> Args<'a> {
        if self.inline.is_empty() {
            Args::new(buffer, &self.spans)
        } else {
            Args::new(&self.inline, &self.spans)
        }
    }

    /// Forgets the current request, finished or not.
    pub fn reset(&mut self) {
        self.spans.clear();
        self.inline.clear();
        self.at = 0;
        self.missing = None;
        self.bulk_len = None;
    }

    /// Goes on with the request that starts at the start of `buffer`. After
    /// [`Parsed::Request`] and [`Parsed::Nothing`] call [`Parser::reset`] and drop these bytes.
    ///
    /// # Errors
    ///
    /// If the bytes are not a request within the limits.
    pub fn parse(&mut self, buffer: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if self.missing.is_none() {
            match buffer.first() {
                None => return Ok(Parsed::Incomplete),
                Some(b'*') => {}
                Some(_) => return self.parse_inline(buffer),
            }
            let too_big = ProtocolError::MultibulkHeaderTooBig;
            let Some(line) = take_line(buffer, 1, too_big)? else { return Ok(Parsed::Incomplete) };
            let count = parse_integer(&buffer[1..line]).ok_or(ProtocolError::MultibulkLength)?;
            if count <= 0 {
                return Ok(Parsed::Nothing(line + 2));
            }
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if count > limits.args_max {
                return Err(if limits.before_auth && count <= Limits::AFTER_AUTH.args_max {
                    ProtocolError::UnauthenticatedMultibulkLength
                } else {
                    ProtocolError::MultibulkLength
                });
            }
            self.missing = Some(count);
            self.at = line + 2;
        }
        while self.missing != Some(0) {
            if !self.parse_bulk(buffer, limits)? {
                return Ok(Parsed::Incomplete);
            }
        }
        Ok(Parsed::Request(self.at))
    }

    /// Takes the next argument of an array; false if it is not all there.
    fn parse_bulk(&mut self, buffer: &[u8], limits: &Limits) -> Result<bool, ProtocolError> {
        let len = match self.bulk_len {
            Some(len) => len,
            None => {
                let Some(&first) = buffer.get(self.at) else { return Ok(false) };
                if first != b'$' {
                    return Err(ProtocolError::ExpectedBulk(first));
                }
                let too_big = ProtocolError::BulkHeaderTooBig;
                let Some(line) = take_line(buffer, self.at + 1, too_big)? else { return Ok(false) };
                let len = parse_integer(&buffer[self.at + 1..line])
                    .and_then(|len| usize::try_from(len).ok())
                    .ok_or(ProtocolError::BulkLength)?;
                check_bulk_len(len, limits)?;
                // By what is announced, not by what has arrived: else the answer would depend on
                // where the bytes are cut.
                if line + 2 + len + 2 > limits.request_len_max {
                    return Err(ProtocolError::RequestTooBig { len_max: limits.request_len_max });
                }
                self.at = line + 2;
                self.bulk_len = Some(len);
                len
            }
        };
        let end = self.at + len;
        let Some(line_end) = buffer.get(end..end + 2) else { return Ok(false) };
        if line_end != b"\r\n" {
            return Err(ProtocolError::ExpectedLineEnd);
        }
        self.spans.push(Span { start: self.at, end });
        self.at = end + 2;
        self.bulk_len = None;
        self.missing = self.missing.map(|missing| missing - 1);
        Ok(true)
    }

    fn parse_inline(&mut self, buffer: &[u8]) -> Result<Parsed, ProtocolError> {
        // What was searched before is not searched again. A line is too long wherever its bytes are
        // cut, so its end is not looked for where it must not be.
        let from = self.at;
        let searched = &buffer[from..buffer.len().min(LINE_LEN_MAX + 1)];
        let Some(found) = searched.iter().position(|byte| *byte == b'\n') else {
            if buffer.len() > LINE_LEN_MAX {
                return Err(ProtocolError::InlineTooBig);
            }
            self.at = buffer.len();
            return Ok(Parsed::Incomplete);
        };
        let end = from + found;
        let line = &buffer[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.inline.clear();
        self.spans.clear();
        inline::split(line, &mut self.inline, &mut self.spans)
            .map_err(|Unbalanced| ProtocolError::UnbalancedQuotes)?;
        if self.spans.is_empty() {
            return Ok(Parsed::Nothing(end + 1));
        }
        if self.inline.is_empty() {
            // All words are empty: give the spans something to point into.
            self.inline.push(0);
        }
        Ok(Parsed::Request(end + 1))
    }
}

fn check_bulk_len(len: usize, limits: &Limits) -> Result<(), ProtocolError> {
    if len > REDIS_BULK_LEN_MAX {
        return Err(ProtocolError::BulkLength);
    }
    if len > limits.bulk_len_max {
        return Err(if limits.before_auth {
            ProtocolError::UnauthenticatedBulkLength
        } else {
            ProtocolError::ArgumentTooBig { len, len_max: limits.bulk_len_max }
        });
    }
    Ok(())
}

/// Where the line that goes through `from` has its CR, if CR and LF have arrived.
fn take_line(
    buffer: &[u8],
    from: usize,
    too_big: ProtocolError,
) -> Result<Option<usize>, ProtocolError> {
    let rest = &buffer[from..];
    // A header is a few digits: looking at them one by one is faster than a search by words.
    match rest.iter().take(LINE_LEN_MAX + 1).position(|byte| *byte == b'\r') {
        Some(cr) if rest.len() > cr + 1 => Ok(Some(from + cr)),
        Some(_) => Ok(None),
        None if rest.len() > LINE_LEN_MAX => Err(too_big),
        None => Ok(None),
    }
}

/// A decimal integer as Redis' strict parser takes it: no spaces, no plus sign, no leading zeros.
pub(crate) fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// A decimal number without a sign, as Redis takes cursors.
pub(crate) fn parse_unsigned(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All requests in `bytes`, which arrive in the pieces that `cuts` make of them.
    fn requests(
        bytes: &[u8],
        cuts: &[usize],
        limits: &Limits,
    ) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let mut parser = Parser::new();
        let mut found = Vec::new();
        let (mut start, mut buffer) = (0, Vec::new());
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            buffer.extend_from_slice(&bytes[start..cut]);
            start = cut;
            loop {
                let taken = match parser.parse(&buffer, limits)? {
                    Parsed::Incomplete => break,
                    Parsed::Nothing(taken) => taken,
                    Parsed::Request(taken) => {
                        found.push(parser.args(&buffer).from(0).map(<[u8]>::to_vec).collect());
                        taken
                    }
                };
                parser.reset();
                buffer.drain(..taken);
            }
        }
        Ok(found)
    }

    #[test]
    fn where_the_bytes_are_cut_changes_nothing() {
        let bytes =
            b"*2\r\n$4\r\nECHO\r\n$5\r\na\r\nbc\r\n*0\r\nPING\r\n\r\n*-1\r\nset \"a b\" ''\n\
                      *3\r\n$3\r\nSET\r\n$0\r\n\r\n$11\r\nhello world\r\n";
        let whole = requests(bytes, &[], &Limits::AFTER_AUTH).unwrap();
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[0], [&b"ECHO"[..], b"a\r\nbc"]);
        assert_eq!(whole[2], [&b"set"[..], b"a b", b""]);
        for first in 0..bytes.len() {
            assert_eq!(requests(bytes, &[first], &Limits::AFTER_AUTH).unwrap(), whole);
            for second in first..bytes.len() {
                assert_eq!(requests(bytes, &[first, second], &Limits::AFTER_AUTH).unwrap(), whole);
            }
        }
        let each: Vec<_> = (0..bytes.len()).collect();
        assert_eq!(requests(bytes, &each, &Limits::AFTER_AUTH).unwrap(), whole);
    }

    /// An inline line over its bound, and a request over its own, were taken when they arrived in one
    /// piece and refused in several.
    #[test]
    fn where_the_bytes_are_cut_changes_no_refusal() {
        let mut line = vec![b'x'; LINE_LEN_MAX + 1];
        line.push(b'\n');
        let limits = Limits { request_len_max: 50, ..Limits::AFTER_AUTH };
        let array = b"*2\r\n$20\r\naaaaaaaaaaaaaaaaaaaa\r\n$20\r\naaaaaaaaaaaaaaaaaaaa\r\n";
        let request = ProtocolError::RequestTooBig { len_max: 50 };
        for (bytes, expected) in [(&line[..], ProtocolError::InlineTooBig), (array, request)] {
            for cut in [0, 9, bytes.len() - 1] {
                assert_eq!(requests(bytes, &[cut], &limits).unwrap_err(), expected, "cut at {cut}");
            }
        }
        assert_eq!(requests(&line[1..], &[], &limits).unwrap().len(), 1, "the longest line");
    }

    #[test]
    fn what_is_not_the_protocol_is_refused_in_redis_words() {
        let cases: [(&[u8], &str); 12] = [
            (b"*3000000000\r\n", "invalid multibulk length"),
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n", "expected '$', got 'f'"),
            (b"*3\r\n$3\r\nSET\r\n$-10\r\n", "invalid bulk length"),
            (b"*3\r\n$3\r\nSET\r\n$2000000000\r\n", "invalid bulk length"),
            (b"*3\r\n$3\r\nSET\r\n$blabla\r\n", "invalid bulk length"),
            (b"*3\r\n$3\r\nSET\r\n$99999999999999999999\r\n", "invalid bulk length"),
            (b"*1\r\nfoo\r\n", "expected '$', got 'f'"),
            (b"*1\r\n$3\r\nfooXX", "expected CRLF after a bulk string"),
            (b"set \"a\r\n", "unbalanced quotes in request"),
            (
                b"*1\r\n$40000000\r\n",
                "an argument of 40000000 bytes is over the limit of 33554432 bytes",
            ),
        ];
        for (bytes, expected) in cases {
            let error = requests(bytes, &[], &Limits::AFTER_AUTH).unwrap_err();
            assert_eq!(error.to_string(), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_stranger_is_kept_short() {
        let strict = Limits::BEFORE_AUTH;
        let error = requests(b"*11\r\n", &[], &strict).unwrap_err();
        assert_eq!(error, ProtocolError::UnauthenticatedMultibulkLength);
        let error = requests(b"*1\r\n$16385\r\n", &[], &strict).unwrap_err();
        assert_eq!(error, ProtocolError::UnauthenticatedBulkLength);
        assert!(requests(b"*10\r\n$16384\r\n", &[], &strict).is_ok());
    }

    #[test]
    fn headers_without_an_end_are_refused() {
        let endless = |start: u8, second: u8| -> Vec<u8> {
            let mut bytes = vec![0; LINE_LEN_MAX + 3];
            (bytes[0], bytes[1]) = (start, second);
            bytes
        };
        let limits = &Limits::AFTER_AUTH;
        let refused = |bytes: &[u8]| requests(bytes, &[], limits).unwrap_err();
        assert_eq!(refused(&endless(0, 0)), ProtocolError::InlineTooBig);
        assert_eq!(refused(&endless(b'*', 0)), ProtocolError::MultibulkHeaderTooBig);
        let mut bulk = b"*1\r\n".to_vec();
        bulk.extend(endless(b'$', 0));
        assert_eq!(refused(&bulk), ProtocolError::BulkHeaderTooBig);
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let mut parser = Parser::new();
        let found = parser.parse(b"*1000000\r\n$33554432\r\n", &Limits::AFTER_AUTH);
        assert_eq!(found, Ok(Parsed::Incomplete));
        assert_eq!(parser.spans.capacity(), 0);
    }

    #[test]
    fn integers_are_strict() {
        assert_eq!(parse_integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_integer(b"9223372036854775807"), Some(i64::MAX));
        for bytes in [&b""[..], b"-", b"-0", b"01", b"+1", b" 1", b"1 ", b"9223372036854775808"] {
            assert_eq!(parse_integer(bytes), None, "{}", bytes.escape_ascii());
        }
    }
}
