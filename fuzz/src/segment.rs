//! Opening a log whose segment files hold anything.
//!
//! An input is either the beginning of a segment file, or says what happens to a file of a good log.
//! Whatever stands there, the log is inspected, verified, opened, read, appended to and opened again.
//! What is read is what was written, from the first record on and without a gap; how much of it must
//! be there depends on the damage.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use strandline_wal::disk::{Disk, OpenMode, SimulatedDisk};
use strandline_wal::frame::GroupHeader;
use strandline_wal::{Error, Lsn, Options, SegmentHeader, Wal, inspect_segment, verify};

use crate::damage::{Damage, edit};
use crate::{Choices, cipher, seal};

const DIR: &str = "/log";
const SEGMENT_LEN: usize = 64 << 10;
const BLOCK_LEN: usize = 4096;
const LOG_ID: u64 = 7;

/// A log at rest, and the records that it holds.
pub(crate) struct Log {
    disk: Arc<SimulatedDisk>,
    records: Vec<(Lsn, Vec<u8>)>,
    /// Whether its last group is claimed by a marker, so that no loss can be taken for a torn tail.
    is_closed: bool,
}

impl Log {
    /// The bytes of its first file.
    pub(crate) fn first_segment(&self) -> Vec<u8> {
        self.disk.visible_content(&segments(&self.disk)[0]).expect("it was listed")
    }
}

/// See the module's documentation.
pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let logs = logs();
    match choices.below(logs.len() + 1).checked_sub(1) {
        None => {
            let is_sealed = choices.any::<bool>();
            let mut file = choices.rest().to_vec();
            file.resize(file.len().max(SEGMENT_LEN), 0);
            if is_sealed {
                seal::segment(&mut file);
            }
            let disk = SimulatedDisk::new(1);
            disk.create_dir_all(Path::new(DIR)).expect("a new disk takes all");
            replace(&disk, &Path::new(DIR).join("0000000000000001.segment"), &file);
            visit(&disk);
        }
        Some(number) => damaged(&logs[number], &mut choices),
    }
}

fn damaged(log: &Log, choices: &mut Choices<'_>) {
    let disk = log.disk.fork(1);
    let files = segments(&disk);
    let path = choices.pick(&files.iter().collect::<Vec<_>>());
    let mut file = disk.visible_content(path).expect("it was listed");
    let damage = edit(choices, &mut file, BLOCK_LEN, seal::segment);
    replace(&disk, path, &file);
    let found = visit(&disk);
    // A file of which nothing is left cannot be missed by the others: none of them names it.
    if damage == Damage::Forged || (damage == Damage::Disk && !has_any(&file, path)) {
        return;
    }
    let Some((records, is_whole)) = found else {
        assert_ne!(damage, Damage::None, "a good log opens");
        return;
    };
    let first = records.first().map_or(Lsn(u64::MAX), |(lsn, _)| *lsn);
    let expected = log.records.iter().filter(|(lsn, _)| *lsn >= first);
    for (found, expected) in records.iter().zip(expected) {
        assert_eq!(found.0, expected.0, "records without a gap");
        assert!(found.1 == expected.1, "record {} has other bytes than were written", found.0);
    }
    assert!(records.len() <= log.records.len(), "no record comes out of nothing");
    let no_less = damage == Damage::None || (damage == Damage::Bit && log.is_closed);
    assert!(!no_less || !is_whole || records.len() == log.records.len(), "records are lost");
}

/// Whether a header or a group of the log stands in a file.
fn has_any(file: &[u8], path: &Path) -> bool {
    let has_group = file.chunks(BLOCK_LEN).enumerate().skip(1).any(|(number, block)| {
        let offset = u64::try_from(number * BLOCK_LEN).expect("a short file");
        let incarnation = block.get(8..).and_then(<[u8]>::first_chunk);
        let incarnation = u64::from_le_bytes(incarnation.copied().unwrap_or_default());
        GroupHeader::decode(block, LOG_ID, incarnation, offset).is_ok()
    });
    has_group || SegmentHeader::decode(file, path).is_ok_and(|header| header.is_some())
}

/// What a log holds.
type Records = Vec<(Lsn, Vec<u8>)>;

/// Does with the log what can be done; returns its records and whether all that it holds was read.
fn visit(disk: &Arc<SimulatedDisk>) -> Option<(Records, bool)> {
    for path in segments(disk) {
        let text = inspect_segment(&**disk, &path).expect("a file that is there is described");
        assert!(!text.is_empty());
    }
    let verified = verify(&**disk, Path::new(DIR));
    let (wal, recovery) = open(disk).ok()?;
    // Opening does not look into older segments: what is not understood there is the verifier's to say.
    let verified = match verified {
        Err(Error::Unknown { .. } | Error::FormatVersion { .. }) => None,
        verified => Some(verified.expect("a log that opens can be verified")),
    };
    let (records, end) = read(&wal);
    if end.is_none() {
        assert_eq!(records.last().map_or(recovery.last, |(lsn, _)| *lsn), recovery.last);
        let last = verified.as_ref().map_or(recovery.last, |verified| verified.last);
        assert_eq!(last, recovery.last, "both read as far");
    }
    assert!(
        end.as_ref().is_none_or(|end| end.takes_a_key)
            || verified.is_none_or(|verified| !verified.damages.is_empty()),
        "damage is seen by who looks for it: {end:?}"
    );
    let last = wal.last();
    let Ok(lsn) = wal.append(b"one more").and_then(|lsn| wal.wait(lsn).map(|()| lsn)) else {
        return Some((records, end.is_none()));
    };
    assert_eq!(lsn.0, last.0 + 1);
    wal.close().expect("nothing fails here");
    let (wal, recovery) = open(disk).expect("what was opened and closed opens");
    assert_eq!(recovery.last, lsn);
    let again = read(&wal);
    assert!(again.0.starts_with(&records), "what was read once is read again");
    assert_eq!(again.1.is_some(), end.is_some());
    Some((records, end.is_none()))
}

