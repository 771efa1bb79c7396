//! A backup's connection to its primary: a client of it at first, then the taker of its feed.
//!
//! Blocking, on the backup's own thread. Whoever wants it to end shuts the socket down.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use strandline_engine::Index;

use super::frame::{self, Frame};
use super::lineage::Lineage;
use super::standing_file::Target;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long the primary may take to answer, or to say anything at all: it beats once a second.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often a reader that hears nothing looks whether it should go on.
const LOOK: Duration = Duration::from_millis(200);
/// The longest line of a reply.
const LINE_LEN_MAX: usize = 64 << 10;
/// The longest reply: a lineage has at most 1024 generations.
const REPLY_LEN_MAX: usize = 1 << 20;

/// Why there is no link.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Nobody answers there.
    Unreachable {
        /// Where.
        target: Target,
        /// Why.
        source: io::Error,
    },
    /// The connection ended.
    Lost(io::Error),
    /// It wants a password that is not known here, or another one.
    Password(String),
    /// It says no, in these words.
    Refused(String),
    /// It is no server of this kind.
    Foreign(String),
    /// It says what no sound primary says.
    Malformed(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreachable { target, source } => {
                write!(out, "the primary at {target} cannot be reached: {source}")
            }
            Error::Lost(source) => write!(out, "the link to the primary was lost: {source}"),
            Error::Password(text) => write!(
                out,
                "the primary does not take the password ({text}): type CONFIG SET masterauth \
                 <password> here, with what is its requirepass"
            ),
            Error::Refused(text) => write!(out, "the primary refuses: {text}"),
            Error::Foreign(text) => {
                write!(out, "what listens there is no Strandline server, it says: {text}")
            }
            Error::Malformed(reason) => write!(out, "the primary sends {reason}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<frame::Reason> for Error {
    fn from(reason: frame::Reason) -> Self {
        Error::Malformed(reason)
    }
}

/// What a primary says of itself.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Names the running processes from this one up to the first primary.
    pub path: Vec<String>,
    /// The first entry that its log still holds.
    pub first: Index,
    /// The last one that is durable.
    pub last: Index,
    /// Who wrote its log.
    pub lineage: Lineage,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Upstream {
    stream: TcpStream,
    /// Received; what is before `taken` is done with.
    input: Vec<u8>,
    taken: usize,
}

impl Upstream {
    /// Connects and authenticates; the password is empty for none.
    ///
    /// # Errors
    ///
    /// If nobody answers or the password is not taken.
    pub fn connect(target: &Target, password: &str) -> Result<Self, Error> {
        let unreachable = |source| Error::Unreachable { target: target.clone(), source };
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let addresses = (target.host.as_str(), target.port).to_socket_addrs();
        for address in addresses.map_err(unreachable)? {
            match TcpStream::connect_timeout(&address, CONNECT_MAX) {
                Ok(stream) => {
                    let settings = stream
                        .set_nodelay(true)
                        .and_then(|()| stream.set_read_timeout(Some(LOOK)))
                        .and_then(|()| stream.set_write_timeout(Some(SILENCE_MAX)));
                    settings.map_err(unreachable)?;
                    let mut upstream = Self { stream, input: Vec::new(), taken: 0 };
                    upstream.authenticate(password)?;
                    return Ok(upstream);
                }
                Err(error) => last = error,
            }
        }
        Err(unreachable(last))
    }

    /// The socket, for who wants to shut it down.
    ///
    /// # Errors
    ///
    /// If the system refuses another handle.
    pub fn handle(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    fn authenticate(&mut self, password: &str) -> Result<(), Error> {
        if password.is_empty() {
            return Ok(());
        }
        match self.ask(&["AUTH", password]) {
            Err(Error::Refused(text)) if text.starts_with("WRONGPASS") => {
                Err(Error::Password(text))
            }
            // A primary without a password does not mind being given one.
            Err(Error::Refused(text)) if text.contains("without any password") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Asks the primary who it is.
    ///
    /// # Errors
    ///
    /// If it does not say, or is of another kind.
    pub fn hello(&mut self, run_id: &str) -> Result<Hello, Error> {
        let version = frame::VERSION.to_string();
        let text = match self.ask(&["FOLLOW", "HELLO", &version, run_id]) {
            Err(Error::Refused(text)) if text.starts_with("NOAUTH") => {
                return Err(Error::Password(text));
            }
            Err(Error::Refused(text)) if text.contains("unknown command") => {
                return Err(Error::Foreign(text));
            }
            other => other?,
        };
        let fields: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(':')).collect();
        let field = |name| fields.get(name).copied().ok_or(Error::Malformed("half a greeting"));
        let number = |name| {
            field(name)?.parse().map(Index).map_err(|_| Error::Malformed("a number that is none"))
        };
        let lineage = Lineage::from_text(field("lineage")?);
        Ok(Hello {
            path: field("path")?.split(',').map(str::to_owned).collect(),
            first: number("first")?,
            last: number("last")?,
            lineage: lineage.ok_or(Error::Malformed("a lineage that is none"))?,
        })
    }

    /// Sends a command and returns the text of its reply.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with an error reply.
    pub fn ask(&mut self, words: &[&str]) -> Result<String, Error> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&request).map_err(Error::Lost)?;
        let deadline = Instant::now() + SILENCE_MAX;
        let line = self.line(deadline)?;
        let (kind, rest) = line.split_at_checked(1).ok_or(Error::Malformed("an empty reply"))?;
        match kind {
            "+" | ":" => Ok(rest.to_owned()),
            "-" => Err(Error::Refused(rest.to_owned())),
            "$" => {
                let len: usize = rest.parse().map_err(|_| Error::Malformed("a wrong length"))?;
                if len > REPLY_LEN_MAX {
                    return Err(Error::Malformed("too long a reply"));
                }
                let bytes = self.exactly(len + 2, deadline)?;
                Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
            }
            _ => Err(Error::Foreign(line)),
        }
    }

    fn line(&mut self, deadline: Instant) -> Result<String, Error> {
        loop {
            let waiting = &self.input[self.taken..];
            if let Some(len) = waiting.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&waiting[..len]).into_owned();
                self.taken += len + 2;
                return Ok(line);
            }
            if waiting.len() > LINE_LEN_MAX {
                return Err(Error::Malformed("a line without an end"));
            }
            self.receive(deadline)?;
        }
    }

    fn exactly(&mut self, len: usize, deadline: Instant) -> Result<Vec<u8>, Error> {
        while self.input.len() - self.taken < len {
            self.receive(deadline)?;
        }
        let bytes = self.input[self.taken..self.taken + len].to_vec();
        self.taken += len;
        Ok(bytes)
    }

    /// Reads more; returns when something has come.
    fn receive(&mut self, deadline: Instant) -> Result<(), Error> {
        while !self.receive_some()? {
            if Instant::now() > deadline {
                return Err(Error::Lost(io::ErrorKind::TimedOut.into()));
            }
        }
        Ok(())
    }

    /// Reads what is there; false if nothing came for a moment.
    fn receive_some(&mut self) -> Result<bool, Error> {
        if self.taken > 0 {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        let before = self.input.len();
        self.input.resize(before + (256 << 10).max(before / 2), 0);
        let read = self.stream.read(&mut self.input[before..]);
        self.input.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(Error::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => Ok(false),
                _ => Err(Error::Lost(error)),
            },
        }
    }

    /// Waits for frames and hands each to `take`, with whether another whole one is there already.
    /// Returns what `take` returns once that is something.
    ///
    /// # Errors
    ///
    /// If the link is lost or silent, a frame is damaged, or `take` fails.
    pub fn take_frames<T>(
        &mut self,
        mut take: impl FnMut(&mut TcpStream, Frame<'_>, bool) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        loop {
            let deadline = Instant::now() + SILENCE_MAX;
            while self.whole_frame()?.is_none() {
                self.receive(deadline)?;
            }
            while let Some(len) = self.whole_frame()? {
                let start = self.taken;
                self.taken += len;
                let more = self.whole_frame()?.is_some();
                let frame = frame::decode(&self.input[start..start + len])?;
                if let Some(done) = take(&mut self.stream, frame, more)? {
                    return Ok(done);
                }
            }
        }
    }

    /// The length of the frame that is next, if all of it is here.
    fn whole_frame(&self) -> Result<Option<usize>, Error> {
        let waiting = &self.input[self.taken..];
        let Some(header) = waiting.first_chunk() else { return Ok(None) };
        let len = frame::body_len(header)? + frame::HEADER_LEN;
        Ok((waiting.len() >= len).then_some(len))
    }
}
