//! Which rung of the ladder to stand on: tried on the spot, and explained.
//!
//! [`probe`] tries every rung in a directory, measures it, and reads what the system tells of the
//! disk; [`ProbeReport`] is what `doctor` prints. Opening a disk goes the same way with less
//! effort: a few writes, and no rung below one that works. What it finds is remembered while the machine
//! runs ([`VERDICT_FILE`](super::VERDICT_FILE)).
//!
//! The rule, from the design: io_uring where a durable write costs the device no cache flush, or
//! where it was measured clearly faster than `pwritev2`; else `pwritev2`; else what works, from the
//! top. A file system in memory gets buffered writes: direct ones gain nothing there. All rungs
//! make the same files, so another choice next time is no harm.
//!
//! A full disk cannot be probed, and must not keep a log from being opened. Then the choice is the
//! rung that works everywhere.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use super::device::{Device, FileSystem};
pub use super::trial::{TOGETHER, Timing};

use super::device::{device_of, file_system_of};
use super::real::queue_of;
use super::trial::{Effort, TrialFile};
use super::{Rung, io_error};
use crate::{Error, Result};

/// The real rungs, best first.
pub const LADDER: [Rung; 5] = [
    Rung::IoUring,
    Rung::Pwritev2,
    Rung::DirectFdatasync,
    Rung::BufferedFdatasync,
    Rung::PortableFsync,
];

/// For people, who wait a second or two.
const THOROUGH: Effort =
    Effort { alone: 64, together: 256, rounds: 3, time_max: Duration::from_millis(500) };

/// For opening, which should take less than 100 ms even on a slow disk.
const QUICK: Effort =
    Effort { alone: 2, together: 32, rounds: 2, time_max: Duration::from_millis(10) };

/// For a rung that was asked for: only whether it works.
const ONCE: Effort = Effort { alone: 1, together: 0, rounds: 0, time_max: Duration::ZERO };

/// What became of trying a rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works, this fast.
    Works(Timing),
    /// It does not work here.
    Refused {
        /// What the system said.
        reason: String,
    },
    /// It was not tried.
    NotTried {
        /// Why not.
        reason: String,
    },
}

/// One rung in one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RungReport {
    /// Which.
    pub rung: Rung,
    /// What became of it.
    pub verdict: Verdict,
}

/// What can be said of the disk under a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The directory.
    pub dir: PathBuf,
    /// Every rung, best first.
    pub rungs: Vec<RungReport>,
    /// Whether the kernel lets us set up a ring; if not, what it said.
    pub io_uring_refused: Option<String>,
    /// Alignment of direct I/O in bytes; `None` if there is none here, or it could not be tried.
    pub direct_alignment: Option<usize>,
    /// The block device, if there is one and the system tells.
    pub device: Option<Device>,
    /// The file system.
    pub file_system: FileSystem,
    /// The rung to stand on.
    pub chosen: Rung,
    /// Why that one.
    pub why: String,
}

/// Tries and measures every rung in `dir`, which must exist. Takes a second or two and leaves
/// nothing behind.
///
/// # Errors
///
/// [`Error::Io`] if no file can be created and written there, for another reason than a full disk.
///
/// # Examples
///
/// ```
/// let report = strandline_wal::disk::probe(&std::env::temp_dir())?;
/// println!("{report}");
/// # Ok::<(), strandline_wal::Error>(())
/// ```
pub fn probe(dir: &Path) -> Result<ProbeReport> {
    examine(dir, THOROUGH, true)
}

/// Like [`probe`], quickly: rungs below one that works are not tried.
pub(super) fn probe_quickly(dir: &Path) -> Result<ProbeReport> {
    examine(dir, QUICK, false)
}

/// Makes sure that a rung that was asked for works in `dir`; returns the alignment it needs.
///
/// # Errors
///
/// [`Error::InvalidOption`] if it does not work, saying why; [`Error::Io`] if no file can be made.
pub(super) fn demand(dir: &Path, rung: Rung) -> Result<usize> {
    let refuse = |reason: String| Error::InvalidOption {
        reason: format!("the rung {rung} does not work in {}: {reason}", dir.display()),
    };
    if rung == Rung::Simulated {
        return Err(refuse("it is for tests on a simulated disk".into()));
    }
    let file = match TrialFile::create(dir) {
        Ok(file) => file,
        // Nothing can be tried, and whoever names a rung knows that it works there.
        Err(error) if error.is_full() => return Ok(super::ALIGNMENT_MAX),
        Err(error) => return Err(error),
    };
    let queue = queue_of(rung, dir).map_err(|error| refuse(error.to_string()))?;
    file.measure(rung, &*queue, ONCE).map_err(refuse)?;
    Ok(file.direct_alignment().unwrap_or(super::trial::SECTOR))
}

