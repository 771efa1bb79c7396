//! What a node must not forget of primaries and backups: the lineage of its log, and whom it follows.
//!
//! One small file beside log and state, replaced as a whole: after a crash it has the old content or the
//! new. See `docs/format/standing.md`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_engine::{Index, group_dir};
use strandline_wal::disk::{Disk, OpenMode, replace_file};

use super::lineage::{GENERATIONS_MAX, Generation, Lineage};

/// The file's name in the directory of the group.
pub const STANDING_FILE: &str = "standing";

const MAGIC: [u8; 4] = *b"SLST";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 32;
/// The longest text in it: a host's name has 253 bytes, a password may have more.
const TEXT_LEN_MAX: usize = 4096;
/// The longest file: what a reader takes memory for.
const FILE_LEN_MAX: u64 = 64 << 10;

const FOLLOWS: u8 = 1;
const MAY_DISCARD: u8 = 2;
const HAS_COPY: u8 = 4;

/// Where a primary is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address.
    pub host: String,
    /// The port for clients.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]:{}", self.host, self.port),
            false => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

impl Target {
    /// Reads `host port`; none if it is no such thing.
    pub fn parse(text: &str) -> Option<Target> {
        let mut words = text.split_whitespace();
        let (host, port) = (words.next()?, words.next()?);
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let is_whole = words.next().is_none() && host.len() <= 253;
        is_whole.then(|| Target { host: host.to_owned(), port })
    }

    /// As `REPLICAOF` takes it.
    pub fn as_words(&self) -> String {
        format!("{} {}", self.host, self.port)
    }
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Names the node, made once; never 0.
    pub node: u128,
    /// Whom it follows; a primary follows nobody.
    pub follows: Option<Target>,
    /// Whether it was told that it may discard what its primary has not.
    pub may_discard: bool,
    /// A whole state lies beside, to be put in the place of log and state at the next opening: as of
    /// this entry; 0 for nothing at all.
    pub copy: Option<Index>,
    /// The setting `replicaof` that was last looked at: it counts again when it changes.
    pub setting: String,
    /// The password of the primary.
    pub password: String,
    /// Of the log; with a copy: of the copy.
    pub lineage: Lineage,
}

/// Why there is no content.
pub type Refused = strandline_engine::Error;

/// The open file.
#[derive(Debug)]
pub struct StandingFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    content: Content,
}

/// What is in the file `path`.
///
/// # Errors
///
/// If it is damaged, newer than this program, or cannot be read.
pub fn read(disk: &dyn Disk, path: &Path) -> Result<Content, Refused> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?.min(FILE_LEN_MAX);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let count = file.read_at(&mut bytes, 0)?;
    decode(&bytes[..count]).map_err(|(offset, reason)| Refused::Malformed {
        what: "standing file",
        offset,
        reason: format!(
            "{}: {reason}; if it is removed, this node opens as a primary of its own and keeps its data",
            path.display()
        ),
    })
}

/// The file `path` as text, for people. The password is not shown.
///
/// # Errors
///
/// As for [`read`].
pub fn inspect(disk: &dyn Disk, path: &Path) -> Result<String, Refused> {
    let content = read(disk, path)?;
    let mut text = format!("node         {:032x}\n", content.node);
    let follows = content.follows.map_or("nobody".to_owned(), |target| target.to_string());
    let leave = if content.may_discard { ", and may discard what it has not" } else { "" };
    text.push_str(&format!("follows      {follows}{leave}\n"));
    text.push_str(&format!("setting      {}\n", content.setting));
    text.push_str(&format!("password     {} bytes\n", content.password.len()));
    if let Some(index) = content.copy {
        text.push_str(&format!("copy         as of {index}, takes the place of log and state\n"));
    }
    for generation in content.lineage.list() {
        text.push_str(&format!("generation   {:032x} from {}\n", generation.id, generation.first));
    }
    Ok(text)
}

impl StandingFile {
    /// Reads the file in a store's directory; makes the content of a new one, which is not written yet,
    /// if there is none.
    ///
    /// # Errors
    ///
    /// If it is damaged, newer than this program, or cannot be read.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, node: u128) -> Result<Self, Refused> {
        let dir = group_dir(dir);
        disk.create_dir_all(&dir)?;
        let path = dir.join(STANDING_FILE);
        // A process that was killed may have left the name of what is read in the cache only, and what
        // rests on it must not outlive it.
        disk.sync_dir(&dir)?;
        let content = match disk.exists(&path)? {
            false => Content { node, ..Content::default() },
            true => read(&*disk, &path)?,
        };
        Ok(Self { disk, path, content })
    }

    /// What is in it.
    pub fn get(&self) -> &Content {
        &self.content
    }

    /// The disk that it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The directory that it is in.
    pub fn dir(&self) -> &Path {
        self.path.parent().expect("it was made by joining a name to a directory")
    }

    /// Replaces what is in it, durably.
    ///
    /// # Errors
    ///
    /// What the disk refuses: the file has its old content or the new one, this one thinks the old.
    pub fn save(&mut self, content: Content) -> Result<(), Refused> {
        replace_file(&*self.disk, &self.path, &encode(&content))?;
        self.content = content;
        Ok(())
    }
}

