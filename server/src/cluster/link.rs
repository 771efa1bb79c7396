//! One connection between two nodes: who is at the other end, then frames.
//!
//! ```text
//!   Link::dial --+                        +--> send: frames of a queue, many in one write
//!                +--> handshake --> run --+
//! Link::accept --+                        +--> receive: frames to whoever takes them
//! ```
//!
//! The node that dialled sends, the other one takes; there is a second connection for the other
//! way. Both say every [`BEAT_EVERY`] that they live, and an end that hears nothing for
//! [`SILENT_BEATS_MAX`] of them gives the connection up: that finds an end that is gone without a word,
//! and one that does not read.
//!
//! Before the other end has proven who it is, it can make this one read 112 bytes and keep nothing. After
//! that, memory is taken for bytes that have come, not for bytes that are announced.
//!
//! With a secret nobody on the way can change what is said; he can read it, unless there is TLS under it.

mod error;
mod frame;
mod handshake;
mod stream;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::time::Duration;

use strandline_replication::ReplicaId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use error::{Error, Result};
pub use frame::{BODY_LEN_MAX, Frame, STATUS_LEN_MAX};
use frame::{Opener, Sealer};
use handshake::{ANSWER_LEN, HELLO_LEN, Hello, NONCE_LEN, PROOF_LEN, Role, Transcript, Verdict};
pub(crate) use handshake::{Identity, VERSION};
use stream::Stream;

use crate::cluster::peers::Outgoing;

/// How often an end with nothing to say says that it lives.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// After how many beats of silence the other end is given up. Counted one by one, so that a pause of
/// this process, in which it could hear nothing, counts as one.
pub const SILENT_BEATS_MAX: u32 = 5;
/// How long each wait of a handshake may take: a round trip, and a machine that has more to do.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);
/// Bodies up to this length are copied next to each other, to leave in one write.
const COPY_LEN_MAX: usize = 16 << 10;
/// How many bytes are gathered before they are written.
const WRITE_LEN: usize = 256 << 10;
/// How many bytes are asked for in one read, at least.
const READ_LEN: usize = 64 << 10;
/// A buffer that was grown by a long frame beyond this is given back.
const READ_KEPT: usize = 1 << 20;

/// A connection whose other end is known.
pub(crate) struct Link {
    stream: Stream,
    /// Who is at the other end.
    pub(crate) peer: ReplicaId,
    role: Role,
    sealer: Sealer,
    opener: Opener,
}

impl Link {
    /// Makes a fresh connection a link to this node.
    ///
    /// # Errors
    ///
    /// If the other end is not that node, or does not believe that we are who we are.
    pub(crate) async fn dial(
        stream: TcpStream,
        identity: &Identity,
        called: ReplicaId,
    ) -> Result<Link> {
        stream.set_nodelay(true).map_err(io_error("set up the connection"))?;
        let mut stream = in_time("agree on TLS", Stream::dialled(stream, identity, called)).await?;
        let own = identity.hello(Role::Dialer, called, Verdict::Welcome, nonce()?);
        let dialer = own.encode();
        write(&mut stream, &dialer, "send a hello").await?;
        let acceptor: [u8; HELLO_LEN] = read(&mut stream, "read a hello").await?;
        identity.check_acceptor(&Hello::decode(&acceptor, Role::Acceptor)?, called)?;
        let transcript = Transcript { dialer, acceptor };
        let secret = identity.secret.as_ref();
        let proof = transcript.proof(secret, Role::Dialer);
        write(&mut stream, &proof, "send a proof").await?;
        let answer: [u8; ANSWER_LEN] = read(&mut stream, "read the answer to a proof").await?;
        let (verdict, proof) = handshake::decode_answer(&answer)?;
        verdict.check(identity.own)?;
        transcript.verify(secret, Role::Acceptor, &proof)?;
        Ok(Link::new(stream, identity, called, Role::Dialer, &transcript))
    }

