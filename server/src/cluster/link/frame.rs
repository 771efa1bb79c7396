//! What goes over a link once both ends know each other, on byte slices; see `docs/format/link.md`.
//!
//! ```text
//! 0        4      5          8
//! +--------+------+----------+------+-----+
//! | length | kind | reserved | body | tag |      the tag only if there is a secret
//! +--------+------+----------+------+-----+
//! ```
//!
//! The tag covers the frame's number on this connection, its header and its body, with a key that
//! only this connection and direction has. So a frame that was changed, left out, repeated, or taken
//! from elsewhere is found, and the link ends there.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::error::{Error, Result};
use crate::cluster::book::BOOK_LEN_MAX;
use crate::cluster::secret;

/// Bytes before the body.
pub(crate) const HEADER_LEN: usize = RESERVED + 3;
/// Bytes after it. Half of an HMAC: to guess one takes 2^127 tries, each of which ends the link.
pub(crate) const TAG_LEN: usize = 16;
/// The longest body: the longest message of a replica (96 MiB and its header), with room to spare.
pub const BODY_LEN_MAX: usize = 97 << 20;
/// The longest status: a few numbers for each of the nodes.
pub const STATUS_LEN_MAX: usize = 1 << 20;

/// The longest question, and the longest answer to one.
const QUESTION_LEN_MAX: usize = 24;

const KIND: usize = 4;
const RESERVED: usize = KIND + 1;

const BEAT: u8 = 0;
const REPLICA: u8 = 1;
const FORWARD: u8 = 2;
const FORWARD_ANSWER: u8 = 3;
const STATUS: u8 = 4;
const BOOK: u8 = 5;
const QUESTION: u8 = 6;
const QUESTION_ANSWER: u8 = 7;

/// What one node sends to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One encoded [`Envelope`](strandline_replication::Envelope). Who takes it compares its `from`
    /// with the node that the link is from.
    Replica(Vec<u8>),
    /// A request for another node to answer.
    Forward(Vec<u8>),
    /// The answer.
    ForwardAnswer(Vec<u8>),
    /// How a node does.
    Status(Vec<u8>),
    /// Where the nodes are reached; see [`book`](crate::cluster::book).
    Book(Vec<u8>),
    /// How far a write has come; see [`question`](crate::cluster::question).
    Question(Vec<u8>),
    /// The answer.
    QuestionAnswer(Vec<u8>),
}

impl Frame {
    /// What it carries.
    pub fn body(&self) -> &[u8] {
        let (Frame::Replica(body)
        | Frame::Forward(body)
        | Frame::ForwardAnswer(body)
        | Frame::Status(body)
        | Frame::Book(body)
        | Frame::Question(body)
        | Frame::QuestionAnswer(body)) = self;
        body
    }

    /// Whether it is short enough to be sent.
    pub fn is_sendable(&self) -> bool {
        self.body().len() <= len_max(self.kind())
    }

    fn kind(&self) -> u8 {
        match self {
            Frame::Replica(_) => REPLICA,
            Frame::Forward(_) => FORWARD,
            Frame::ForwardAnswer(_) => FORWARD_ANSWER,
            Frame::Status(_) => STATUS,
            Frame::Book(_) => BOOK,
            Frame::Question(_) => QUESTION,
            Frame::QuestionAnswer(_) => QUESTION_ANSWER,
        }
    }

    fn new(kind: u8, body: &[u8]) -> Option<Frame> {
        let frame = match kind {
            REPLICA => Frame::Replica,
            FORWARD => Frame::Forward,
            FORWARD_ANSWER => Frame::ForwardAnswer,
            STATUS => Frame::Status,
            BOOK => Frame::Book,
            QUESTION => Frame::Question,
            QUESTION_ANSWER => Frame::QuestionAnswer,
            _ => return None,
        };
        Some(frame(body.to_vec()))
    }
}

/// The longest body of this kind. Unknown kinds are refused whatever their length.
fn len_max(kind: u8) -> usize {
    match kind {
        BEAT => 0,
        STATUS => STATUS_LEN_MAX,
        BOOK => BOOK_LEN_MAX,
        QUESTION | QUESTION_ANSWER => QUESTION_LEN_MAX,
        _ => BODY_LEN_MAX,
    }
}

