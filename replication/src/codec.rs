//! Messages as bytes: versioned, checksummed, bounded.
//!
//! ```text
//! 0       4         6      7          8          12         16     24   32      40     48
//! +-------+---------+------+----------+----------+----------+------+----+-------+------+------+
//! | magic | version | kind | reserved | body len | checksum | from | to | group | term | body |
//! +-------+---------+------+----------+----------+----------+------+----+-------+------+------+
//! ```
//!
//! The checksum covers everything but itself. Fields and limits are in `docs/format/message.md`. A
//! decoder never allocates more than the bytes it was given can fill.

use bytes::Bytes;

use crate::message::{Body, Envelope, FileOffer, Message, SnapshotBody, VoteKind};
use crate::{Error, Index, Membership, ReplicaId, Result, Term};

/// Bytes before the body; [`frame_len`] reads the length of the whole message from them.
pub const ENVELOPE_HEADER_LEN: usize = 48;

const MAGIC: [u8; 4] = *b"SLMG";
const VERSION: u16 = 1;
const CHECKSUM: std::ops::Range<usize> = 12..16;

/// The longest body: the largest record of the log, and room for what stands around it.
const BODY_LEN_MAX: usize = 96 << 20;
/// How many files a checkpoint may have.
const FILES_MAX: u32 = 1 << 20;

const APPEND: u8 = 1;
const APPENDED: u8 = 2;
const APPEND_REFUSED: u8 = 3;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ANSWER: u8 = 5;
const VOTE_REQUEST: u8 = 6;
const VOTE_ANSWER: u8 = 7;
const TIMEOUT_NOW: u8 = 8;
const READ_REQUEST: u8 = 9;
const READ_ANSWER: u8 = 10;
const PROBE: u8 = 16;
const PROBE_ANSWER: u8 = 17;
const SNAPSHOT_OFFER: u8 = 11;
const SNAPSHOT_FETCH: u8 = 12;
const SNAPSHOT_CHUNK: u8 = 13;
const SNAPSHOT_DONE: u8 = 14;
const SNAPSHOT_GONE: u8 = 15;

const REPAIR_REQUEST: u8 = 18;
const REPAIR: u8 = 19;
const SNAPSHOT_WANTED: u8 = 20;

/// Appends the message's bytes to `out`.
///
/// # Panics
///
/// If the body is longer than the format allows, which no replica makes.
pub fn encode(envelope: &Envelope, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; ENVELOPE_HEADER_LEN]);
    let kind = encode_body(&envelope.message.body, out);
    let body_len = out.len() - start - ENVELOPE_HEADER_LEN;
    assert!(body_len <= BODY_LEN_MAX, "a replica bounds what it sends");
    let frame = &mut out[start..];
    frame[0..4].copy_from_slice(&MAGIC);
    frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
    frame[6] = kind;
    let body_len = u32::try_from(body_len).expect("it is bounded");
    frame[8..12].copy_from_slice(&body_len.to_le_bytes());
    frame[16..24].copy_from_slice(&envelope.from.0.to_le_bytes());
    frame[24..32].copy_from_slice(&envelope.to.0.to_le_bytes());
    frame[32..40].copy_from_slice(&envelope.group.to_le_bytes());
    frame[40..48].copy_from_slice(&envelope.message.term.0.to_le_bytes());
    let checksum = checksum(frame);
    frame[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}

/// Decodes one whole message.
///
/// # Errors
///
/// [`Error::Message`] says what is wrong where.
pub fn decode(bytes: &[u8]) -> Result<Envelope> {
    decode_shared(&Bytes::copy_from_slice(bytes))
}

