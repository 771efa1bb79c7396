//! Replies: written to the end of a byte buffer, in RESP2 or RESP3.
//!
//! What RESP2 has no type for is written as its customary stand-in: a map as a flat array, a double
//! as a bulk string, null as the null bulk string, a boolean as 0 or 1.

/// The version of the protocol that a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Understood by every client; the default.
    #[default]
    Resp2,
    /// Chosen with `HELLO 3`.
    Resp3,
}

/// Writes one reply.
#[derive(Debug)]
pub struct Reply<'a> {
    /// Where it is appended.
    out: &'a mut Vec<u8>,
    /// In which version.
    protocol: Protocol,
}

impl<'a> Reply<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// The version of the protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Goes on in another version: `HELLO` answers in the one that it has chosen.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string: short, without line ends.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']), "a simple string is one line");
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.line_end();
    }

    /// An error whose text begins with its code word. Line ends in it become spaces.
    pub fn error(&mut self, text: &str) {
        self.out.push(b'-');
        self.out.extend(
            text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }),
        );
        self.line_end();
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.out.push(b':');
        self.decimal(value);
    }

    /// A count as an integer.
    pub fn count(&mut self, count: usize) {
        self.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A bulk string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + 16);
        self.length(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.line_end();
    }

    /// A text for people: verbatim in RESP3.
    pub fn verbatim(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.length(b'=', text.len() + 4);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text.as_bytes());
                self.line_end();
            }
        }
    }

    /// No value.
    pub fn null(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.out.extend_from_slice(b"$-1\r\n"),
            Protocol::Resp3 => self.out.extend_from_slice(b"_\r\n"),
        }
    }

    /// No array.
    pub fn null_array(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.out.extend_from_slice(b"*-1\r\n"),
            Protocol::Resp3 => self.out.extend_from_slice(b"_\r\n"),
        }
    }

    /// A whole reply that was written in RESP2, to a command that writes: all that differs between the
    /// versions there is having no value.
    pub fn replay(&mut self, reply: &[u8]) {
        match reply {
            b"$-1\r\n" => self.null(),
            b"*-1\r\n" => self.null_array(),
            reply => self.out.extend_from_slice(reply),
        }
    }

    /// The beginning of an array of `len` replies, which must follow.
    pub fn array(&mut self, len: usize) {
        self.length(b'*', len);
    }

    /// The beginning of a set of `len` replies.
    pub fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.length(b'*', len),
            Protocol::Resp3 => self.length(b'~', len),
        }
    }

    /// The beginning of a map of `len` pairs.
    pub fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.length(b'*', len * 2),
            Protocol::Resp3 => self.length(b'%', len),
        }
    }

    /// A floating point number, in its shortest form.
    pub fn double(&mut self, value: f64) {
        let text = if value.is_infinite() {
            if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
        } else {
            value.to_string()
        };
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.out.push(b',');
                self.out.extend_from_slice(text.as_bytes());
                self.line_end();
            }
        }
    }

    /// True or false.
    pub fn boolean(&mut self, value: bool) {
        match (self.protocol, value) {
            (Protocol::Resp2, value) => self.integer(i64::from(value)),
            (Protocol::Resp3, true) => self.out.extend_from_slice(b"#t\r\n"),
            (Protocol::Resp3, false) => self.out.extend_from_slice(b"#f\r\n"),
        }
    }

    fn length(&mut self, kind: u8, len: usize) {
        self.out.push(kind);
        self.decimal(i64::try_from(len).expect("a length in memory is below 2^63"));
    }

    fn decimal(&mut self, value: i64) {
        push_decimal(self.out, value);
        self.line_end();
    }

    fn line_end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends `value` in decimal digits, without the detour through a formatter.
pub(crate) fn push_decimal(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("below ten");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, write: impl FnOnce(&mut Reply<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Reply::new(&mut out, protocol));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn both_protocols_say_what_they_can() {
        type Write = fn(&mut Reply<'_>);
        let cases: [(Write, &str, &str); 9] = [
            (|reply| reply.bulk(b"ab"), "$2\r\nab\r\n", "$2\r\nab\r\n"),
            (|reply| reply.null(), "$-1\r\n", "_\r\n"),
            (|reply| reply.null_array(), "*-1\r\n", "_\r\n"),
            (|reply| reply.map(2), "*4\r\n", "%2\r\n"),
            (|reply| reply.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (|reply| reply.boolean(true), ":1\r\n", "#t\r\n"),
            (|reply| reply.verbatim("hi"), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
            (|reply| reply.error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (|reply| reply.set(1), "*1\r\n", "~1\r\n"),
        ];
        for (write, resp2, resp3) in cases {
            assert_eq!(written(Protocol::Resp2, write), resp2);
            assert_eq!(written(Protocol::Resp3, write), resp3);
        }
    }

    #[test]
    fn decimals_of_every_size() {
        for value in [0, 7, -7, 10, 12_345, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_decimal(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
    }
}