fn examine(dir: &Path, effort: Effort, all: bool) -> Result<ProbeReport> {
    let file_system = file_system_of(dir)?;
    let device = device_of(dir);
    let file = match TrialFile::create(dir) {
        Ok(file) => Some(file),
        Err(error) if error.is_full() => None,
        Err(error) => return Err(error),
    };
    let mut rungs: Vec<RungReport> = Vec::new();
    for rung in LADDER {
        let needless = |report: &RungReport| {
            report.rung != Rung::IoUring && matches!(report.verdict, Verdict::Works(_))
        };
        let verdict = match &file {
            None => Verdict::NotTried { reason: "the disk is full".into() },
            Some(_) if !all && rungs.iter().any(needless) => {
                Verdict::NotTried { reason: "a better one works".into() }
            }
            Some(file) => examine_rung(dir, file, rung, effort),
        };
        rungs.push(RungReport { rung, verdict });
    }
    let io_uring_refused = queue_of(Rung::IoUring, dir).err().map(|error| error.to_string());
    let direct_alignment = file.and_then(|file| file.direct_alignment().ok());
    let (chosen, why) = choose(&rungs, device.as_ref(), &file_system).ok_or_else(|| {
        let refusals = rungs.iter().map(RungReport::to_string).collect::<Vec<_>>().join("; ");
        io_error("durable write", dir, 0, std::io::Error::other(refusals))
    })?;
    Ok(ProbeReport {
        dir: dir.to_path_buf(),
        rungs,
        io_uring_refused,
        direct_alignment,
        device,
        file_system,
        chosen,
        why,
    })
}

fn examine_rung(dir: &Path, file: &TrialFile, rung: Rung, effort: Effort) -> Verdict {
    let queue = queue_of(rung, dir).map_err(|error| error.to_string());
    match queue.and_then(|queue| file.measure(rung, &*queue, effort)) {
        Ok(timing) => Verdict::Works(timing),
        Err(reason) => Verdict::Refused { reason },
    }
}

/// Applies the rule at the head of the file; `None` if nothing works.
pub(super) fn choose(
    rungs: &[RungReport],
    device: Option<&Device>,
    file_system: &FileSystem,
) -> Option<(Rung, String)> {
    let timing = |rung: Rung| {
        rungs.iter().find(|report| report.rung == rung).and_then(|report| match &report.verdict {
            Verdict::Works(timing) => Some(timing),
            _ => None,
        })
    };
    if rungs.iter().all(|report| matches!(report.verdict, Verdict::NotTried { .. })) {
        let why = "nothing could be tried, and this rung works everywhere";
        return Some((Rung::BufferedFdatasync, why.into()));
    }
    let refused = |rung: Rung| {
        let of_rung = |report: &&RungReport| report.rung == rung;
        let verdict = rungs.iter().find(of_rung).map(|report| &report.verdict);
        matches!(verdict, Some(Verdict::Refused { .. }))
    };
    if file_system.in_memory && !refused(Rung::BufferedFdatasync) {
        let why = format!("{} is memory: it makes nothing durable in any way", file_system.name);
        return Some((Rung::BufferedFdatasync, why));
    }
    if let (Some(ring), Some(call)) = (timing(Rung::IoUring), timing(Rung::Pwritev2)) {
        return Some(choose_of_two(ring, call, device));
    }
    let first = LADDER.into_iter().find(|rung| timing(*rung).is_some())?;
    Some((first, "the best that works here".into()))
}