/// ```text
/// 0       4         6       7          8       12     16     32     36    44
/// +-------+---------+-------+----------+-------+------+------+------+------+----------
/// | magic | version | flags | reserved | crc   | port | node | generations ...
/// ```
fn encode(content: &Content) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    let flag = |is_on: bool, flag: u8| if is_on { flag } else { 0 };
    bytes[6] = flag(content.follows.is_some(), FOLLOWS)
        | flag(content.may_discard, MAY_DISCARD)
        | flag(content.copy.is_some(), HAS_COPY);
    let port = content.follows.as_ref().map_or(0, |target| target.port);
    bytes[12..14].copy_from_slice(&port.to_le_bytes());
    bytes[16..32].copy_from_slice(&content.node.to_le_bytes());
    bytes.extend_from_slice(&content.copy.unwrap_or_default().0.to_le_bytes());
    let host = content.follows.as_ref().map_or("", |target| target.host.as_str());
    for text in [host, &content.setting, &content.password] {
        let len = u32::try_from(text.len()).expect("texts are bounded");
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    let count = u32::try_from(content.lineage.list().len()).expect("generations are bounded");
    bytes.extend_from_slice(&count.to_le_bytes());
    for generation in content.lineage.list() {
        bytes.extend_from_slice(&generation.id.to_le_bytes());
        bytes.extend_from_slice(&generation.first.0.to_le_bytes());
    }
    let checksum = crc32fast::hash(&bytes);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The content of a file's bytes, or where they are wrong and why.
fn decode(bytes: &[u8]) -> Result<Content, (usize, String)> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Err((bytes.len(), format!("{} bytes where {HEADER_LEN} belong", bytes.len())));
    };
    if header[0..4] != MAGIC {
        return Err((0, "magic bytes are wrong".into()));
    }
    let mut zeroed = bytes.to_vec();
    zeroed[8..12].fill(0);
    let (found, expected) = (crc32fast::hash(&zeroed), number(&header[8..12]));
    if u64::from(found) != expected {
        return Err((8, format!("checksum {expected:08x}, and the content has {found:08x}")));
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err((4, format!("format version {version}, and {VERSION} is known here")));
    }
    let flags = header[6];
    let is_reserved = header[7] == 0 && header[14..16] == [0, 0];
    if flags & !(FOLLOWS | MAY_DISCARD | HAS_COPY) != 0 || !is_reserved {
        return Err((6, "an unknown flag, or a reserved byte that is not zero".into()));
    }
    let mut rest = Rest { bytes, at: HEADER_LEN };
    let copy = Index(rest.number(8)?);
    let (host, setting, password) = (rest.text()?, rest.text()?, rest.text()?);
    let count = usize::try_from(rest.number(4)?).unwrap_or(usize::MAX);
    if count > GENERATIONS_MAX {
        return Err((rest.at, format!("{count} generations")));
    }
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        let id = u128::from(rest.number(8)?) | u128::from(rest.number(8)?) << 64;
        list.push(Generation { id, first: Index(rest.number(8)?) });
    }
    if rest.at != bytes.len() {
        return Err((rest.at, "bytes behind the end".into()));
    }
    let lineage =
        Lineage::from_list(list).ok_or((rest.at, "generations are out of order".to_owned()))?;
    let port = u16::from_le_bytes([header[12], header[13]]);
    let node = u128::from_le_bytes(*header[16..].first_chunk().expect("the header is as long"));
    let follows = (flags & FOLLOWS != 0).then_some(Target { host, port });
    let copy = (flags & HAS_COPY != 0).then_some(copy);
    let may_discard = flags & MAY_DISCARD != 0;
    Ok(Content { node, follows, may_discard, copy, setting, password, lineage })
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What has not been read yet.
struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Rest<'_> {
    fn take(&mut self, len: usize) -> Result<&[u8], (usize, String)> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or((self.at, "it is cut short".to_owned()))?;
        Ok(&self.bytes[std::mem::replace(&mut self.at, end)..end])
    }

    fn number(&mut self, len: usize) -> Result<u64, (usize, String)> {
        self.take(len).map(number)
    }

    fn text(&mut self) -> Result<String, (usize, String)> {
        let len = usize::try_from(self.number(4)?).unwrap_or(usize::MAX);
        let at = self.at;
        if len > TEXT_LEN_MAX {
            return Err((at, format!("a text of {len} bytes")));
        }
        let bytes = self.take(len)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| (at, "a text that is not UTF-8".into()))
    }
}

