//! What goes over the connection once the session has become a feed. See `docs/format/feed.md`.
//!
//! ```text
//! 0        4      5          8       12
//! +--------+------+----------+-------+------+
//! | length | kind | reserved | crc   | body |
//! +--------+------+----------+-------+------+
//! ```

use strandline_engine::Index;

use super::lineage::{Generation, Lineage};

/// Bytes before the body.
pub const HEADER_LEN: usize = 12;
/// The longest body: an entry goes whole, and is below this by far.
pub const BODY_LEN_MAX: usize = 97 << 20;
/// The version of all of this; both ends must speak the same.
pub const VERSION: u64 = 1;
/// The most files of a copy.
const FILES_MAX: usize = 1 << 20;

const BEAT: u8 = 1;
const GENERATION: u8 = 2;
const ENTRIES: u8 = 3;
const COPY: u8 = 4;
const PART: u8 = 5;
const COPIED: u8 = 6;
const DURABLE: u8 = 16;

/// A file of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFile {
    /// Its name where it is taken over.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// One frame, as it is read.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The primary lives; everything up to here is durable there.
    Beat {
        /// The last durable entry.
        durable: Index,
    },
    /// A generation begins.
    Generation(Generation),
    /// Consecutive entries.
    Entries {
        /// The first one.
        first: Index,
        /// Their payloads.
        payloads: Vec<&'a [u8]>,
    },
    /// A whole state follows.
    Copy {
        /// As of this entry.
        index: Index,
        /// Up to that entry.
        lineage: Lineage,
        /// Its files, the manifest first.
        files: Vec<CopyFile>,
    },
    /// A part of a file of it.
    Part {
        /// Its place in the list.
        file: usize,
        /// Where in it.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// That was all of it.
    Copied,
    /// From a backup: everything up to here is durable here.
    Durable(Index),
}

/// Why bytes are no frame.
pub type Reason = &'static str;

/// What a header says: the length of the body, which must be checked with [`decode`].
///
/// # Errors
///
/// If no frame is as long.
pub fn body_len(header: &[u8; HEADER_LEN]) -> Result<usize, Reason> {
    let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    match usize::try_from(len) {
        Ok(len) if len <= BODY_LEN_MAX => Ok(len),
        _ => Err("a frame that is too long"),
    }
}

/// Begins a frame of this kind; [`finish`] completes it when the body has been written.
fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind, 0, 0, 0, 0, 0, 0, 0]);
    start
}

fn finish(out: &mut [u8], start: usize) {
    let len = out.len() - start - HEADER_LEN;
    assert!(len <= BODY_LEN_MAX, "frames are bounded by what is put in");
    let len = u32::try_from(len).expect("the bound is below");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    let crc = checksum(&out[start..]);
    out[start + 8..start + HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}

/// Of a whole frame, without the checksum's own place.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..8]);
    hasher.update(&frame[HEADER_LEN..]);
    hasher.finalize()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("it is in a bounded frame");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends entries that follow one another; returns how many bytes their payloads have.
pub fn encode_entries<'a>(
    out: &mut Vec<u8>,
    first: Index,
    payloads: impl Iterator<Item = &'a [u8]>,
) {
    let start = begin(out, ENTRIES);
    out.extend_from_slice(&first.0.to_le_bytes());
    for payload in payloads {
        put(out, payload);
    }
    finish(out, start);
}

impl Frame<'_> {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = match self {
            Frame::Beat { durable } => {
                let start = begin(out, BEAT);
                out.extend_from_slice(&durable.0.to_le_bytes());
                start
            }
            Frame::Generation(generation) => {
                let start = begin(out, GENERATION);
                out.extend_from_slice(&generation.id.to_le_bytes());
                out.extend_from_slice(&generation.first.0.to_le_bytes());
                start
            }
            Frame::Entries { first, payloads } => {
                return encode_entries(out, *first, payloads.iter().copied());
            }
            Frame::Copy { index, lineage, files } => {
                let start = begin(out, COPY);
                out.extend_from_slice(&index.0.to_le_bytes());
                put(out, lineage.to_text().as_bytes());
                for file in files {
                    out.extend_from_slice(&file.len.to_le_bytes());
                    put(out, file.name.as_bytes());
                }
                start
            }
            Frame::Part { file, offset, bytes } => {
                let start = begin(out, PART);
                let file = u32::try_from(*file).expect("files are bounded");
                out.extend_from_slice(&file.to_le_bytes());
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(bytes);
                start
            }
            Frame::Copied => begin(out, COPIED),
            Frame::Durable(index) => {
                let start = begin(out, DURABLE);
                out.extend_from_slice(&index.0.to_le_bytes());
                start
            }
        };
        finish(out, start);
    }
}