/// The tags of one direction of one connection.
struct Tags {
    /// Keyed, with nothing in it; none without a secret.
    mac: Option<Hmac<Sha256>>,
    /// How many frames there were.
    number: u64,
}

impl Tags {
    fn new(key: Option<[u8; secret::MAC_LEN]>) -> Tags {
        Tags { mac: key.map(|key| secret::mac(&key)), number: 0 }
    }

    /// An HMAC over the next frame.
    fn next(&mut self, header: &[u8], body: &[u8]) -> Option<Hmac<Sha256>> {
        let number = self.number;
        // At a million frames a second it lasts half a million years.
        self.number += 1;
        let mac = self.mac.clone()?;
        Some(mac.chain_update(number.to_le_bytes()).chain_update(header).chain_update(body))
    }
}

/// Turns frames into bytes.
pub(crate) struct Sealer {
    tags: Tags,
}

/// What stands around a body.
pub(crate) struct Sealed {
    pub(crate) header: [u8; HEADER_LEN],
    /// Empty without a secret.
    tag: [u8; TAG_LEN],
    tag_len: usize,
}

impl Sealed {
    pub(crate) fn tag(&self) -> &[u8] {
        &self.tag[..self.tag_len]
    }
}

impl Sealer {
    /// With the key of this direction.
    pub(crate) fn new(key: Option<[u8; secret::MAC_LEN]>) -> Sealer {
        Sealer { tags: Tags::new(key) }
    }

    /// Seals the next frame. It must go out, or no later one is believed.
    pub(crate) fn seal(&mut self, frame: &Frame) -> Sealed {
        assert!(frame.is_sendable(), "the queue takes no frame that is too long");
        self.seal_body(frame.kind(), frame.body())
    }

    /// Appends a frame that says only that this end lives.
    pub(crate) fn beat(&mut self, out: &mut Vec<u8>) {
        let sealed = self.seal_body(BEAT, &[]);
        out.extend_from_slice(&sealed.header);
        out.extend_from_slice(sealed.tag());
    }

    fn seal_body(&mut self, kind: u8, body: &[u8]) -> Sealed {
        let mut header = [0; HEADER_LEN];
        let len = u32::try_from(body.len()).expect("the longest body is far shorter");
        header[..KIND].copy_from_slice(&len.to_le_bytes());
        header[KIND] = kind;
        let mut tag = [0; TAG_LEN];
        let mut tag_len = 0;
        if let Some(mac) = self.tags.next(&header, body) {
            tag.copy_from_slice(&mac.finalize().into_bytes()[..TAG_LEN]);
            tag_len = TAG_LEN;
        }
        Sealed { header, tag, tag_len }
    }
}

/// Turns bytes into frames.
pub(crate) struct Opener {
    tags: Tags,
}

/// The first frame of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// How many bytes it took.
    pub(crate) len: usize,
    /// None: the other end only says that it lives.
    pub(crate) frame: Option<Frame>,
}

impl Opener {
    /// With the key of this direction.
    pub(crate) fn new(key: Option<[u8; secret::MAC_LEN]>) -> Opener {
        Opener { tags: Tags::new(key) }
    }

