//! The least of gRPC that puts need: one connection, one call at a time, over HTTP/2 in the clear.
//!
//! Headers are sent as literals, so nothing of HPACK has to be remembered, and those that come are not
//! looked at: a call that failed brings no message, one that succeeded brings one.
// The protocol is of that byte order.
#![allow(clippy::big_endian_bytes)]

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME_HEADER_LEN: usize = 9;
/// As much as the other end may ever send us before it is told that there is room again.
const WINDOW: u32 = (1 << 31) - 1 - 65_535;
/// How long a call may take.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Streams have odd numbers below 2^31; long before that a benchmark is over.
const STREAM_MAX: u32 = 1 << 31;

/// One connection.
pub(super) struct Connection {
    stream: TcpStream,
    /// Of the next call.
    number: u32,
    buffer: Vec<u8>,
    /// What has come of the answer.
    answer: Vec<u8>,
    headers: Vec<u8>,
    out: Vec<u8>,
}

impl Connection {
    /// Connects; all calls will be to this path.
    pub(super) fn open(address: SocketAddr, path: &str) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, CALL_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CALL_MAX))?;
        let mut out = PREFACE.to_vec();
        frame(&mut out, SETTINGS, 0, 0, &[]);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal that is not to be remembered, with a new name.
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).expect("our headers are short"));
                headers.extend_from_slice(text.as_bytes());
            }
        }
        let mut connection =
            Connection { stream, number: 1, buffer: Vec::new(), answer: Vec::new(), headers, out };
        connection.flush()?;
        Ok(connection)
    }

    /// Calls with this message; returns the one that comes back.
    pub(super) fn call(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        self.begin(message)?;
        loop {
            if let Some(answer) = self.end()? {
                return Ok(answer);
            }
        }
    }

    /// What is readable when something has come.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Sends a call.
    pub(super) fn begin(&mut self, message: &[u8]) -> Result<()> {
        let number = self.number;
        if number >= STREAM_MAX {
            return Err(Error::other("too many calls on one connection"));
        }
        self.number += 2;
        frame(&mut self.out, HEADERS, END_HEADERS, number, &self.headers);
        let len = u32::try_from(message.len()).expect("our messages are short");
        let mut body = vec![0];
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(message);
        frame(&mut self.out, DATA, END_STREAM, number, &body);
        self.flush()
    }

    /// Takes what has come, and waits if nothing has; the answer to the call that was sent last, if that was
    /// the rest of it.
    pub(super) fn end(&mut self) -> Result<Option<Vec<u8>>> {
        let number = self.number - 2;
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => self.buffer.extend_from_slice(&chunk[..count]),
        }
        let mut has_ended = false;
        while let Some((kind, flags, stream, payload)) = self.next_frame() {
            match kind {
                DATA if stream == number => self.answer.extend_from_slice(&payload),
                RESET if stream == number => return Err(Error::other("the call was reset")),
                GO_AWAY => return Err(Error::other("the server ends the connection")),
                SETTINGS if flags & ACK == 0 => frame(&mut self.out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, &payload),
                _ => {}
            }
            has_ended |=
                stream == number && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        }
        self.flush()?;
        if !has_ended {
            return Ok(None);
        }
        // A flag and a length stand before the message.
        match std::mem::take(&mut self.answer).split_at_checked(5) {
            Some((_, message)) => Ok(Some(message.to_vec())),
            None => Err(Error::other("the call was refused")),
        }
    }

    fn flush(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// The next whole frame of what has come.
    fn next_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let header: [u8; FRAME_HEADER_LEN] = *self.buffer.first_chunk()?;
        let len =
            usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let payload = self.buffer.get(FRAME_HEADER_LEN..FRAME_HEADER_LEN + len)?.to_vec();
        self.buffer.drain(..FRAME_HEADER_LEN + len);
        let stream = u32::from_be_bytes([header[5] & 0x7f, header[6], header[7], header[8]]);
        Some((header[3], header[4], stream, payload))
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("our frames are short").to_be_bytes();
    out.extend_from_slice(&[len[1], len[2], len[3], kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A field of a message that is bytes.
pub(super) fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(u8::try_from(len & 0x7f | 0x80).expect("it is masked"));
        len >>= 7;
    }
    out.push(u8::try_from(len).expect("it is below 128"));
    out.extend_from_slice(bytes);
}

/// A field of a message that is a number; bytes are stepped over, and read by `inner`.
pub(super) fn number_field(message: &[u8], wanted: u64) -> Option<u64> {
    let mut rest = message;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if tag >> 3 == wanted {
                    return Some(value);
                }
            }
            2 => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(len..)?;
            }
            _ => return None,
        }
    }
    None
}

/// A field of a message that is bytes.
pub(super) fn message_field(message: &[u8], wanted: u64) -> Option<&[u8]> {
    let mut rest = message;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => {
                varint(&mut rest)?;
            }
            2 => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                let (bytes, after) = rest.split_at_checked(len)?;
                if tag >> 3 == wanted {
                    return Some(bytes);
                }
                rest = after;
            }
            _ => return None,
        }
    }
    None
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_and_found() {
        let mut message = Vec::new();
        bytes_field(&mut message, 1, &[7; 300]);
        message.extend_from_slice(&[4 << 3, 0xac, 2]);
        assert_eq!(message_field(&message, 1), Some(&[7; 300][..]));
        assert_eq!(number_field(&message, 4), Some(300));
        assert_eq!(number_field(&message, 5), None);
        assert_eq!(number_field(&message[..200], 4), None);
    }
}
