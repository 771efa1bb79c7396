//! How hard the background work presses on the writers, as a smooth number.
//!
//! A store that stops its writers at a limit, and lets them run freely just below it, has latencies
//! like cliffs. Here the pressure rises steadily from the point where work begins to pile up to the
//! limit, and a writer can spend a share of its time in `work` that follows it. Only at 1000 per
//! mille does it have to.

use crate::Options;

/// The pressure at which writers have to help or wait.
pub const PRESSURE_MAX: u32 = 1000;

/// Bytes above the levels' targets from which the pressure rises, and where it nearly stops writers.
/// That much debt costs space, not correctness, so it slows writers down but never stops them.
const DEBT_FROM: u64 = 8 << 30;
const DEBT_TO: u64 = 64 << 30;
const DEBT_PRESSURE_MAX: u64 = 900;

/// What is waiting to be done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    /// Memory of all memtables, in bytes.
    pub memtable_bytes: u64,
    /// How many sealed memtables there are.
    pub sealed: usize,
    /// How many tables level 0 has.
    pub level_0: usize,
    /// Bytes by which levels are over their targets.
    pub debt: u64,
}

/// The pressure of a backlog: 0 to 1000 per mille.
pub(crate) fn pressure(backlog: &Backlog, options: &Options) -> u32 {
    let memtable_size = to_u64(options.memtable_size);
    let sealed_max = to_u64(options.sealed_max);
    let of_memory = ramp(
        backlog.memtable_bytes,
        memtable_size.saturating_mul(2),
        memtable_size.saturating_mul(sealed_max + 1),
    );
    // Many small sealed memtables, as a checkpoint may leave, are bounded as well.
    let of_sealed =
        if to_u64(backlog.sealed) > 2 * sealed_max { u64::from(PRESSURE_MAX) } else { 0 };
    let of_level_0 = ramp(
        to_u64(backlog.level_0),
        to_u64(2 * options.level_0_trigger),
        to_u64(options.level_0_max),
    );
    let of_debt = ramp(backlog.debt, DEBT_FROM, DEBT_TO).min(DEBT_PRESSURE_MAX);
    let pressure = of_memory.max(of_sealed).max(of_level_0).max(of_debt);
    u32::try_from(pressure).expect("a ramp ends at 1000")
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// 0 up to `from`, 1000 from `to` on, and linear between them.
fn ramp(value: u64, from: u64, to: u64) -> u64 {
    let max = u64::from(PRESSURE_MAX);
    if value <= from {
        0
    } else if value >= to {
        max
    } else {
        // Divided first where it would not fit, which costs no precision that anyone sees.
        let (above, width) = (value - from, to - from);
        above.checked_mul(max).map_or_else(|| above / (width / max).max(1), |above| above / width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_without_a_step_until_it_stops_writers() {
        let options = Options::default();
        let mut last = 0;
        for mib in 0..400_u64 {
            let backlog = Backlog { memtable_bytes: mib << 20, ..Backlog::default() };
            let now = pressure(&backlog, &options);
            assert!(now >= last && now - last <= 10, "a cliff at {mib} MiB: {last} to {now}");
            last = now;
        }
        assert_eq!(last, PRESSURE_MAX);
        let level_0 = |level_0| pressure(&Backlog { level_0, ..Backlog::default() }, &options);
        assert_eq!((level_0(8), level_0(16), level_0(24)), (0, 500, PRESSURE_MAX));
        let debt = Backlog { debt: u64::MAX, ..Backlog::default() };
        assert_eq!(pressure(&debt, &options), 900);
    }
}
