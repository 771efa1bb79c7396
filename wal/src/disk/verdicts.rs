//! Verdicts of probing, by device: a directory is probed once, as long as the machine runs.
//!
//! Probing takes some 20 ms, and whoever opens a log after a crash waits for it. So what it found is kept in the
//! process, for the next log on the same device, and [in a file](super::remembered) of the directory, for
//! the next process. It counts while the machine has not been started anew, for the same device, and for
//! probes of the same version; what is damaged, foreign or old is probed anew and written anew. That it
//! cannot be written is no failure.
//!
//! **Nothing is durable because of it.** Every rung makes a write durable by itself, so what is taken from the
//! measurements is speed. What could cost more is established at every opening: what the device says
//! of its cache is read, and the rung is proven by one durable write, of the file itself, and one read at
//! the alignment. A rung that does not work here now is not taken, whatever was found earlier; then all is
//! tried anew.
//!
//! ```text
//! in the file? -> known here? -> choose by what the system says now -> one write and one read -> taken
//!      no --------> no --------------------------------------------------> fail: probe, keep, write
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use super::device::{device_of, file_system_of};
use super::probe::{choose, probe_quickly};
use super::real::queue_of;
use super::real_file::{self, Access};
use super::remembered::{Place, Remembered, VERDICT_FILE};
use super::trial::SECTOR;
use super::{Buffer, DurableWrite, OpenMode, Rung, write_now};
use crate::Result;

/// Names the time since the machine was started; changes with every start.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Those of this process.
pub(super) static VERDICTS: Verdicts = Verdicts::new(boot);

/// See the module's documentation.
pub(super) struct Verdicts {
    /// Names the time since the machine was started; none if the system does not tell.
    boot: fn() -> Option<[u8; 16]>,
    known: Mutex<BTreeMap<Place, Remembered>>,
}

/// The rung for a directory.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) rung: Rung,
    /// Alignment of direct I/O in bytes, if there is any.
    pub(super) alignment: Option<usize>,
    /// Why that one.
    pub(super) why: String,
    /// Whether nothing was measured for it now.
    pub(super) is_remembered: bool,
}

impl Verdicts {
    pub(super) const fn new(boot: fn() -> Option<[u8; 16]>) -> Self {
        Self { boot, known: Mutex::new(BTreeMap::new()) }
    }

    /// The rung for `dir`, which must exist: remembered and proven, or found by probing.
    ///
    /// # Errors
    ///
    /// As for a probe.
    pub(super) fn settle(&self, dir: &Path) -> Result<Settled> {
        let place = self.place_of(dir);
        if let Some((known, is_written)) = place.and_then(|place| self.recall(place, dir)) {
            if let Some(settled) = confirm(&known, is_written, dir) {
                self.lock().entry(known.place).or_insert(known);
                return Ok(settled);
            }
            self.lock().remove(&known.place);
        }
        let report = probe_quickly(dir)?;
        if let Some(found) = place.and_then(|place| Remembered::of(place, &report)) {
            // The next one probes as well, then.
            let _ = write(dir, &found.encode());
            self.lock().insert(found.place, found);
        }
        Ok(Settled {
            rung: report.chosen,
            alignment: report.direct_alignment,
            why: report.why,
            is_remembered: false,
        })
    }

    fn place_of(&self, dir: &Path) -> Option<Place> {
        let device = fs::metadata(dir).ok()?.dev();
        Some(Place { boot: (self.boot)()?, device })
    }

