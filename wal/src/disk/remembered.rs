//! What a probe found, in a small file: for whoever opens the directory again before the machine is started
//! anew. See `docs/format/probe.md`.
//!
//! It holds measurements and refusals, not the choice: that follows from them and from what the system says of
//! the disk now. It is written without a sync, so it may be missing, torn or old, and it may be copied to
//! another disk or machine. What is not whole, or not of this place, is no news; see
//! [`verdicts`](super::verdicts) for why a wrong one costs time only.

use std::fmt::Write;
use std::path::Path;

use super::probe::{LADDER, ProbeReport, RungReport, Timing, Verdict};
use super::trial::SECTOR;
use super::{ALIGNMENT_MAX, Buffer, Disk, OpenMode};
use crate::frame::{u32_at, u64_at};
use crate::{Error, Result};

/// The file's name, in the directory in which a disk is opened.
pub const VERDICT_FILE: &str = "PROBE";

/// First bytes of the file.
const MAGIC: u32 = u32::from_le_bytes(*b"SLPV");
const FORMAT_VERSION: u16 = 1;
/// To be raised when rungs are tried or measured otherwise: then what was found before is no news.
const PROBE_VERSION: u32 = 1;
/// Bytes of the file: one block, which a rung can be tried on.
const LEN: usize = ALIGNMENT_MAX;
const BOOT_LEN: usize = 16;
/// Where the rungs begin.
const RUNGS_START: usize = 40;
/// Bytes of a rung.
const RUNG_LEN: usize = 32;
/// Where the checksum stands: behind the rungs.
const CRC_START: usize = RUNGS_START + LADDER.len() * RUNG_LEN;
const _: () = assert!(CRC_START == 200, "five rungs, as the format's page says");

const STATE_NOT_TRIED: u32 = 0;
const STATE_WORKS: u32 = 1;
const STATE_REFUSED: u32 = 2;
/// Stands for a rate that was not measured.
const NO_RATE: u64 = u64::MAX;

/// Where a finding holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Names the time since the machine was started.
    pub(super) boot: [u8; BOOT_LEN],
    /// The device of the directory.
    pub(super) device: u64,
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) place: Place,
    /// Alignment of direct I/O in bytes, if there is any.
    pub(super) alignment: Option<usize>,
    /// Every rung, best first.
    pub(super) rungs: Vec<RungReport>,
}

impl Remembered {
    /// What is worth remembering of a report: none if nothing could be tried.
    pub(super) fn of(place: Place, report: &ProbeReport) -> Option<Self> {
        let works = |report: &RungReport| matches!(report.verdict, Verdict::Works(_));
        report.rungs.iter().any(works).then(|| Self {
            place,
            alignment: report.direct_alignment,
            rungs: report.rungs.clone(),
        })
    }

    /// The file's bytes.
    pub(super) fn encode(&self) -> Buffer {
        let mut bytes = [0; LEN];
        let alignment = u32::try_from(self.alignment.unwrap_or(0)).expect("at most a block");
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.place.boot);
        bytes[24..32].copy_from_slice(&self.place.device.to_le_bytes());
        bytes[32..36].copy_from_slice(&PROBE_VERSION.to_le_bytes());
        bytes[36..40].copy_from_slice(&alignment.to_le_bytes());
        let places = bytes[RUNGS_START..CRC_START].chunks_exact_mut(RUNG_LEN);
        for (report, place) in self.rungs.iter().zip(places) {
            encode_rung(&report.verdict, place);
        }
        let crc = crc32fast::hash(&bytes[..CRC_START]);
        bytes[CRC_START..CRC_START + 4].copy_from_slice(&crc.to_le_bytes());
        let mut block = Buffer::with_capacity(LEN);
        block.extend(&bytes);
        block
    }

    /// Decodes the file; none if this program, at this version, has not written it whole.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        if u32_at(bytes, 0) != MAGIC
            || u32_at(bytes, CRC_START) != crc32fast::hash(&bytes[..CRC_START])
        {
            return None;
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        let mut reserved = bytes[6..8].iter().chain(&bytes[CRC_START + 4..]);
        if version != FORMAT_VERSION
            || u32_at(bytes, 32) != PROBE_VERSION
            || reserved.any(|byte| *byte != 0)
        {
            return None;
        }
        let alignment = match u32_at(bytes, 36) {
            0 => None,
            bytes => Some(usize::try_from(bytes).ok().filter(|bytes| {
                bytes.is_power_of_two() && (SECTOR..=ALIGNMENT_MAX).contains(bytes)
            })?),
        };
        let mut rungs = Vec::with_capacity(LADDER.len());
        for (rung, place) in LADDER.into_iter().zip(bytes[RUNGS_START..].chunks_exact(RUNG_LEN)) {
            rungs.push(RungReport { rung, verdict: decode_rung(place)? });
        }
        let boot = bytes[8..8 + BOOT_LEN].try_into().ok()?;
        let place = Place { boot, device: u64_at(bytes, 24) };
        Some(Self { place, alignment, rungs })
    }
}

