//! A small client of the Redis protocol, for the demo and the benchmark.
//!
//! One [`Connection`] is one blocking socket with its own buffers. Commands are queued, sent together,
//! and their replies taken one by one, so that pipelining needs nothing special. A thread that has
//! many connections asks [`wait`] which of them have something to read; reading those once cannot
//! block.
//!
//! Only what our own server answers to simple commands is understood: RESP2 without push messages.
//! Replies are bounded, so that a wrong address cannot make us eat all memory.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

/// How many bytes are read at once at least.
const READ_SIZE: usize = 64 << 10;
/// The longest reply we take, in bytes; the server's values are shorter.
const REPLY_LEN_MAX: usize = 64 << 20;
/// How deep arrays may be nested; nothing we ask for has more than three levels.
const DEPTH_MAX: usize = 8;
/// How long a server may be silent before we give up on it. A stalled disk may take seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What the server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A status, such as `OK`.
    Status(String),
    /// An error, with its code as first word.
    Error(String),
    /// A number.
    Integer(i64),
    /// A value.
    Bulk(Vec<u8>),
    /// No value.
    Null,
    /// Several replies.
    Array(Vec<Reply>),
}

impl Reply {
    /// Whether it is the status `OK`.
    pub(crate) fn is_ok(&self) -> bool {
        matches!(self, Reply::Status(text) if text == "OK")
    }
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes received; those before `taken` have been given out as replies.
    input: Vec<u8>,
    /// How much of `input` has been given out.
    taken: usize,
    /// Commands that have not been sent yet.
    output: Vec<u8>,
}

impl Connection {
    /// Connects, waiting for `timeout` at the most.
    ///
    /// # Errors
    ///
    /// If nobody listens there.
    pub(crate) fn open(address: SocketAddr, timeout: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Ok(Connection { stream, input: Vec::new(), taken: 0, output: Vec::new() })
    }

