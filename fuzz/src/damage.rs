//! What an input does to the bytes of a file.

use crate::Choices;

/// The most edits of one input: enough for two that only together do harm.
const EDITS_MAX: usize = 4;

/// How the bytes of a file come to be other ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// No edit changed anything.
    None,
    /// One bit is inverted: every checksum sees that.
    Bit,
    /// Bytes were lost or moved, as disks do: zeroed, cut off, or copied from another place.
    Disk,
    /// Bytes were chosen, and checksums made right for them: what a program other than ours may write.
    Forged,
}

/// Edits `file` as the choices say. `unit` is the distance at which structures begin; `seal` makes
/// the checksums of a file right again.
pub(crate) fn edit(
    choices: &mut Choices<'_>,
    file: &mut Vec<u8>,
    unit: usize,
    seal: fn(&mut [u8]),
) -> Damage {
    let before = file.clone();
    let damage = match choices.below(4) {
        0 => Damage::None,
        1 => {
            let at = place(choices, file.len(), unit);
            let bit: u8 = 1 << choices.below(8);
            file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
            Damage::Bit
        }
        2 => {
            (0..1 + choices.below(EDITS_MAX)).for_each(|_| lose(choices, file, unit));
            Damage::Disk
        }
        _ => {
            (0..1 + choices.below(EDITS_MAX)).for_each(|_| choose(choices, file, unit));
            seal(file);
            Damage::Forged
        }
    };
    if *file == before { Damage::None } else { damage }
}

/// A place in a file: near its end, near the beginning of a unit, where the headers are, or anywhere.
fn place(choices: &mut Choices<'_>, len: usize, unit: usize) -> usize {
    if choices.once_in(4) {
        return len.saturating_sub(1 + choices.below(256));
    }
    let start = choices.below(len.div_ceil(unit)) * unit;
    let within = choices.below(256);
    // A byte says nearly all; the rarer places take another one.
    let within = if within < 240 { within } else { choices.below(unit) };
    (start + within).min(len.saturating_sub(1))
}

fn lose(choices: &mut Choices<'_>, file: &mut Vec<u8>, unit: usize) {
    let len = file.len();
    let at = place(choices, len, unit);
    // Whole sectors, as a disk writes them.
    let sector = at - at % 512;
    let end = len.min(sector + 512 * (1 + choices.below(24)));
    match choices.below(3) {
        0 => file[sector.min(end)..end].fill(0),
        1 => file.truncate(at),
        _ => {
            let from = choices.below(len.div_ceil(512)) * 512;
            let count = (end - sector.min(end)).min(len.saturating_sub(from));
            file.copy_within(from..from + count, sector);
        }
    }
}

fn choose(choices: &mut Choices<'_>, file: &mut Vec<u8>, unit: usize) {
    let len = file.len();
    let at = place(choices, len, unit);
    let word: u64 = match choices.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX - 1,
        3 => i64::MAX.cast_unsigned(),
        4 => u64::from(u32::MAX),
        5 => 1 << choices.below(64),
        _ => choices.any(),
    };
    let width = choices.pick(&[8, 4, 2, 1]);
    let bytes = &word.to_le_bytes()[..width];
    match choices.below(8) {
        0 => {
            let more = choices.bytes(64);
            file.splice(at..at, more.iter().copied());
        }
        1 => {
            let end = len.min(at + choices.below(64));
            file.drain(at..end);
        }
        2 => file.truncate(at),
        3 => {
            // Added, not set: the neighbours of a right number are where mistakes are.
            let step = choices.pick(&[1_u64, u64::MAX, 4096, 2, 64]);
            if let Some(field) = file.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
                *field = u64::from_le_bytes(*field).wrapping_add(step).to_le_bytes();
            }
        }
        _ => file.iter_mut().skip(at).zip(bytes).for_each(|(old, new)| *old = *new),
    }
}