#[cfg(test)]
mod tests {
    use strandline_wal::disk::SimulatedDisk;
    use strandline_wal::disk::simulated::{Fault, Survival};

    use super::*;

    const DIR: &str = "/node";

    fn content(generations: u64) -> Content {
        let list = (1..=generations)
            .map(|number| Generation {
                id: u128::from(number) << 70 | 5,
                first: Index(number * 10),
            })
            .collect();
        Content {
            node: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
            follows: Some(Target { host: "db.example".into(), port: 6379 }),
            may_discard: true,
            copy: Some(Index(77)),
            setting: "db.example 6379".into(),
            password: "tide".into(),
            lineage: Lineage::from_list(list).unwrap(),
        }
    }

    #[test]
    fn what_is_saved_comes_back_whatever_happens() {
        let count = {
            let disk = SimulatedDisk::new(1);
            let mut file = StandingFile::open(disk.clone(), Path::new(DIR), 7).unwrap();
            assert_eq!(file.get(), &Content { node: 7, ..Content::default() });
            file.save(content(1)).unwrap();
            file.save(content(2)).unwrap();
            disk.operations()
        };
        for at in 1..=count {
            let disk = SimulatedDisk::new(at);
            disk.fail_at(at, Fault::PowerCut);
            let mut saved = 0;
            if let Ok(mut file) = StandingFile::open(disk.clone(), Path::new(DIR), 7) {
                while saved < 2 && file.save(content(saved + 1)).is_ok() {
                    saved += 1;
                }
            }
            disk.clear_faults();
            if disk.restart().is_none() {
                disk.power_cut();
            }
            let found = StandingFile::open(disk.clone(), Path::new(DIR), 7).unwrap();
            let generations = u64::try_from(found.get().lineage.list().len()).unwrap();
            assert!(generations == saved || generations == saved + 1, "{at}: {generations}");
            if generations > 0 {
                assert_eq!(found.get(), &content(generations));
            }
        }
    }

    /// What was read after a kill is relied upon: a power cut must not bring the content before it back.
    #[test]
    fn what_was_read_once_stays() {
        let open = |disk: &Arc<SimulatedDisk>| {
            StandingFile::open(disk.clone(), Path::new(DIR), 7).unwrap()
        };
        let count = {
            let disk = SimulatedDisk::new(1);
            open(&disk).save(content(1)).unwrap();
            disk.operations()
        };
        for at in 1..=count {
            let disk = SimulatedDisk::new(at);
            disk.set_survival(Survival::NOTHING);
            disk.fail_at(at, Fault::Kill);
            let _ = StandingFile::open(disk.clone(), Path::new(DIR), 7)
                .and_then(|mut file| file.save(content(1)));
            disk.restart();
            let read = open(&disk).get().clone();
            disk.power_cut();
            assert_eq!(*open(&disk).get(), read, "killed at {at}");
        }
    }

    #[test]
    fn the_golden_file_is_read_and_written() {
        let golden = include_str!("../../testdata/format/v1/standing.txt");
        let mut bytes = Vec::new();
        for line in golden.lines().filter(|line| line.starts_with(' ')) {
            let digits = line.split_whitespace().last().unwrap();
            for at in (0..digits.len()).step_by(2) {
                bytes.push(u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
            }
        }
        assert_eq!(decode(&bytes).unwrap(), content(2));
        assert_eq!(encode(&content(2)), bytes);
    }

    #[test]
    fn people_see_all_but_the_password() {
        let disk = SimulatedDisk::new(1);
        let mut file = StandingFile::open(disk.clone(), Path::new(DIR), 7).unwrap();
        file.save(content(1)).unwrap();
        let path = file.dir().join(STANDING_FILE);
        let text = inspect(&*disk, &path).unwrap();
        assert!(text.contains("db.example:6379, and may discard"), "{text}");
        assert!(text.contains("from 10") && !text.contains("tide"), "{text}");
        disk.flip_bit(&path, 300);
        let refused = inspect(&*disk, &path).unwrap_err().to_string();
        assert!(refused.contains("checksum") && refused.contains("if it is removed"), "{refused}");
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused() {
        let bytes = encode(&content(2));
        assert_eq!(decode(&bytes).unwrap(), content(2));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_target_is_a_host_and_a_port() {
        for (text, expected) in [
            ("db 6379", Some("db:6379")),
            ("  ::1\t7 ", Some("[::1]:7")),
            ("db", None),
            ("db 0", None),
            ("db 65536", None),
            ("db 6379 discard", None),
            ("", None),
        ] {
            let found = Target::parse(text).map(|target| target.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