/// io_uring or `pwritev2`, where both work.
fn choose_of_two(ring: &Timing, call: &Timing, device: Option<&Device>) -> (Rung, String) {
    if let Some(device) = device.filter(|device| device.needs_no_flush()) {
        return (Rung::IoUring, format!("a durable write needs no cache flush on {device}"));
    }
    let disk = device.map_or_else(|| "an unknown device".to_string(), Device::to_string);
    let (ring, call) = (ring.per_second.unwrap_or(0), call.per_second.unwrap_or(0));
    let measured = format!("{ring} durable writes per second against {call} with pwritev2");
    // A short trial on a shared machine is too noisy to decide by: it flipped from one opening to the
    // next, and a wrong choice cost far more than a right one gained.
    (Rung::Pwritev2, format!("{disk} must flush its cache for each write; measured: {measured}"))
}

impl fmt::Display for RungReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:<19}", self.rung.name())?;
        match &self.verdict {
            Verdict::Works(timing) => {
                let Timing { writes, median_micros, p99_micros, per_second } = timing;
                write!(out, "works: median {median_micros} us, p99 {p99_micros} us of {writes}")?;
                match per_second {
                    Some(rate) => write!(out, "; {rate}/s with {TOGETHER} in flight"),
                    None => Ok(()),
                }
            }
            Verdict::Refused { reason } => write!(out, "refused: {reason}"),
            Verdict::NotTried { reason } => write!(out, "not tried: {reason}"),
        }
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "directory          {}", self.dir.display())?;
        let FileSystem { name, free_bytes, .. } = &self.file_system;
        writeln!(out, "file system        {name}, {free_bytes} bytes free")?;
        match &self.device {
            Some(device) => writeln!(out, "device             {device}")?,
            None => writeln!(out, "device             unknown")?,
        }
        match self.direct_alignment {
            Some(bytes) => writeln!(out, "direct I/O         aligned to {bytes} bytes")?,
            None => writeln!(out, "direct I/O         none found")?,
        }
        match &self.io_uring_refused {
            Some(reason) => writeln!(out, "io_uring           refused: {reason}")?,
            None => writeln!(out, "io_uring           allowed")?,
        }
        for report in &self.rungs {
            writeln!(out, "{report}")?;
        }
        write!(out, "chosen             {}: {}", self.chosen, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works(rung: Rung, per_second: u64) -> RungReport {
        let timing =
            Timing { writes: 1, median_micros: 1, p99_micros: 1, per_second: Some(per_second) };
        RungReport { rung, verdict: Verdict::Works(timing) }
    }

    fn refused(rung: Rung) -> RungReport {
        RungReport { rung, verdict: Verdict::Refused { reason: "no".into() } }
    }

    fn chosen(rungs: &[RungReport], fua: Option<bool>, in_memory: bool) -> Option<Rung> {
        let device = Device { name: "d".into(), volatile_cache: Some(true), fua };
        let file_system = FileSystem { name: "f".into(), free_bytes: 0, in_memory };
        choose(rungs, Some(&device), &file_system).map(|(rung, _)| rung)
    }

    #[test]
    fn follows_the_rule() {
        let both = |ring| [works(Rung::IoUring, ring), works(Rung::Pwritev2, 1000)];
        assert_eq!(chosen(&both(500), Some(true), false), Some(Rung::IoUring));
        assert_eq!(chosen(&both(1100), Some(false), false), Some(Rung::Pwritev2));
        assert_eq!(chosen(&both(9000), Some(false), false), Some(Rung::Pwritev2));
        assert_eq!(chosen(&both(1000), None, false), Some(Rung::Pwritev2));
        assert_eq!(chosen(&both(5000), None, true), Some(Rung::BufferedFdatasync));
    }

    #[test]
    fn takes_the_best_that_works_and_nothing_if_nothing_does() {
        let mut rungs: Vec<_> = LADDER.into_iter().map(refused).collect();
        assert_eq!(chosen(&rungs, None, false), None);
        rungs[4] = works(Rung::PortableFsync, 1);
        assert_eq!(chosen(&rungs, None, true), Some(Rung::PortableFsync));
        rungs[1] = works(Rung::Pwritev2, 1);
        assert_eq!(chosen(&rungs, None, false), Some(Rung::Pwritev2));
    }

    #[test]
    fn a_full_disk_can_be_opened() {
        let not_tried =
            |rung| RungReport { rung, verdict: Verdict::NotTried { reason: "full".into() } };
        let rungs: Vec<_> = LADDER.into_iter().map(not_tried).collect();
        assert_eq!(chosen(&rungs, None, false), Some(Rung::BufferedFdatasync));
    }
}
