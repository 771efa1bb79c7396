//! What a replica must never forget: who it is, its term, and its vote.
//!
//! A file of two slots. Each save writes the older slot, with the next sequence number, and syncs; so
//! whatever a crash tears, the other slot is whole. A slot is far larger than what stands in it, so
//! that no sector belongs to both.
//!
//! ```text
//! 0                       4096                    8192
//! +-----------------------+-----------------------+
//! | slot 0, sequence 2k   | slot 1, sequence 2k+1 |
//! +-----------------------+-----------------------+
//! ```
//!
//! A slot that is not valid was torn by a crash while nothing had been promised on it yet, or it is
//! the newest one gone bad. That cannot be told here, so the replica then doubts its promises; see the
//! module `rejoin`.
//!
//! After a failed write or sync nothing is known of the file: the replica stops (D13).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::{Disk, File, OpenMode, replace_file};

use crate::{Error, ReplicaId, Result, Term};

/// The file's name in the directory of the group.
pub(crate) const HARD_STATE_FILE: &str = "hard-state";

const MAGIC: [u8; 4] = *b"SLHS";
const VERSION: u16 = 1;
const SLOT_LEN: usize = 4096;
/// How many bytes of a slot carry something.
const LEN: usize = 72;
const CHECKSUM_AT: usize = LEN - 4;

/// What a replica cannot be sure of any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubt {
    /// Nothing: all it promised is here.
    #[default]
    Nothing,
    /// The end of its log may be lost: it does not vote.
    Tail,
    /// Everything may be lost, its promises too: it neither votes nor acknowledges.
    Everything,
}

/// The content of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The replication group.
    pub group: u64,
    /// Whose file it is.
    pub id: ReplicaId,
    /// The latest term it knows.
    pub term: Term,
    /// For whom it voted in that term; 0 for nobody.
    pub vote: ReplicaId,
    /// What it cannot be sure of.
    pub doubt: Doubt,
    /// How often it has been opened.
    pub openings: u64,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct HardStateFile {
    file: Arc<dyn File>,
    path: PathBuf,
    state: HardState,
    sequence: u64,
}

fn encode(state: &HardState, sequence: u64) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6] = match state.doubt {
        Doubt::Nothing => 0,
        Doubt::Tail => 1,
        Doubt::Everything => 2,
    };
    let words = [sequence, state.group, state.id.0, state.term.0, state.vote.0, state.openings, 0];
    for (place, word) in bytes[8..64].as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A slot's content and sequence; an error says why it is none.