    /// Makes a connection that was accepted a link to the node that called. `caller` becomes who it
    /// says it is, proven or not, if such a node is in the list.
    ///
    /// # Errors
    ///
    /// If it is not a node of the list that called this one, or cannot prove it.
    pub(crate) async fn accept(
        stream: TcpStream,
        identity: &Identity,
        caller: &mut Option<ReplicaId>,
    ) -> Result<Link> {
        stream.set_nodelay(true).map_err(io_error("set up the connection"))?;
        let mut stream = in_time("agree on TLS", Stream::accepted(stream, identity)).await?;
        let dialer: [u8; HELLO_LEN] = read(&mut stream, "read a hello").await?;
        let checked = Hello::decode(&dialer, Role::Dialer).and_then(|hello| {
            *caller = identity.nodes.get().get(hello.from).map(|node| node.id);
            identity.check_dialer(&hello)?;
            stream.check_certificate(hello.from)?;
            Ok(hello.from)
        });
        let checked = match checked {
            // Whoever does not speak this protocol is told nothing.
            Err(error @ (Error::Magic { .. } | Error::Hello { .. })) => return Err(error),
            checked => checked,
        };
        let verdict = checked.as_ref().err().map_or(Verdict::Welcome, Verdict::of);
        let called_by = checked.as_ref().ok().copied().or(*caller).unwrap_or_default();
        let acceptor = identity.hello(Role::Acceptor, called_by, verdict, nonce()?).encode();
        write(&mut stream, &acceptor, "send a hello").await?;
        let peer = checked?;
        let transcript = Transcript { dialer, acceptor };
        let secret = identity.secret.as_ref();
        let proof: [u8; PROOF_LEN] = read(&mut stream, "read a proof").await?;
        let verified = transcript.verify(secret, Role::Dialer, &proof);
        let answer = match &verified {
            Ok(()) => {
                let proof = transcript.proof(secret, Role::Acceptor);
                handshake::encode_answer(Verdict::Welcome, &proof)
            }
            Err(error) => handshake::encode_answer(Verdict::of(error), &[0; PROOF_LEN]),
        };
        write(&mut stream, &answer, "answer a proof").await?;
        verified?;
        Ok(Link::new(stream, identity, peer, Role::Acceptor, &transcript))
    }

    fn new(
        stream: Stream,
        identity: &Identity,
        peer: ReplicaId,
        role: Role,
        transcript: &Transcript,
    ) -> Link {
        let other = match role {
            Role::Dialer => Role::Acceptor,
            Role::Acceptor => Role::Dialer,
        };
        // TLS has tags of its own.
        let secret = identity.secret.as_ref().filter(|_| matches!(stream, Stream::Plain(_)));
        let sealer = Sealer::new(transcript.key(secret, role));
        let opener = Opener::new(transcript.key(secret, other));
        Link { stream, peer, role, sealer, opener }
    }

    /// Sends what comes into the queue, until the link ends.
    pub(crate) async fn send_from(self, outgoing: &Outgoing) -> Error {
        debug_assert_eq!(self.role, Role::Dialer, "who dialled sends");
        self.run(Some(outgoing), |number, _| {
            Err(Error::Frame { number, reason: "who was called sends none" })
        })
        .await
    }

    /// Hands over every frame that comes, until the link ends.
    pub(crate) async fn receive_into(self, mut take: impl FnMut(Frame)) -> Error {
        debug_assert_eq!(self.role, Role::Acceptor, "who was called takes");
        self.run(None, |_, frame| {
            take(frame);
            Ok(())
        })
        .await
    }

