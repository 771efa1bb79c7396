//! What reached the device: its own counters, before and after.
//!
//! Counts are free of noise where times are not. The kernel keeps them for each block device; a process's
//! own `/proc/self/io` counts what went into the cache, and counts writes into filled files wrongly.
//!
//! They count everybody's writes: on a machine that does something else they are too high.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of a sector in the kernel's counters, whatever the device has.
const SECTOR_LEN: u64 = 512;
/// Which number of the line counts written sectors, and which flushes.
const SECTORS_AT: usize = 6;
const FLUSHES_AT: usize = 15;

/// What a device has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes written.
    pub bytes: u64,
    /// Flushes of its cache. A device without one that can be lost has none.
    pub flushes: u64,
}

impl Counters {
    /// Of the device under a directory; none if it has no counters, such as tmpfs.
    pub fn of(dir: &Path) -> Option<Counters> {
        Self::parse(&std::fs::read_to_string(sysfs(dir)?.join("stat")).ok()?)
    }

    fn parse(line: &str) -> Option<Counters> {
        let numbers: Vec<u64> =
            line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let bytes = numbers.get(SECTORS_AT)?.checked_mul(SECTOR_LEN)?;
        Some(Counters { bytes, flushes: *numbers.get(FLUSHES_AT)? })
    }

    /// What has been done since `before`.
    #[must_use]
    pub fn since(self, before: Counters) -> Counters {
        Counters {
            bytes: self.bytes.saturating_sub(before.bytes),
            flushes: self.flushes.saturating_sub(before.flushes),
        }
    }
}

/// The device's directory in sysfs.
pub(crate) fn sysfs(dir: &Path) -> Option<PathBuf> {
    let device = std::fs::metadata(dir).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    path.exists().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let line = "  10 2 30 4 50 6 70 8 9 10 11 12 13 14 15 160 17\n";
        assert_eq!(Counters::parse(line), Some(Counters { bytes: 70 * 512, flushes: 160 }));
        // An old kernel does not count flushes.
        assert_eq!(Counters::parse("1 2 3 4 5 6 7 8 9 10 11"), None);
        let (before, after) =
            (Counters { bytes: 5, flushes: 9 }, Counters { bytes: 25, flushes: 10 });
        assert_eq!(after.since(before), Counters { bytes: 20, flushes: 1 });
    }
}