/// As [`decode`], without copying: entries and parts of files share the memory of the message.
///
/// # Errors
///
/// As for [`decode`].
pub fn decode_shared(bytes: &Bytes) -> Result<Envelope> {
    if bytes.len() < ENVELOPE_HEADER_LEN {
        return Err(refused(0, format!("{} bytes are no message", bytes.len())));
    }
    if bytes[0..4] != MAGIC {
        return Err(refused(0, format!("the magic bytes are {:02x?}", &bytes[0..4])));
    }
    let mut header = Fields { bytes, at: 4 };
    let version = header.u16()?;
    if version != VERSION {
        return Err(refused(4, format!("version {version}, and {VERSION} is known here")));
    }
    let kind = header.u8()?;
    if header.u8()? != 0 {
        return Err(refused(7, "a reserved byte is not zero".into()));
    }
    let body_len = usize::try_from(header.u32()?).unwrap_or(usize::MAX);
    let found_len = bytes.len() - ENVELOPE_HEADER_LEN;
    if body_len > BODY_LEN_MAX || body_len != found_len {
        let reason = format!("a body of {body_len} bytes is announced, {found_len} follow");
        return Err(refused(8, reason));
    }
    let (told, found) = (header.u32()?, checksum(bytes));
    if told != found {
        return Err(refused(12, format!("the checksum is {told:#010x}, not {found:#010x}")));
    }
    let (from, to) = (ReplicaId(header.u64()?), ReplicaId(header.u64()?));
    let (group, term) = (header.u64()?, Term(header.u64()?));
    if from.0 == 0 || to.0 == 0 {
        return Err(refused(16, "no replica has the id 0".into()));
    }
    let mut fields = Fields { bytes, at: ENVELOPE_HEADER_LEN };
    let body = decode_body(kind, &mut fields)?;
    if fields.at != bytes.len() {
        return Err(refused(fields.at, "bytes follow the last field".into()));
    }
    Ok(Envelope { from, to, group, message: Message { term, body } })
}

/// How long the whole message is whose header this is.
///
/// # Errors
///
/// [`Error::Message`] if it is no header, or announces more than the format allows: read no further.
pub fn frame_len(header: &[u8; ENVELOPE_HEADER_LEN]) -> Result<usize> {
    if header[0..4] != MAGIC {
        return Err(refused(0, format!("the magic bytes are {:02x?}", &header[0..4])));
    }
    let body_len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let body_len = usize::try_from(body_len).unwrap_or(usize::MAX);
    if body_len > BODY_LEN_MAX {
        return Err(refused(8, format!("a body of {body_len} bytes is too long")));
    }
    Ok(ENVELOPE_HEADER_LEN + body_len)
}

fn refused(offset: usize, reason: String) -> Error {
    Error::Message { offset, reason }
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..CHECKSUM.start]);
    hasher.update(&frame[CHECKSUM.end..]);
    hasher.finalize()
}

fn encode_body(body: &Body, out: &mut Vec<u8>) -> u8 {
    match body {
        Body::Append { previous, previous_term, committed, entries } => {
            put_words(out, &[previous.0, previous_term.0, committed.0]);
            put_u32(out, entries.len());
            for entry in entries {
                put_bytes(out, entry);
            }
            APPEND
        }
        Body::Appended { last, committed } => {
            put_words(out, &[last.0, committed.0]);
            APPENDED
        }
        Body::AppendRefused { previous, hint, hint_term, committed } => {
            put_words(out, &[previous.0, hint.0, hint_term.0, committed.0]);
            APPEND_REFUSED
        }
        Body::Heartbeat { committed, context, lease_ticks } => {
            put_words(out, &[committed.0]);
            out.extend_from_slice(&lease_ticks.to_le_bytes());
            put_bytes(out, context);
            HEARTBEAT
        }
        Body::HeartbeatAnswer { committed, context } => {
            put_words(out, &[committed.0]);
            put_bytes(out, context);
            HEARTBEAT_ANSWER
        }
        Body::VoteRequest { kind, last, last_term, committed, committed_term, is_transfer } => {
            put_words(out, &[last.0, last_term.0, committed.0, committed_term.0]);
            out.extend_from_slice(&[is_real(*kind), u8::from(*is_transfer)]);
            VOTE_REQUEST
        }
        Body::VoteAnswer { kind, granted, committed, committed_term, in_doubt } => {
            put_words(out, &[committed.0, committed_term.0]);
            out.extend_from_slice(&[is_real(*kind), u8::from(*granted), u8::from(*in_doubt)]);
            VOTE_ANSWER
        }
        Body::TimeoutNow => TIMEOUT_NOW,
        Body::ReadRequest { context } => {
            put_bytes(out, context);
            READ_REQUEST
        }
        Body::ReadAnswer { index, context } => {
            put_words(out, &[index.0]);
            put_bytes(out, context);
            READ_ANSWER
        }
        Body::Probe { nonce, last } => {
            put_words(out, &[*nonce, last.0]);
            PROBE
        }
        Body::ProbeAnswer { nonce, last, membership, is_leader, is_unanimous, is_sure } => {
            put_words(out, &[*nonce, last.0]);
            membership.encode(out);
            out.extend([is_leader, is_unanimous, is_sure].map(|flag| u8::from(*flag)));
            PROBE_ANSWER
        }
        Body::Snapshot(body) => encode_snapshot(body, out),
        Body::RepairRequest { first, end, before_term, end_term, is_tail } => {
            put_words(out, &[first.0, end.0, before_term.0, end_term.0]);
            out.push(u8::from(*is_tail));
            REPAIR_REQUEST
        }
        Body::Repair { first, entries, is_leader, is_trimmed } => {
            put_words(out, &[first.0]);
            out.extend_from_slice(&[u8::from(*is_leader), u8::from(*is_trimmed)]);
            put_u32(out, entries.len());
            entries.iter().for_each(|entry| put_bytes(out, entry));
            REPAIR
        }
    }
}