    async fn run(
        self,
        outgoing: Option<&Outgoing>,
        take: impl FnMut(u64, Frame) -> Result<()>,
    ) -> Error {
        let (reader, writer) = tokio::io::split(self.stream);
        let ended = tokio::select! {
            ended = receive(reader, self.opener, take) => ended,
            ended = send(writer, self.sealer, outgoing) => ended,
        };
        match ended {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}

/// Sends frames while there are any, and beats while there are none.
async fn send(
    mut writer: impl AsyncWrite + Unpin,
    mut sealer: Sealer,
    outgoing: Option<&Outgoing>,
) -> Result<Infallible> {
    let mut buffer = Vec::with_capacity(READ_LEN);
    loop {
        let frames = match outgoing {
            Some(outgoing) => timeout(BEAT_EVERY, outgoing.take()).await.unwrap_or_default(),
            None => {
                tokio::time::sleep(BEAT_EVERY).await;
                Vec::new()
            }
        };
        if frames.is_empty() {
            sealer.beat(&mut buffer);
        }
        // What is counted in the queue until it has left.
        let mut leaving = 0;
        for frame in frames {
            let sealed = sealer.seal(&frame);
            let body = frame.body();
            leaving += Outgoing::cost(&frame);
            buffer.extend_from_slice(&sealed.header);
            if body.len() <= COPY_LEN_MAX {
                buffer.extend_from_slice(body);
            } else {
                write_both(&mut writer, &buffer, body).await?;
                buffer.clear();
            }
            buffer.extend_from_slice(sealed.tag());
            if buffer.len() >= WRITE_LEN {
                write_both(&mut writer, &buffer, &[]).await?;
                buffer.clear();
                release(outgoing, &mut leaving);
            }
        }
        write_both(&mut writer, &buffer, &[]).await?;
        // Nothing to do for TCP; TLS may hold back its last record.
        writer.flush().await.map_err(io_error("send frames"))?;
        buffer.clear();
        release(outgoing, &mut leaving);
    }
}

fn release(outgoing: Option<&Outgoing>, leaving: &mut usize) {
    if let Some(outgoing) = outgoing {
        outgoing.left(std::mem::take(leaving));
    }
}

/// Writes one after the other, in one call if the system takes it.
async fn write_both(
    writer: &mut (impl AsyncWrite + Unpin),
    first: &[u8],
    second: &[u8],
) -> Result<()> {
    let mut slices = [IoSlice::new(first), IoSlice::new(second)];
    let mut slices = &mut slices[..];
    // Drops empty slices: an empty write would say nothing about the connection.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let written = writer.write_vectored(slices).await.map_err(io_error("send frames"))?;
        if written == 0 {
            return Err(Error::Closed { operation: "send frames" });
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

/// Hands every frame over that comes.
async fn receive(
    mut reader: impl AsyncRead + Unpin,
    mut opener: Opener,
    mut take: impl FnMut(u64, Frame) -> Result<()>,
) -> Result<Infallible> {
    let mut buffer = Vec::new();
    let mut number = 0;
    let mut silent_beats = 0;
    loop {
        // Grows by doubling: at the most twice what has come.
        buffer.reserve(READ_LEN);
        match timeout(BEAT_EVERY, reader.read_buf(&mut buffer)).await {
            Err(_) if silent_beats + 1 < SILENT_BEATS_MAX => {
                silent_beats += 1;
                continue;
            }
            Err(_) => return Err(Error::Idle),
            Ok(Err(source)) => return Err(io_error("receive frames")(source)),
            Ok(Ok(0)) => return Err(Error::Closed { operation: "receive frames" }),
            Ok(Ok(_)) => silent_beats = 0,
        }
        let mut at = 0;
        while let Some(opened) = opener.open(&buffer[at..])? {
            at += opened.len;
            if let Some(frame) = opened.frame {
                take(number, frame)?;
            }
            number += 1;
        }
        buffer.drain(..at);
        if buffer.is_empty() && buffer.capacity() > READ_KEPT {
            buffer = Vec::new();
        }
    }
}

async fn write(stream: &mut Stream, bytes: &[u8], operation: &'static str) -> Result<()> {
    in_time(operation, async {
        stream.write_all(bytes).await?;
        stream.flush().await
    })
    .await
}

async fn read<const LEN: usize>(stream: &mut Stream, operation: &'static str) -> Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    in_time(operation, stream.read_exact(&mut bytes)).await?;
    Ok(bytes)
}

/// A step of a handshake.
async fn in_time<T>(
    operation: &'static str,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T> {
    match timeout(HANDSHAKE_MAX, step).await {
        Err(_) => Err(Error::Late { operation }),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Error::Closed { operation })
        }
        Ok(stepped) => stepped.map_err(io_error(operation)),
    }
}

fn io_error(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, source }
}

/// Bytes that nobody foresees.
fn nonce() -> Result<[u8; NONCE_LEN]> {
    let operation = "draw random bytes";
    let mut nonce = [0; NONCE_LEN];
    let drawn = rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty());
    match drawn.map_err(io::Error::from) {
        // The system gives so few whole.
        Ok(NONCE_LEN) => Ok(nonce),
        Ok(_) => Err(Error::Io { operation, source: io::ErrorKind::UnexpectedEof.into() }),
        Err(source) => Err(Error::Io { operation, source }),
    }
}