    /// The frame at the beginning of `bytes`, if all of it is there.
    ///
    /// # Errors
    ///
    /// [`Error::Frame`] as soon as the header is there, [`Error::Altered`] when all is. Nothing that
    /// follows may be read.
    pub(crate) fn open(&mut self, bytes: &[u8]) -> Result<Option<Opened>> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let number = self.tags.number;
        let refused = |reason| Err(Error::Frame { number, reason });
        let kind = header[KIND];
        if kind > QUESTION_ANSWER {
            return refused("its kind is unknown");
        }
        if header[RESERVED..] != [0; HEADER_LEN - RESERVED] {
            return refused("a reserved byte is not zero");
        }
        let body_len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let body_len = usize::try_from(body_len).unwrap_or(usize::MAX);
        if body_len > len_max(kind) {
            return refused("it is too long");
        }
        let tag_len = if self.tags.mac.is_some() { TAG_LEN } else { 0 };
        let len = HEADER_LEN + body_len + tag_len;
        let Some(whole) = bytes.get(..len) else {
            return Ok(None);
        };
        let (body, tag) = whole[HEADER_LEN..].split_at(body_len);
        if let Some(mac) = self.tags.next(header, body) {
            mac.verify_truncated_left(tag).map_err(|_| Error::Altered { number })?;
        }
        Ok(Some(Opened { len, frame: Frame::new(kind, body) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [Option<[u8; 32]>; 2] = [None, Some([7; 32])];

    fn bytes_of(sealer: &mut Sealer, frame: &Frame) -> Vec<u8> {
        let sealed = sealer.seal(frame);
        [&sealed.header[..], frame.body(), sealed.tag()].concat()
    }

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        for key in KEYS {
            let (mut sealer, mut opener) = (Sealer::new(key), Opener::new(key));
            let frames = [
                Frame::Replica(b"one".to_vec()),
                Frame::Forward(Vec::new()),
                Frame::ForwardAnswer(vec![0; 1000]),
                Frame::Status(b"well".to_vec()),
            ];
            for frame in frames {
                let mut bytes = bytes_of(&mut sealer, &frame);
                for len in 0..bytes.len() {
                    assert_eq!(opener.open(&bytes[..len]).unwrap(), None);
                }
                let len = bytes.len();
                bytes.extend_from_slice(b"the next");
                assert_eq!(opener.open(&bytes).unwrap(), Some(Opened { len, frame: Some(frame) }));
                let mut beat = Vec::new();
                sealer.beat(&mut beat);
                let opened = opener.open(&beat).unwrap();
                assert_eq!(opened, Some(Opened { len: beat.len(), frame: None }));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let frame = Frame::Replica(b"some entries".to_vec());
        let sound = bytes_of(&mut Sealer::new(KEYS[1]), &frame);
        for at in 0..8 * sound.len() {
            let mut bytes = sound.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            // A length that has grown waits for bytes that belong to the next frame.
            bytes.resize(sound.len() + BODY_LEN_MAX.min(1 << 16), 0);
            match Opener::new(KEYS[1]).open(&bytes) {
                Err(Error::Altered { number: 0 } | Error::Frame { number: 0, .. }) | Ok(None) => {}
                other => panic!("bit {at}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_frame_is_good_once_at_its_place_and_with_its_key() {
        let mut sealer = Sealer::new(KEYS[1]);
        let first = bytes_of(&mut sealer, &Frame::Replica(b"same".to_vec()));
        let second = bytes_of(&mut sealer, &Frame::Replica(b"same".to_vec()));
        let mut opener = Opener::new(KEYS[1]);
        assert!(opener.open(&first).unwrap().is_some());
        assert!(matches!(opener.open(&first), Err(Error::Altered { number: 1 })), "repeated");
        let mut opener = Opener::new(KEYS[1]);
        assert!(matches!(opener.open(&second), Err(Error::Altered { number: 0 })), "left out");
        let mut opener = Opener::new(Some([8; 32]));
        assert!(matches!(opener.open(&first), Err(Error::Altered { number: 0 })), "another key");
    }

    #[test]
    fn a_header_that_no_node_sends_is_refused_before_its_body_comes() {
        for (header, expected) in [
            ([0, 0, 0, 0, 8, 0, 0, 0], "kind is unknown"),
            ([0, 0, 0, 0, 1, 0, 0, 1], "reserved"),
            ([1, 0, 16, 6, 1, 0, 0, 0], "too long"),
            ([1, 0, 16, 0, 4, 0, 0, 0], "too long"),
            ([1, 0, 1, 0, 5, 0, 0, 0], "too long"),
            ([25, 0, 0, 0, 6, 0, 0, 0], "too long"),
            ([25, 0, 0, 0, 7, 0, 0, 0], "too long"),
            ([1, 0, 0, 0, 0, 0, 0, 0], "too long"),
        ] {
            let error = Opener::new(None).open(&header).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(Opener::new(None).open(&[0, 0, 16, 6, 1, 0, 0, 0]).unwrap(), None);
    }
}