fn encode_snapshot(body: &SnapshotBody, out: &mut Vec<u8>) -> u8 {
    match body {
        SnapshotBody::Offer { id, index, term, membership, files } => {
            put_words(out, &[*id, index.0, term.0]);
            membership.encode(out);
            put_u32(out, files.len());
            for file in files {
                put_words(out, &[file.len]);
                out.extend_from_slice(&file.checksum.to_le_bytes());
                put_bytes(out, file.name.as_bytes());
            }
            SNAPSHOT_OFFER
        }
        SnapshotBody::Fetch { id, file, offset, len } => {
            put_words(out, &[*id, *offset]);
            out.extend_from_slice(&file.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
            SNAPSHOT_FETCH
        }
        SnapshotBody::Chunk { id, file, offset, bytes } => {
            put_words(out, &[*id, *offset]);
            out.extend_from_slice(&file.to_le_bytes());
            put_bytes(out, bytes);
            SNAPSHOT_CHUNK
        }
        SnapshotBody::Done { id, installed } => {
            put_words(out, &[*id]);
            out.push(u8::from(*installed));
            SNAPSHOT_DONE
        }
        SnapshotBody::Wanted { index } => {
            put_words(out, &[index.0]);
            SNAPSHOT_WANTED
        }
        SnapshotBody::Gone { id } => {
            put_words(out, &[*id]);
            SNAPSHOT_GONE
        }
    }
}

fn decode_body(kind: u8, fields: &mut Fields<'_>) -> Result<Body> {
    Ok(match kind {
        APPEND => {
            let (previous, previous_term) = (fields.index()?, fields.term()?);
            let committed = fields.index()?;
            let entries = fields.entries()?;
            Body::Append { previous, previous_term, committed, entries }
        }
        APPENDED => Body::Appended { last: fields.index()?, committed: fields.index()? },
        APPEND_REFUSED => Body::AppendRefused {
            previous: fields.index()?,
            hint: fields.index()?,
            hint_term: fields.term()?,
            committed: fields.index()?,
        },
        HEARTBEAT => {
            let (committed, lease_ticks) = (fields.index()?, fields.u32()?);
            Body::Heartbeat { committed, context: fields.bytes()?, lease_ticks }
        }
        HEARTBEAT_ANSWER => {
            Body::HeartbeatAnswer { committed: fields.index()?, context: fields.bytes()? }
        }
        VOTE_REQUEST => {
            let (last, last_term) = (fields.index()?, fields.term()?);
            let (committed, committed_term) = (fields.index()?, fields.term()?);
            let (kind, is_transfer) = (fields.vote_kind()?, fields.bool()?);
            Body::VoteRequest { kind, last, last_term, committed, committed_term, is_transfer }
        }
        VOTE_ANSWER => {
            let (committed, committed_term) = (fields.index()?, fields.term()?);
            let (kind, granted) = (fields.vote_kind()?, fields.bool()?);
            let in_doubt = fields.bool()?;
            Body::VoteAnswer { kind, granted, committed, committed_term, in_doubt }
        }
        TIMEOUT_NOW => Body::TimeoutNow,
        READ_REQUEST => Body::ReadRequest { context: fields.bytes()? },
        READ_ANSWER => Body::ReadAnswer { index: fields.index()?, context: fields.bytes()? },
        PROBE => Body::Probe { nonce: fields.u64()?, last: fields.index()? },
        PROBE_ANSWER => Body::ProbeAnswer {
            nonce: fields.u64()?,
            last: fields.index()?,
            membership: fields.membership()?,
            is_leader: fields.bool()?,
            is_unanimous: fields.bool()?,
            is_sure: fields.bool()?,
        },
        SNAPSHOT_OFFER..=SNAPSHOT_GONE => Body::Snapshot(decode_snapshot(kind, fields)?),
        REPAIR_REQUEST => Body::RepairRequest {
            first: fields.index()?,
            end: fields.index()?,
            before_term: fields.term()?,
            end_term: fields.term()?,
            is_tail: fields.bool()?,
        },
        SNAPSHOT_WANTED => Body::Snapshot(SnapshotBody::Wanted { index: fields.index()? }),
        REPAIR => {
            let first = fields.index()?;
            let (is_leader, is_trimmed) = (fields.bool()?, fields.bool()?);
            Body::Repair { first, entries: fields.entries()?, is_leader, is_trimmed }
        }
        _ => return Err(refused(6, format!("no message has kind {kind}"))),
    })
}

fn decode_snapshot(kind: u8, fields: &mut Fields<'_>) -> Result<SnapshotBody> {
    let id = fields.u64()?;
    Ok(match kind {
        SNAPSHOT_OFFER => {
            let (index, term) = (fields.index()?, fields.term()?);
            let membership = fields.membership()?;
            let count = fields.u32()?;
            if count > FILES_MAX {
                return Err(refused(fields.at, format!("{count} files are too many")));
            }
            let mut files = Vec::new();
            for _ in 0..count {
                let (len, checksum) = (fields.u64()?, fields.u32()?);
                let at = fields.at;
                let name = String::from_utf8(fields.bytes()?.to_vec())
                    .map_err(|_| refused(at, "a file's name is not UTF-8".into()))?;
                files.push(FileOffer { name, len, checksum });
            }
            SnapshotBody::Offer { id, index, term, membership, files }
        }
        SNAPSHOT_FETCH => {
            let offset = fields.u64()?;
            SnapshotBody::Fetch { id, file: fields.u32()?, offset, len: fields.u32()? }
        }
        SNAPSHOT_CHUNK => {
            let offset = fields.u64()?;
            SnapshotBody::Chunk { id, file: fields.u32()?, offset, bytes: fields.bytes()? }
        }
        SNAPSHOT_DONE => SnapshotBody::Done { id, installed: fields.bool()? },
        _ => SnapshotBody::Gone { id },
    })
}

fn is_real(kind: VoteKind) -> u8 {
    u8::from(kind == VoteKind::Real)
}

fn put_words(out: &mut Vec<u8>, words: &[u64]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

fn put_u32(out: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("a replica bounds what it sends");
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Reads field by field.
struct Fields<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Fields<'_> {
    fn take<const LEN: usize>(&mut self) -> Result<[u8; LEN]> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let Some(field) = rest.first_chunk::<LEN>() else {
            return Err(refused(self.at, "the message ends within a field".into()));
        };
        self.at += LEN;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn index(&mut self) -> Result<Index> {
        Ok(Index(self.u64()?))
    }

    fn term(&mut self) -> Result<Term> {
        Ok(Term(self.u64()?))
    }

    fn bool(&mut self) -> Result<bool> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(refused(at, format!("{other} is neither yes nor no"))),
        }
    }

    fn vote_kind(&mut self) -> Result<VoteKind> {
        Ok(if self.bool()? { VoteKind::Real } else { VoteKind::Pre })
    }

    fn bytes(&mut self) -> Result<Bytes> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let Some(bytes) = rest.get(..len) else {
            return Err(refused(self.at, format!("{len} bytes are announced, fewer follow")));
        };
        self.at += len;
        Ok(self.bytes.slice_ref(bytes))
    }

    fn entries(&mut self) -> Result<Vec<Bytes>> {
        let count = self.u32()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(self.bytes()?);
        }
        Ok(entries)
    }

    fn membership(&mut self) -> Result<Membership> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let (membership, after) = Membership::decode(rest)?;
        self.at = self.bytes.len() - after.len();
        Ok(membership)
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