    /// The file first: what it says need not be written once more than to prove it. And whether the file holds it.
    fn recall(&self, place: Place, dir: &Path) -> Option<(Remembered, bool)> {
        let found = read(dir).ok().and_then(|bytes| Remembered::decode(&bytes));
        match found.filter(|found| found.place == place) {
            Some(found) => Some((found, true)),
            None => Some((self.lock().get(&place).cloned()?, false)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Remembered>> {
        // Whatever panicked elsewhere, what is in there can only cost time.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rung to stand on by what was found earlier, if it works here now.
fn confirm(known: &Remembered, is_written: bool, dir: &Path) -> Option<Settled> {
    let file_system = file_system_of(dir).ok()?;
    let (rung, why) = choose(&known.rungs, device_of(dir).as_ref(), &file_system)?;
    prove(known, is_written, rung, dir).ok()?;
    let alignment = known.alignment;
    Some(Settled { rung, alignment, why, is_remembered: true })
}

/// Makes one durable write with the rung, and reads it back at the alignment. The file is made first if it does not
/// hold these bytes already.
fn prove(known: &Remembered, is_written: bool, rung: Rung, dir: &Path) -> Result<()> {
    let path = dir.join(VERDICT_FILE);
    let refuse = |error: io::Error| super::io_error("probe", &path, 0, error);
    let block = known.encode();
    if !is_written {
        write(dir, &block).map_err(refuse)?;
    }
    let alignment = known.alignment.unwrap_or(SECTOR);
    let file = real_file::open(&path, OpenMode::Log, Access::of(rung, alignment))?;
    let block = Arc::new(block);
    let write = DurableWrite { id: 0, file: file.clone(), offset: 0, bytes: block.clone() };
    write_now(&*queue_of(rung, dir)?, write)?;
    // Memory and offset that are aligned to this much and to no more.
    let from = alignment % block.len();
    let mut memory = Buffer::with_capacity(2 * alignment);
    memory.resize(2 * alignment);
    let into = &mut memory.as_mut_slice()[alignment..];
    let count = file.read_at(into, u64::try_from(from).expect("less than a block"))?;
    match into[..count] == block[from..from + alignment] {
        true => Ok(()),
        false => Err(refuse(io::Error::other("it reads otherwise than it was written"))),
    }
}

/// Opens a file of ours, and nothing else that may have its name: no link, nothing that one waits for.
fn open(dir: &Path, options: &mut fs::OpenOptions) -> io::Result<fs::File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.custom_flags(i32::try_from(flags.bits()).expect("open flags fit an i32"));
    let file = options.open(dir.join(VERDICT_FILE))?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// What the file holds, up to more than it should.
fn read(dir: &Path) -> io::Result<Vec<u8>> {
    let file = open(dir, fs::OpenOptions::new().read(true))?;
    let mut bytes = vec![0; super::ALIGNMENT_MAX + 1];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Writes the file, not durably: it is checked when it is read.
fn write(dir: &Path, block: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = open(dir, options.write(true).create(true).truncate(false))?;
    file.write_all_at(block, 0)?;
    file.set_len(u64::try_from(block.len()).expect("a block"))
}

fn boot() -> Option<[u8; 16]> {
    parse_boot(&fs::read_to_string(BOOT_ID).ok()?)
}

/// Sixteen bytes in hexadecimal digits, with dashes between some of them.
fn parse_boot(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut boot = [0; 16];
    for (at, byte) in boot.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(boot)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::super::probe::{LADDER, RungReport, Timing, Verdict};
    use super::*;

    fn first() -> Option<[u8; 16]> {
        Some([1; 16])
    }

    fn second() -> Option<[u8; 16]> {
        Some([2; 16])
    }

    fn file_of(dir: &Path) -> PathBuf {
        dir.join(VERDICT_FILE)
    }

    /// Of a process that was just started.
    fn settle(dir: &Path, boot: fn() -> Option<[u8; 16]>) -> Settled {
        Verdicts::new(boot).settle(dir).unwrap()
    }

    #[test]
    fn a_process_probes_a_device_once_and_the_next_process_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let verdicts = Verdicts::new(first);
        let probed = verdicts.settle(dir.path()).unwrap();
        assert!(!probed.is_remembered);
        assert!(verdicts.settle(dir.path()).unwrap().is_remembered);
        assert!(verdicts.settle(other.path()).unwrap().is_remembered, "the same device");
        for dir in [dir.path(), other.path()] {
            let settled = settle(dir, first);
            assert!(settled.is_remembered);
            assert_eq!((settled.rung, settled.alignment), (probed.rung, probed.alignment));
            assert_eq!(fs::read_dir(dir).unwrap().count(), 1, "one file, and nothing of a trial");
        }
        // What another process has found stays in its file.
        let third = tempfile::tempdir().unwrap();
        settle(third.path(), first);
        let kept = fs::read(file_of(third.path())).unwrap();
        assert!(verdicts.settle(third.path()).unwrap().is_remembered);
        assert_eq!(fs::read(file_of(third.path())).unwrap(), kept);
    }

    /// A copy on another machine, or after a power cut, has another boot.
    #[test]
    fn what_is_of_another_boot_device_or_version_is_no_news_and_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        settle(dir.path(), first);
        let kept = fs::read(file_of(dir.path())).unwrap();
        assert!(!settle(dir.path(), second).is_remembered, "another boot");
        assert!(settle(dir.path(), second).is_remembered, "written anew");
        let mut foreign = Remembered::decode(&kept).unwrap();
        foreign.place.device += 1;
        let mut old = kept.clone();
        old[32] += 1;
        let crc = crc32fast::hash(&old[..200]);
        old[200..204].copy_from_slice(&crc.to_le_bytes());
        for stale in [&foreign.encode()[..], &old, &kept[..4095], &[0; 4096], &[7; 9000], b""] {
            fs::write(file_of(dir.path()), stale).unwrap();
            assert!(!settle(dir.path(), first).is_remembered);
            let found = fs::read(file_of(dir.path())).unwrap();
            assert!(Remembered::decode(&found).is_some_and(|found| found.place.boot == [1; 16]));
            assert!(settle(dir.path(), first).is_remembered, "written anew");
        }
    }

    #[test]
    fn a_damaged_byte_anywhere_is_probed_anew() {
        let dir = tempfile::tempdir().unwrap();
        settle(dir.path(), first);
        let kept = fs::read(file_of(dir.path())).unwrap();
        for at in (0..kept.len()).step_by(211) {
            let mut damaged = kept.clone();
            damaged[at] ^= 0x40;
            fs::write(file_of(dir.path()), &damaged).unwrap();
            assert!(!settle(dir.path(), first).is_remembered, "byte {at}");
        }
    }

    #[test]
    fn where_the_system_names_no_boot_nothing_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            assert!(!settle(dir.path(), || None).is_remembered);
            assert!(!file_of(dir.path()).exists());
        }
    }

    /// A verdict that is whole and wrong: what it praises is tried before it is taken.
    #[test]
    fn a_wrong_verdict_costs_time_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let probed = settle(dir.path(), first);
        let found = Remembered::decode(&fs::read(file_of(dir.path())).unwrap()).unwrap();
        let lies = |alignment: Option<usize>, best: Rung| {
            let timing =
                Timing { writes: 9, median_micros: 1, p99_micros: 1, per_second: Some(1 << 40) };
            let verdict = |rung| match rung == best {
                true => Verdict::Works(timing.clone()),
                false => Verdict::Refused { reason: "a lie".into() },
            };
            let rungs = LADDER.map(|rung| RungReport { rung, verdict: verdict(rung) });
            Remembered { alignment, rungs: rungs.to_vec(), ..found.clone() }
        };
        for alignment in [None, Some(512), Some(4096)] {
            for best in LADDER {
                fs::write(file_of(dir.path()), &*lies(alignment, best).encode()).unwrap();
                let settled = settle(dir.path(), first);
                // It was proven to work, or everything was tried.
                match settled.is_remembered {
                    true => assert_eq!(settled.rung, best),
                    false => assert_eq!(settled.rung, probed.rung),
                }
            }
        }
    }

    #[test]
    fn what_else_has_the_name_is_left_alone_and_keeps_nothing_from_opening() {
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = parent.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        for number in 0..2 {
            let dir = parent.path().join(format!("dir-{number}"));
            fs::create_dir(&dir).unwrap();
            match number {
                0 => symlink(&elsewhere, file_of(&dir)).unwrap(),
                _ => fs::create_dir(file_of(&dir)).unwrap(),
            }
            for _ in 0..2 {
                assert!(!settle(&dir, first).is_remembered);
            }
        }
        assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
    }

    #[test]
    fn a_boot_is_named_by_sixteen_bytes() {
        let text = "00010203-0405-0607-0809-0a0b0c0d0e0f\n";
        assert_eq!(parse_boot(text), Some([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]));
        for other in
            ["", "0001", &"g".repeat(32), &"1".repeat(33), "+0010203-0405-0607-0809-0a0b0c0d0e0f"]
        {
            assert_eq!(parse_boot(other), None, "{other}");
        }
    }
}