/// Reads a whole frame, its header included.
///
/// # Errors
///
/// If it is damaged or unknown.
pub fn decode(frame: &[u8]) -> Result<Frame<'_>, Reason> {
    let header = frame.first_chunk::<HEADER_LEN>().ok_or("a frame that is cut short")?;
    if body_len(header)? + HEADER_LEN != frame.len() {
        return Err("a frame of another length than it says");
    }
    let expected = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if header[5..8] != [0, 0, 0] || checksum(frame) != expected {
        return Err("a frame with a wrong checksum");
    }
    let mut rest = &frame[HEADER_LEN..];
    let decoded = match header[4] {
        BEAT => Frame::Beat { durable: index(&mut rest)? },
        GENERATION => {
            let id = u128::from(word(&mut rest)?) | u128::from(word(&mut rest)?) << 64;
            Frame::Generation(Generation { id, first: index(&mut rest)? })
        }
        ENTRIES => {
            let first = index(&mut rest)?;
            let mut payloads = Vec::new();
            while !rest.is_empty() {
                payloads.push(bytes(&mut rest)?);
            }
            Frame::Entries { first, payloads }
        }
        COPY => {
            let index = index(&mut rest)?;
            let lineage = text(&mut rest)?;
            let lineage = Lineage::from_text(lineage).ok_or("a lineage that is none")?;
            let mut files = Vec::new();
            while !rest.is_empty() {
                let len = word(&mut rest)?;
                files.push(CopyFile { name: text(&mut rest)?.to_owned(), len });
            }
            if files.len() > FILES_MAX {
                return Err("a copy of too many files");
            }
            Frame::Copy { index, lineage, files }
        }
        PART => {
            let (file, after) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
            rest = after;
            let file = usize::try_from(u32::from_le_bytes(*file)).map_err(|_| SHORT)?;
            let offset = word(&mut rest)?;
            Frame::Part { file, offset, bytes: std::mem::take(&mut rest) }
        }
        COPIED => Frame::Copied,
        DURABLE => Frame::Durable(index(&mut rest)?),
        _ => return Err("a frame of an unknown kind"),
    };
    if rest.is_empty() { Ok(decoded) } else { Err("a frame with bytes behind its end") }
}

const SHORT: Reason = "a frame whose body is cut short";

fn word(rest: &mut &[u8]) -> Result<u64, Reason> {
    let (word, after) = rest.split_first_chunk::<8>().ok_or(SHORT)?;
    *rest = after;
    Ok(u64::from_le_bytes(*word))
}

fn index(rest: &mut &[u8]) -> Result<Index, Reason> {
    word(rest).map(Index)
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Reason> {
    let (len, after) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| SHORT)?;
    let (bytes, after) = after.split_at_checked(len).ok_or(SHORT)?;
    *rest = after;
    Ok(bytes)
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, Reason> {
    std::str::from_utf8(bytes(rest)?).map_err(|_| "a text that is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_frames_are_read_and_written() {
        let generation = Generation { id: 7, first: Index(4) };
        let lineage = Lineage::from_list(vec![generation]).unwrap();
        let files = vec![CopyFile { name: "manifest".into(), len: 77 }];
        let frames = [
            Frame::Beat { durable: Index(9) },
            Frame::Generation(generation),
            Frame::Entries { first: Index(4), payloads: vec![b"one", b"two"] },
            Frame::Copy { index: Index(8), lineage, files },
            Frame::Part { file: 1, offset: 5, bytes: b"part" },
            Frame::Copied,
            Frame::Durable(Index(9)),
        ];
        let golden = include_str!("../../testdata/format/v1/feed.txt");
        let lines: Vec<&str> = golden.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), frames.len());
        for (line, frame) in lines.into_iter().zip(frames) {
            let (_, digits) = line.rsplit_once(' ').unwrap();
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, digits, "{frame:?}");
            assert_eq!(decode(&bytes), Ok(frame));
        }
    }

    #[test]
    fn frames_come_back_and_damaged_ones_do_not() {
        let generation = Generation { id: 1 << 90 | 3, first: Index(5) };
        let lineage = Lineage::from_list(vec![generation]).unwrap();
        let files = vec![
            CopyFile { name: "manifest".into(), len: 77 },
            CopyFile { name: "0000000000000001.table".into(), len: 1 << 40 },
        ];
        let frames = [
            Frame::Beat { durable: Index(9) },
            Frame::Generation(generation),
            Frame::Entries { first: Index(4), payloads: vec![b"one", b"", b"three"] },
            Frame::Copy { index: Index(8), lineage, files },
            Frame::Part { file: 1, offset: 1 << 33, bytes: b"part" },
            Frame::Copied,
            Frame::Durable(Index(u64::MAX)),
        ];
        for frame in frames {
            let mut encoded = b"before".to_vec();
            frame.encode(&mut encoded);
            let mut encoded = encoded.split_off(6);
            let len = body_len(encoded.first_chunk().unwrap()).unwrap();
            assert_eq!(len + HEADER_LEN, encoded.len());
            assert_eq!(decode(&encoded), Ok(frame));
            for bit in 0..encoded.len() * 8 {
                encoded[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&encoded).is_err(), "bit {bit}");
                encoded[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..encoded.len() {
                assert!(decode(&encoded[..len]).is_err());
            }
        }
        assert!(body_len(&[255; HEADER_LEN]).is_err());
    }
}