fn decode(bytes: &[u8]) -> std::result::Result<(HardState, u64), String> {
    let Some(bytes) = bytes.first_chunk::<LEN>() else {
        return Err(format!("{} bytes where {LEN} belong", bytes.len()));
    };
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
    if bytes[0..4] != MAGIC || bytes[CHECKSUM_AT..] != checksum.to_le_bytes() {
        return Err("magic bytes or checksum are not right".into());
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != VERSION {
        return Err(format!("format version {version}, and {VERSION} is known here"));
    }
    let doubt = match bytes[6] {
        0 => Doubt::Nothing,
        1 => Doubt::Tail,
        2 => Doubt::Everything,
        other => return Err(format!("no doubt has number {other}")),
    };
    let state = HardState {
        group: word(16),
        id: ReplicaId(word(24)),
        term: Term(word(32)),
        vote: ReplicaId(word(40)),
        doubt,
        openings: word(48),
    };
    Ok((state, word(8)))
}

/// Both slots of a file's bytes, and the one that counts: its place, content and sequence.
type Slots = [std::result::Result<(HardState, u64), String>; 2];

fn read_slots(file: &dyn File) -> Result<Slots> {
    let mut bytes = vec![0; 2 * SLOT_LEN];
    let count = file.read_at(&mut bytes, 0)?;
    let bytes = &bytes[..count];
    Ok([0, 1].map(|slot| decode(bytes.get(slot * SLOT_LEN..).unwrap_or(&[]))))
}

fn both_bad(path: PathBuf, slots: Slots) -> Error {
    let reason = slots.map(|slot| slot.err().unwrap_or_default()).join("; ");
    Error::Corruption { path, reason }
}

fn newest(slots: &Slots) -> Option<(HardState, u64)> {
    slots.iter().flatten().max_by_key(|(_, sequence)| *sequence).copied()
}

impl HardStateFile {
    /// Opens the file in `dir`; none if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] if neither slot is valid.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(HARD_STATE_FILE);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let file = disk.open(&path, OpenMode::Write)?;
        let slots = read_slots(&*file)?;
        let Some((mut state, sequence)) = newest(&slots) else {
            return Err(both_bad(path, slots));
        };
        if slots.iter().any(std::result::Result::is_err) {
            state.doubt = Doubt::Everything;
        }
        let mut opened = Self { file, path, state, sequence };
        // What is read may be in the page cache only, and so may the file's name. The save makes the
        // content durable with itself.
        disk.sync_dir(dir)?;
        state.openings += 1;
        opened.save(state)?;
        Ok(Some(opened))
    }

    /// What the file in `dir` says, without changing it; none if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] if neither slot is valid.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<(PathBuf, HardState)>> {
        let path = dir.join(HARD_STATE_FILE);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let slots = read_slots(&*disk.open(&path, OpenMode::Read)?)?;
        match newest(&slots) {
            Some((state, _)) => Ok(Some((path, state))),
            None => Err(both_bad(path, slots)),
        }
    }

    /// Makes the file in `dir`.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, state: HardState) -> Result<Self> {
        let path = dir.join(HARD_STATE_FILE);
        let mut bytes = vec![0; 2 * SLOT_LEN];
        bytes[..LEN].copy_from_slice(&encode(&state, 2));
        bytes[SLOT_LEN..SLOT_LEN + LEN].copy_from_slice(&encode(&state, 1));
        replace_file(disk, &path, &bytes)?;
        let file = disk.open(&path, OpenMode::Write)?;
        Ok(Self { file, path, state, sequence: 2 })
    }

    /// What is in it.
    pub(crate) fn get(&self) -> HardState {
        self.state
    }

    /// Replaces what is in it, durably.
    ///
    /// # Errors
    ///
    /// After any error nothing may be promised any more.
    pub(crate) fn save(&mut self, state: HardState) -> Result<()> {
        assert!(state.term >= self.state.term, "a term only rises");
        let sequence = self.sequence + 1;
        let slot = SLOT_LEN * usize::from(sequence % 2 == 1);
        let offset = u64::try_from(slot).expect("a small constant");
        self.file.write_at(&encode(&state, sequence), offset)?;
        self.file.sync()?;
        (self.state, self.sequence) = (state, sequence);
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The file `path` as text, for people.
///
/// # Errors
///
/// If it cannot be read; damage is described and is no error.
pub fn inspect_hard_state(disk: &dyn Disk, path: &Path) -> Result<String> {
    let slots = read_slots(&*disk.open(path, OpenMode::Read)?)?;
    let mut text = String::new();
    let counts = newest(&slots).map(|(_, sequence)| sequence);
    for (slot, content) in slots.iter().enumerate() {
        let line = match content {
            Ok((state, sequence)) => format!(
                "slot {slot}  sequence {sequence}  group {}  replica {}  term {}  vote {}  doubt {}  \
                 openings {}{}\n",
                state.group,
                state.id,
                state.term,
                state.vote,
                match state.doubt {
                    Doubt::Nothing => "nothing",
                    Doubt::Tail => "tail",
                    Doubt::Everything => "everything",
                },
                state.openings,
                if Some(*sequence) == counts { "  (counts)" } else { "" }
            ),
            Err(reason) => format!("slot {slot}  not valid: {reason}\n"),
        };
        text.push_str(&line);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use strandline_wal::disk::SimulatedDisk;
    use strandline_wal::disk::simulated::{Fault, Survival};

    use super::*;

    const DIR: &str = "/group";

    fn state(term: u64, vote: u64) -> HardState {
        let (group, id) = (1, ReplicaId(7));
        HardState { group, id, term: Term(term), vote: ReplicaId(vote), ..HardState::default() }
    }

    /// Creates or opens, and saves terms 1 to 6. Returns the last that was acknowledged.
    fn work(disk: &SimulatedDisk, saved: &mut u64) -> Result<()> {
        disk.create_dir_all(Path::new(DIR))?;
        let mut file = match HardStateFile::open(disk, Path::new(DIR))? {
            Some(file) => file,
            None => HardStateFile::create(disk, Path::new(DIR), state(0, 0))?,
        };
        for term in 1..=6 {
            file.save(state(term, term % 3))?;
            *saved = term;
        }
        Ok(())
    }

    #[test]
    fn every_fault_at_every_operation_keeps_what_was_saved() {
        let operations = {
            let disk = SimulatedDisk::new(1);
            work(&disk, &mut 0).unwrap();
            disk.operations()
        };
        for fault in Fault::ALL {
            for at in 1..=operations {
                for survival in [Survival::NOTHING, Survival::of(500), Survival::EVERYTHING] {
                    let disk = SimulatedDisk::new(at);
                    disk.set_survival(survival);
                    disk.fail_at(at, fault);
                    let mut saved = 0;
                    let _ = work(&disk, &mut saved);
                    disk.clear_faults();
                    if disk.restart().is_none() {
                        disk.power_cut();
                    }
                    check(&disk, saved, &format!("{fault:?} at {at}"));
                }
            }
        }
    }

    fn check(disk: &SimulatedDisk, saved: u64, context: &str) {
        let Some(file) = HardStateFile::open(disk, Path::new(DIR)).unwrap() else {
            assert_eq!(saved, 0, "{context}: the file is gone");
            return;
        };
        let found = file.get();
        let term = found.term.0;
        assert!(term == saved || term == saved + 1, "{context}: term {term} after {saved}");
        assert_eq!(found.vote.0, term % 3, "{context}");
        // What an opening has shown stays, even if nothing else is written.
        drop(file);
        disk.power_cut();
        let again = HardStateFile::open(disk, Path::new(DIR)).unwrap().unwrap().get();
        assert_eq!((again.term, again.vote), (found.term, found.vote), "{context}");
        assert_eq!(again.openings, found.openings + 1, "{context}");
    }

    #[test]
    fn a_damaged_slot_raises_doubt_and_two_are_refused() {
        let disk = SimulatedDisk::new(1);
        work(&disk, &mut 0).unwrap();
        let path = Path::new(DIR).join(HARD_STATE_FILE);
        let text = inspect_hard_state(&*disk, &path).unwrap();
        assert!(text.contains("term 6") && text.contains("(counts)"), "{text}");
        let fork = disk.fork(2);
        fork.flip_bit(&path, 8 * 33);
        let file = HardStateFile::open(&*fork, Path::new(DIR)).unwrap().unwrap();
        assert_eq!(file.get().doubt, Doubt::Everything);
        disk.flip_bit(&path, 8 * 33);
        disk.flip_bit(&path, 8 * (4096 + 33));
        let refused = HardStateFile::open(&*disk, Path::new(DIR)).unwrap_err();
        assert!(matches!(refused, Error::Corruption { .. }));
        assert!(inspect_hard_state(&*disk, &path).unwrap().contains("not valid"));
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_refused() {
        let bytes = encode(&state(3, 1), 9);
        assert_eq!(decode(&bytes).unwrap(), (state(3, 1), 9));
        for bit in 0..LEN * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
    }
}