fn encode_rung(verdict: &Verdict, place: &mut [u8]) {
    let (state, timing) = match verdict {
        Verdict::NotTried { .. } => (STATE_NOT_TRIED, None),
        Verdict::Works(timing) => (STATE_WORKS, Some(timing)),
        Verdict::Refused { .. } => (STATE_REFUSED, None),
    };
    place[0..4].copy_from_slice(&state.to_le_bytes());
    let Some(timing) = timing else { return };
    let writes = u32::try_from(timing.writes).unwrap_or(u32::MAX);
    let rate = timing.per_second.unwrap_or(NO_RATE);
    place[4..8].copy_from_slice(&writes.to_le_bytes());
    place[8..16].copy_from_slice(&timing.median_micros.to_le_bytes());
    place[16..24].copy_from_slice(&timing.p99_micros.to_le_bytes());
    place[24..32].copy_from_slice(&rate.to_le_bytes());
}

fn decode_rung(place: &[u8]) -> Option<Verdict> {
    let timing = Timing {
        writes: usize::try_from(u32_at(place, 4)).ok()?,
        median_micros: u64_at(place, 8),
        p99_micros: u64_at(place, 16),
        per_second: Some(u64_at(place, 24)).filter(|rate| *rate != NO_RATE),
    };
    let is_blank = place[4..].iter().all(|byte| *byte == 0);
    match u32_at(place, 0) {
        STATE_WORKS => Some(Verdict::Works(timing)),
        STATE_NOT_TRIED if is_blank => Some(Verdict::NotTried { reason: "nor earlier".into() }),
        STATE_REFUSED if is_blank => Some(Verdict::Refused { reason: "earlier".into() }),
        _ => None,
    }
}

/// The file as annotated text.
pub(crate) fn inspect_verdict(disk: &dyn Disk, path: &Path) -> Result<String> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; LEN + 1];
    let count = file.read_at(&mut bytes, 0)?;
    let Some(found) = Remembered::decode(&bytes[..count]) else {
        return Err(Error::Corruption {
            path: path.to_path_buf(),
            offset: 0,
            expected: "what a probe found, whole and of this version: it may be removed".into(),
            found: format!("{count} bytes that begin with {:02x?}", &bytes[..count.min(8)]),
        });
    };
    let boot: String = found.place.boot.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = format!("{}: found by a probe\n", path.display());
    // Writing to a string does not fail.
    let _ = writeln!(text, "boot {boot}, device {}", found.place.device);
    let _ = match found.alignment {
        Some(bytes) => writeln!(text, "direct I/O aligned to {bytes} bytes"),
        None => writeln!(text, "no direct I/O"),
    };
    for report in &found.rungs {
        let _ = writeln!(text, "{report}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    /// A file of every kind of verdict, written by the first version.
    const KEPT: &[u8] = include_bytes!("../../testdata/format/v1/probe/PROBE");
    const DUMP: &str = include_str!("../../testdata/format/v1/probe/PROBE.txt");

    fn remembered() -> Remembered {
        let timing = |median_micros, per_second| {
            let p99_micros = median_micros * 2;
            Verdict::Works(Timing { writes: 2, median_micros, p99_micros, per_second })
        };
        let verdicts = [
            timing(80, Some(40_000)),
            timing(90, Some(30_000)),
            timing(700, None),
            Verdict::Refused { reason: "earlier".into() },
            Verdict::NotTried { reason: "nor earlier".into() },
        ];
        let rungs = LADDER.into_iter().zip(verdicts);
        Remembered {
            place: Place { boot: *b"0123456789abcdef", device: 0xfe00 },
            alignment: Some(512),
            rungs: rungs.map(|(rung, verdict)| RungReport { rung, verdict }).collect(),
        }
    }

    #[test]
    fn the_kept_file_is_written_and_read_as_ever() {
        assert_eq!(*remembered().encode(), *KEPT);
        assert_eq!(Remembered::decode(KEPT), Some(remembered()));
        let disk = SimulatedDisk::new(1);
        let path = Path::new("/PROBE");
        let file = disk.open(path, OpenMode::Create).unwrap();
        file.write_at(KEPT, 0).unwrap();
        assert_eq!(crate::inspect_segment(&*disk, path).unwrap(), DUMP);
        file.write_at(b"x", 300).unwrap();
        let refused = crate::inspect_segment(&*disk, path).unwrap_err();
        assert!(matches!(refused, Error::Corruption { offset: 0, .. }), "{refused}");
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_refused() {
        for bit in 0..LEN * 8 {
            let mut damaged = KEPT.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Remembered::decode(&damaged), None, "bit {bit}");
        }
        assert_eq!(Remembered::decode(&KEPT[..LEN - 1]), None);
        assert_eq!(Remembered::decode(&[KEPT, &[0]].concat()), None);
        assert_eq!(Remembered::decode(&[]), None);
    }

    #[test]
    fn what_was_never_written_is_not_believed_behind_a_right_checksum() {
        // Version, reserved bytes, version of the probe, alignment, state, figures of a rung that was refused.
        let refused = RUNGS_START + 3 * RUNG_LEN;
        for (at, byte) in
            [(4, 2), (6, 1), (32, 2), (36, 1), (38, 1), (RUNGS_START, 3), (refused + 4, 1)]
        {
            let mut bytes = KEPT.to_vec();
            bytes[at] = byte;
            let crc = crc32fast::hash(&bytes[..CRC_START]);
            bytes[CRC_START..CRC_START + 4].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Remembered::decode(&bytes), None, "{byte} at {at}");
        }
    }
}