fn open(disk: &Arc<SimulatedDisk>) -> strandline_wal::Result<(Wal, strandline_wal::Recovery)> {
    Wal::open(Arc::clone(disk) as _, Path::new(DIR), options())
}

/// Why not everything was read.
#[derive(Debug)]
struct End {
    /// For people only.
    _error: String,
    /// Whether only who decrypts can say so: a verification cannot.
    takes_a_key: bool,
}

/// All records up to the end, or up to an error, which is then told.
fn read(wal: &Wal) -> (Vec<(Lsn, Vec<u8>)>, Option<End>) {
    let mut records: Vec<(Lsn, Vec<u8>)> = Vec::new();
    let mut reader = wal.reader(wal.first());
    loop {
        let some = match reader.next_records() {
            Ok(Some(some)) => some,
            Ok(None) => return (records, None),
            Err(error) => {
                let takes_a_key =
                    matches!(error, Error::KeyMissing { .. } | Error::WrongTag { .. });
                return (records, Some(End { _error: error.to_string(), takes_a_key }));
            }
        };
        for record in some.iter() {
            match record {
                Ok((lsn, record)) => records.push((lsn, record.payload.to_vec())),
                // Only a forged group has a right checksum over records that are none.
                Err(refusal) => {
                    return (
                        records,
                        Some(End { _error: refusal.to_string(), takes_a_key: false }),
                    );
                }
            }
        }
    }
}

fn options() -> Options {
    Options {
        segment_size: 64 << 10,
        spares: 1,
        background: false,
        new_log_id: LOG_ID,
        encryption: Some(cipher::reading()),
        ..Options::default()
    }
}

fn segments(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter().map(|file| file.path);
    files.filter(|path| path.extension().is_some_and(|end| end == "segment")).collect()
}

/// Puts other bytes under a name, durably.
pub(crate) fn replace(disk: &SimulatedDisk, path: &Path, bytes: &[u8]) {
    let dir = path.parent().expect("a file lies in a directory");
    let old = disk.visible_content(path);
    if old.as_ref().is_some_and(|old| old.len() == bytes.len()) {
        return disk.corrupt(path, 0, bytes);
    }
    if old.is_some() {
        disk.remove(path).expect("a disk without faults");
    }
    let file = disk.open(path, OpenMode::Create).expect("a disk without faults");
    file.write_at(bytes, 0).expect("a disk without faults");
    file.sync().expect("a disk without faults");
    disk.sync_dir(dir).expect("a disk without faults");
}

/// Good logs of all kinds, made once.
fn logs() -> &'static [Log] {
    static LOGS: OnceLock<Vec<Log>> = OnceLock::new();
    LOGS.get_or_init(|| vec![short(), torn(), long(), truncated(), compressed(), encrypted()])
}

fn append(wal: &Wal, count: usize, len: usize) {
    for number in 0..count {
        let payload = vec![number.to_le_bytes()[0]; len + number];
        let lsn = wal.append(&payload).expect("a disk without faults");
        // Two records to a group.
        if number % 2 == 1 {
            wal.wait(lsn).expect("a disk without faults");
        }
    }
}

fn written(write: impl Fn(&Wal), is_closed: bool) -> Log {
    written_with(options(), write, is_closed)
}

fn written_with(options: Options, write: impl Fn(&Wal), is_closed: bool) -> Log {
    let disk = SimulatedDisk::new(1);
    let opened = Wal::open(Arc::clone(&disk) as _, Path::new(DIR), options);
    let (wal, _) = opened.expect("a new log opens");
    write(&wal);
    wal.sync().expect("a disk without faults");
    let (records, _) = read(&wal);
    if is_closed {
        wal.close().expect("a disk without faults");
    }
    disk.kill();
    drop(wal);
    Log { disk, records, is_closed }
}

/// One segment with a few groups, closed.
pub(crate) fn short() -> Log {
    written(|wal| append(wal, 8, 30), true)
}

/// The same, but the process was killed before it could mark its end.
fn torn() -> Log {
    written(|wal| append(wal, 7, 3000), false)
}

/// Several segments, the first of them trimmed.
fn long() -> Log {
    let write = |wal: &Wal| {
        append(wal, 40, 5000);
        wal.trim(Lsn(15));
        append(wal, 20, 5000);
        wal.prepare(true).expect("a disk without faults");
        append(wal, 3, 10);
    };
    written(write, true)
}

/// Two segments: the second voids the end of the first, which has a footer.
pub(crate) fn truncated() -> Log {
    let write = |wal: &Wal| {
        append(wal, 10, 100);
        wal.truncate(Lsn(6)).expect("it is in the log");
        append(wal, 5, 200);
    };
    written(write, true)
}

/// Several segments of compressed groups, closed.
pub(crate) fn compressed() -> Log {
    let write = |wal: &Wal| {
        append(wal, 8, 3000);
        wal.truncate(Lsn(7)).expect("it is in the log");
        append(wal, 9, 5000);
    };
    written_with(Options { compress: true, ..options() }, write, true)
}

/// Several segments of encrypted groups, some of them compressed, closed.
pub(crate) fn encrypted() -> Log {
    let write = |wal: &Wal| {
        append(wal, 8, 300);
        wal.truncate(Lsn(7)).expect("it is in the log");
        append(wal, 19, 5000);
    };
    let encryption = Some(cipher::encrypting());
    written_with(Options { compress: true, encryption, ..options() }, write, true)
}
