//! What a measurement ran on, as far as the system says. What it does not say is left empty.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Processor, memory, kernel, file system and disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The processor's name, and how many threads run at once.
    pub processor: String,
    /// Memory in GiB.
    pub memory: String,
    /// The kernel's release.
    pub kernel: String,
    /// The kind of file system, and how it is mounted.
    pub file_system: String,
    /// The device's name and model.
    pub device: String,
    /// Whether the device has a cache that a power cut empties.
    pub cache: String,
    /// Whether it can write through that cache (FUA).
    pub fua: String,
    /// When this was asked, in universal time.
    pub date: String,
}

impl Environment {
    /// Asks the system; the file system and the device are those of `dir`.
    pub fn of(dir: &Path) -> Environment {
        let cpu = read("/proc/cpuinfo");
        let named = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let model = named.unwrap_or_default().trim_start_matches([' ', '\t', ':']);
        let threads = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = read("/proc/meminfo");
        let kib = memory.lines().next().and_then(|line| line.split_whitespace().nth(1));
        let kib = kib.and_then(|kib| kib.parse::<u64>().ok());
        let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
        let mount = Mount::of(&dir, &read("/proc/self/mountinfo")).unwrap_or_default();
        let disk = mount.disk();
        let queue = |file: &str| {
            disk.as_ref().map(|disk| read(disk.join("queue").join(file))).unwrap_or_default()
        };
        Environment {
            processor: format!("{model} ({threads} threads)"),
            memory: kib.map(|kib| format!("{} GiB", kib.div_ceil(1 << 20))).unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease"),
            file_system: match mount.kind.is_empty() {
                true => String::new(),
                false => format!("{}, mounted {}", mount.kind, mount.options),
            },
            device: disk.as_deref().map(device).unwrap_or_default(),
            cache: queue("write_cache"),
            fua: match queue("fua").as_str() {
                "0" => "no".into(),
                "1" => "yes".into(),
                _ => String::new(),
            },
            date: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map(|since| date(since.as_secs()))
                .unwrap_or_default(),
        }
    }

    /// As names and facts for a page.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("date", self.date.clone()),
            ("processor", self.processor.clone()),
            ("memory", self.memory.clone()),
            ("kernel", self.kernel.clone()),
            ("file system", self.file_system.clone()),
            ("device", self.device.clone()),
            ("its cache", self.cache.clone()),
            ("writes through it (FUA)", self.fua.clone()),
        ]
    }
}

/// The commit of the checkout at `dir`, with a word if files differ from it; empty if there is none.
pub fn commit(dir: &str) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(dir).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(id) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => id,
        _ => format!("{id}, with changes"),
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// What is mounted where a directory is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mount {
    /// Numbers of the device, as `major:minor`.
    numbers: String,
    /// The kind of file system.
    kind: String,
    /// How it is mounted.
    options: String,
}

impl Mount {
    /// The mount with the longest path that holds `dir`; of two on one path the later one covers the other.
    fn of(dir: &Path, mountinfo: &str) -> Option<Mount> {
        let mut best: Option<(usize, Mount)> = None;
        for line in mountinfo.lines() {
            let Some((mount, rest)) = line.split_once(" - ") else { continue };
            let words: Vec<&str> = mount.split(' ').collect();
            let (Some(numbers), Some(point)) = (words.get(2), words.get(4)) else { continue };
            let covers = best.as_ref().is_none_or(|(len, _)| point.len() >= *len);
            if !dir.starts_with(point) || !covers {
                continue;
            }
            let mount = Mount {
                numbers: (*numbers).into(),
                kind: rest.split(' ').next().unwrap_or_default().into(),
                options: words.get(5).copied().unwrap_or_default().into(),
            };
            best = Some((point.len(), mount));
        }
        best.map(|(_, mount)| mount)
    }

    /// The device's directory in sysfs; that of the whole disk for a partition, as it has the queue.
    fn disk(&self) -> Option<PathBuf> {
        let path = std::fs::canonicalize(Path::new("/sys/dev/block").join(&self.numbers)).ok()?;
        match path.join("partition").exists() {
            true => path.parent().map(Path::to_path_buf),
            false => Some(path),
        }
    }
}

fn device(disk: &Path) -> String {
    let name = disk.file_name().map(|name| name.to_string_lossy().into_owned());
    let model = read(disk.join("device/model"));
    let kind = match read(disk.join("queue/rotational")).as_str() {
        "0" => "does not rotate",
        "1" => "says that it rotates",
        _ => "",
    };
    let words = [name.unwrap_or_default(), model, kind.into()];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Seconds since 1970 as a date and a time. The years are counted from March, so that the leap day is the last.
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        let dates = [0, 951_782_400, 951_868_800, 1_709_164_800, 4_107_542_400].map(date);
        assert_eq!(
            dates,
            [
                "1970-01-01 00:00 UTC",
                "2000-02-29 00:00 UTC",
                "2000-03-01 00:00 UTC",
                "2024-02-29 00:00 UTC",
                "2100-03-01 00:00 UTC"
            ]
        );
    }

    #[test]
    fn the_innermost_mount_counts() {
        let text = "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
                    2 1 8:2 / /data rw,noatime shared:1 - xfs /dev/sda2 rw\n\
                    3 1 8:3 / /database rw - btrfs /dev/sda3 rw\n\
                    no line of that kind\n";
        let mount = Mount::of(Path::new("/data/log"), text).expect("it is mounted");
        assert_eq!((mount.kind.as_str(), mount.numbers.as_str()), ("xfs", "8:2"));
        assert_eq!(mount.options, "rw,noatime");
        assert_eq!(Mount::of(Path::new("/home"), text).expect("the root").kind, "ext4");
        assert_eq!(Mount::of(Path::new("/home"), ""), None);
    }

    #[test]
    fn what_is_not_known_is_empty() {
        assert_eq!(commit("/proc"), "");
        let environment = Environment::of(Path::new("/proc"));
        assert!(environment.device.is_empty());
        assert_eq!(environment.facts().len(), 8);
    }
}
