//! Files that are written anew beside the old ones and take their names; and copies of them.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, OpenMode};
use crate::frame::BLOCK_LEN;
use crate::preparer;
use crate::repair::{again, replacement_of, write_aligned};
use crate::segment::{GROUPS_START, Segment, SegmentHeader};
use crate::walk::{Step, Walk};
use crate::window::Window;
use crate::{Lsn, Result};

/// What is copied at once, in bytes.
const SLICE_LEN: u64 = 1 << 20;

/// A segment that gets another header, its full length, or no damaged marker any more.
#[derive(Debug)]
pub(super) struct Rewrite {
    pub segment: Segment,
    /// The header that belongs there.
    pub header: SegmentHeader,
    /// The one that its groups were written under.
    pub old: SegmentHeader,
    /// The position after the last one that counts.
    pub end: Lsn,
    /// Whether its groups are laid out anew, one behind the other; else every block stays in its place.
    pub is_relaid: bool,
}

impl Rewrite {
    /// Writes it, durably, and returns the chain behind its last group if it is laid out anew.
    pub(super) fn perform(&self, disk: &dyn Disk, dir: &Path) -> Result<u64> {
        let (old, header) = (&self.segment, &self.header);
        let path = fresh(disk, &old.path)?;
        let file = disk.open(&path, OpenMode::CreateLog)?;
        let new = preparer::fill(file, &path, old.id, header.len, header.log_id)?;
        let mut window = Window::new();
        let mut chain = header.chain;
        if self.is_relaid {
            let mut offset = GROUPS_START;
            let mut walk = Walk::new(&self.old);
            while let Some(step) = walk.step(old, &self.old, self.end, &mut window) {
                let Step::Group(group) = step else { continue };
                if group.first < header.first {
                    continue;
                }
                let (group, bytes) = again(old, group, header.log_id, offset, chain, &mut window);
                write_aligned(&*new.file, &bytes, offset)?;
                chain = group.chain_after();
                offset += group.len_on_disk();
            }
        } else {
            let mut offset = GROUPS_START;
            // Whole blocks: a file may have been cut anywhere.
            while offset + BLOCK_LEN <= old.len.min(new.len) {
                let left = (old.len.min(new.len) - offset) / BLOCK_LEN * BLOCK_LEN;
                let len = usize::try_from(left.min(SLICE_LEN)).expect("a slice is small");
                let bytes = window.bytes(old, offset, len).to_vec();
                write_aligned(&*new.file, &bytes, offset)?;
                offset += left.min(SLICE_LEN);
            }
        }
        new.file.write_at(&header.encode(), 0)?;
        new.file.sync()?;
        disk.rename(&path, &old.path)?;
        disk.sync_dir(dir)?;
        Ok(chain)
    }
}

/// The name under which a file is written anew; what an earlier attempt left there is removed.
pub(super) fn fresh(disk: &dyn Disk, path: &Path) -> Result<PathBuf> {
    let path = replacement_of(path);
    match disk.remove(&path) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(path),
    }
}

/// Copies a file, durably. Blocks that cannot be read are ones in the copy.
pub(super) fn copy(disk: &dyn Disk, dir: &Path, from: &Path, to: &Path) -> Result<()> {
    let path = fresh(disk, from)?;
    let source = disk.open(from, OpenMode::Read)?;
    let len = source.len()?;
    let segment = Segment { id: crate::SegmentId(0), path: from.to_path_buf(), file: source, len };
    let target = disk.open(&path, OpenMode::Create)?;
    let mut window = Window::new();
    let mut offset = 0;
    while offset < len {
        let slice = SLICE_LEN.min(len - offset);
        let wanted = usize::try_from(slice).expect("a slice is small");
        target.write_at(window.bytes(&segment, offset, wanted), offset)?;
        offset += slice;
    }
    target.sync()?;
    disk.rename(&path, to)?;
    disk.sync_dir(dir)
}
