//! What the system tells of the disk under a directory: the device and its cache, the file system.
//!
//! The facts come from `/sys/dev/block`, `statfs` and `statx`. Each of them may be missing, in a
//! container or on a file system without a device of its own; then it is `None`, and nothing is
//! guessed.

use std::fmt;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, major, minor, statfs, statx};

use super::io_error;
use crate::Result;

/// The block device that holds a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name in `/sys/block`: the whole disk if the file system is on a partition.
    pub name: String,
    /// Whether it says that its write cache loses its content without power ("write back").
    pub volatile_cache: Option<bool>,
    /// Whether a single write can bypass that cache (FUA).
    pub fua: Option<bool>,
}

impl Device {
    /// Whether a durable write costs it no flush of its whole cache.
    pub fn needs_no_flush(&self) -> bool {
        self.fua == Some(true) || self.volatile_cache == Some(false)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cache = match self.volatile_cache {
            Some(true) => "volatile write cache",
            Some(false) => "no volatile write cache",
            None => "write cache unknown",
        };
        let fua = match self.fua {
            Some(true) => "FUA",
            Some(false) => "no FUA",
            None => "FUA unknown",
        };
        write!(out, "{} ({cache}, {fua})", self.name)
    }
}

/// The file system that holds a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type, such as `ext4`, or its magic number if that is not known here.
    pub name: String,
    /// How many bytes a process like ours may still use.
    pub free_bytes: u64,
    /// Whether it lives in memory, where nothing is durable.
    pub in_memory: bool,
}

/// The device under a directory, if it has one and the system tells.
pub(super) fn device_of(dir: &Path) -> Option<Device> {
    let number = fs::metadata(dir).ok()?.dev();
    let link = format!("/sys/dev/block/{}:{}", major(number), minor(number));
    let mut node = fs::canonicalize(link).ok()?;
    if node.join("partition").exists() {
        node = node.parent()?.to_path_buf();
    }
    Some(describe(&node))
}

/// Reads what `/sys` says of a whole disk.
fn describe(node: &Path) -> Device {
    let setting = |name: &str| fs::read_to_string(node.join("queue").join(name)).ok();
    let volatile_cache = setting("write_cache").and_then(|text| match text.trim() {
        "write back" => Some(true),
        "write through" => Some(false),
        _ => None,
    });
    let fua = setting("fua").and_then(|text| match text.trim() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    });
    let name: PathBuf = node.file_name().map(PathBuf::from).unwrap_or_default();
    Device { name: name.display().to_string(), volatile_cache, fua }
}

/// The file system of a directory.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) if the directory is not there or cannot be asked.
pub(super) fn file_system_of(dir: &Path) -> Result<FileSystem> {
    let facts = statfs(dir).map_err(|error| io_error("statfs", dir, 0, error.into()))?;
    let magic = u64::try_from(facts.f_type).unwrap_or(0);
    let name = FILE_SYSTEMS.iter().find(|(number, _)| *number == magic);
    let block = u64::try_from(facts.f_frsize).unwrap_or(0);
    Ok(FileSystem {
        name: name.map_or_else(|| format!("unknown ({magic:#x})"), |(_, name)| (*name).into()),
        free_bytes: facts.f_bavail.saturating_mul(block),
        in_memory: IN_MEMORY.contains(&magic),
    })
}

/// What direct transfers must be aligned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirectAlignment {
    /// To this many bytes, in file and memory.
    Bytes(usize),
    /// The file system says that there is no direct I/O on this file.
    Impossible,
    /// The kernel (before 6.1) or the file system does not say.
    Unknown,
}

/// Asks the kernel for the alignment of direct I/O on an open file.
pub(super) fn direct_alignment(file: impl AsFd) -> DirectAlignment {
    let Ok(facts) = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return DirectAlignment::Unknown;
    };
    if facts.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return DirectAlignment::Unknown;
    }
    if facts.stx_dio_offset_align == 0 {
        return DirectAlignment::Impossible;
    }
    let larger = facts.stx_dio_offset_align.max(facts.stx_dio_mem_align);
    usize::try_from(larger).map_or(DirectAlignment::Impossible, DirectAlignment::Bytes)
}

const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// The file systems that lose everything without power.
const IN_MEMORY: [u64; 2] = [TMPFS, RAMFS];

/// Magic numbers of `statfs(2)`.
const FILE_SYSTEMS: [(u64, &str); 14] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (TMPFS, "tmpfs"),
    (RAMFS, "ramfs"),
    (0x794c_7630, "overlay"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x4d44, "fat"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn device(cache: &str, fua: &str) -> Device {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("queue")).unwrap();
        fs::write(dir.path().join("queue/write_cache"), cache).unwrap();
        fs::write(dir.path().join("queue/fua"), fua).unwrap();
        describe(dir.path())
    }

    #[test]
    fn reads_what_the_system_says_of_a_cache() {
        assert!(!device("write back\n", "0\n").needs_no_flush());
        assert!(device("write back\n", "1\n").needs_no_flush());
        assert!(device("write through\n", "0\n").needs_no_flush());
        let silent = device("no idea\n", "\n");
        assert_eq!((silent.volatile_cache, silent.fua), (None, None));
        assert!(!silent.needs_no_flush());
    }

    #[test]
    fn knows_the_file_system_of_the_root() {
        let found = file_system_of(Path::new("/")).unwrap();
        assert!(!found.name.is_empty());
        assert!(file_system_of(Path::new("/no/such/directory")).unwrap_err().is_not_found());
    }
}