    /// Queues a command.
    pub(crate) fn queue(&mut self, arguments: &[&[u8]]) {
        let out = &mut self.output;
        // Writing to a vector does not fail.
        let _ = write!(out, "*{}\r\n", arguments.len());
        for argument in arguments {
            let _ = write!(out, "${}\r\n", argument.len());
            out.extend_from_slice(argument);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Sends everything that is queued.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        let sent = self.stream.write_all(&self.output);
        self.output.clear();
        sent
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    ///
    /// If the connection is broken or what comes back is not the protocol.
    pub(crate) fn ask(&mut self, arguments: &[&[u8]]) -> io::Result<Reply> {
        self.queue(arguments);
        self.send()?;
        self.reply()
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    ///
    /// As for [`ask`](Connection::ask).
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(reply) = self.take()? {
                return Ok(reply);
            }
            self.fill()?;
        }
    }

    /// The next reply, if it has been received completely.
    ///
    /// # Errors
    ///
    /// If what was received is not the protocol.
    pub(crate) fn take(&mut self) -> io::Result<Option<Reply>> {
        match parse(&self.input[self.taken..], 0)? {
            Some((reply, len)) => {
                self.taken += len;
                Ok(Some(reply))
            }
            None => Ok(None),
        }
    }

    /// Reads once from the socket.
    ///
    /// # Errors
    ///
    /// If the connection is broken or was closed by the server.
    pub(crate) fn fill(&mut self) -> io::Result<()> {
        self.input.drain(..self.taken);
        self.taken = 0;
        if self.input.len() > REPLY_LEN_MAX {
            return Err(malformed("a reply is longer than 64 MiB"));
        }
        let len = self.input.len();
        self.input.resize(len + READ_SIZE, 0);
        let result = loop {
            match self.stream.read(&mut self.input[len..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.input.truncate(len + result.as_ref().map_or(0, |&count| count));
        match result? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server")),
            _ => Ok(()),
        }
    }
}

/// Waits until one of `connections` has something to read, or `timeout` has passed. Says of each
/// whether [`Connection::fill`] returns at once.
///
/// # Errors
///
/// If the system refuses to wait.
pub(crate) fn wait<'a>(
    connections: impl Iterator<Item = &'a Connection>,
    timeout: Duration,
    ready: &mut Vec<bool>,
) -> io::Result<()> {
    let mut polled: Vec<PollFd<'_>> =
        connections.map(|one| PollFd::new(&one.stream, PollFlags::IN)).collect();
    let timeout = Timespec::try_from(timeout).map_err(|_| malformed("a wait is too long"))?;
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    ready.clear();
    // An error or a hang-up is told by reading.
    ready.extend(polled.iter().map(|one| !one.revents().is_empty()));
    Ok(())
}

fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

/// Reads one reply from the front of `bytes`: the reply and its length, or none if it is incomplete.
fn parse(bytes: &[u8], depth: usize) -> io::Result<Option<(Reply, usize)>> {
    if depth > DEPTH_MAX {
        return Err(malformed("replies are nested too deeply"));
    }
    let Some(end) = bytes.iter().position(|&byte| byte == b'\r') else { return Ok(None) };
    if bytes.len() < end + 2 {
        return Ok(None);
    }
    let (Some(&kind), Some(line)) = (bytes.first(), bytes.get(1..end)) else {
        return Err(malformed("an empty line where a reply belongs"));
    };
    let text = || String::from_utf8_lossy(line).into_owned();
    let number = || -> io::Result<i64> {
        let text = std::str::from_utf8(line).map_err(|_| malformed("a length is no number"))?;
        text.parse().map_err(|_| malformed("a length is no number"))
    };
    let after = end + 2;
    match kind {
        b'+' => Ok(Some((Reply::Status(text()), after))),
        b'-' => Ok(Some((Reply::Error(text()), after))),
        b':' => Ok(Some((Reply::Integer(number()?), after))),
        b'$' => {
            let Ok(len) = usize::try_from(number()?) else {
                return Ok(Some((Reply::Null, after)));
            };
            if len > REPLY_LEN_MAX {
                return Err(malformed("a value is longer than 64 MiB"));
            }
            match bytes.get(after..after + len + 2) {
                Some(value) => Ok(Some((Reply::Bulk(value[..len].to_vec()), after + len + 2))),
                None => Ok(None),
            }
        }
        b'*' => {
            let Ok(count) = usize::try_from(number()?) else {
                return Ok(Some((Reply::Null, after)));
            };
            let mut at = after;
            let mut replies = Vec::new();
            for _ in 0..count {
                let Some((reply, len)) = parse(&bytes[at..], depth + 1)? else { return Ok(None) };
                replies.push(reply);
                at += len;
            }
            Ok(Some((Reply::Array(replies), at)))
        }
        _ => Err(malformed("this is not the Redis protocol")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_KIND: &[u8] = b"*6\r\n+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*0\r\n";

    #[test]
    fn every_kind_of_reply_is_understood() {
        let (reply, len) = parse(EVERY_KIND, 0).expect("valid").expect("complete");
        assert_eq!(len, EVERY_KIND.len());
        let expected = vec![
            Reply::Status("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Integer(-7),
            Reply::Bulk(b"a\r\n".to_vec()),
            Reply::Null,
            Reply::Array(vec![]),
        ];
        assert_eq!(reply, Reply::Array(expected));
    }

    #[test]
    fn any_part_of_a_reply_is_incomplete() {
        for len in 0..EVERY_KIND.len() {
            assert_eq!(parse(&EVERY_KIND[..len], 0).expect("valid so far"), None, "{len} bytes");
        }
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        for bytes in [&b"HTTP/1.1 400\r\n"[..], b"\r\n", b"$x\r\n", b"$99999999999\r\n"] {
            assert!(parse(bytes, 0).is_err(), "{bytes:?}");
        }
        let deep = b"*1\r\n".repeat(DEPTH_MAX + 2);
        assert!(parse(&deep, 0).is_err(), "deeper than we go");
    }
}
