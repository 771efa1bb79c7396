//! A segment as annotated text, as far as it can be read.

use std::fmt::Write;
use std::path::Path;

use crate::Result;
use crate::disk::{Disk, OpenMode};
use crate::frame::{BLOCK_LEN, FLAG_CLOSED, GROUP_HEADER_LEN, GroupHeader};
use crate::recovery::scan;
use crate::segment::{GROUPS_START, Segment, SegmentId};
use crate::window::Window;

/// Describes the segment file `path`: its header, each group, and what stands where the groups end.
/// Reads only; a damaged file is described as far as possible.
///
/// # Errors
///
/// If the file cannot be opened or read at all.
pub fn inspect_segment(disk: &dyn Disk, path: &Path) -> Result<String> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let id = SegmentId::from_file_name(name).unwrap_or(SegmentId(0));
    let segment = Segment { id, path: path.to_path_buf(), file, len };
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("segment {} ({len} bytes)", path.display()));
    let header = match segment.read_header() {
        Ok(Some(header)) => header,
        Ok(None) => {
            line("0: zeros where the segment header belongs: never put to use".into());
            return Ok(text);
        }
        Err(error) => {
            line(format!("0: {error}"));
            line(loose_groups(&segment));
            return Ok(text);
        }
    };
    line(format!(
        "0: {} of log {:016x}, incarnation {} after {}, first position {}, trimmed up to {}, \
         chain {:016x}",
        if header.in_use { "in use" } else { "spare" },
        header.log_id,
        header.incarnation,
        header.previous,
        header.first,
        header.trimmed,
        header.chain
    ));
    if !header.in_use {
        return Ok(text);
    }
    let mut window = Window::new();
    let found = scan(&segment, &header, None, &mut window);
    let mut offset = GROUPS_START;
    while offset < found.end_offset {
        let bytes = window.bytes(&segment, offset, GROUP_HEADER_LEN);
        let Ok(group) = GroupHeader::decode(bytes, header.log_id, header.incarnation, offset)
        else {
            break;
        };
        line(describe(&group));
        offset += group.len_on_disk();
    }
    match (&found.refusal, found.claim) {
        (_, Some((at, claim))) => line(format!(
            "{}: DAMAGED: position {} belongs here; the group at {at} says that all up to {claim} \
             was durable",
            found.end_offset, found.next
        )),
        (Some(refusal), None) => line(format!("{}: the groups end: {refusal}", found.end_offset)),
        (None, None) => line(format!("{}: the segment ends", found.end_offset)),
    }
    Ok(text)
}

fn describe(group: &GroupHeader) -> String {
    let mut text = format!("{}: ", group.offset);
    // Writing to a string does not fail.
    let _ = match group.count {
        0 if group.flags & FLAG_CLOSED != 0 => write!(text, "marker, closed in order"),
        0 => write!(text, "marker"),
        count => {
            write!(text, "positions {} to {}, {count} records", group.first, group.end().0 - 1)
        }
    };
    let _ = write!(
        text,
        ", {} bytes, durable up to {}, chain {:016x}, crc {:08x}",
        group.body_len, group.durable, group.chain, group.body_crc
    );
    text
}

/// What can be said of a segment whose own header is lost: every group header that is whole.
fn loose_groups(segment: &Segment) -> String {
    let mut window = Window::new();
    let mut count = 0;
    let mut offset = GROUPS_START;
    while offset + BLOCK_LEN <= segment.len {
        if window.bytes(segment, offset, 4) == b"SLGR" {
            count += 1;
        }
        offset += BLOCK_LEN;
    }
    format!("{GROUPS_START}: {count} blocks that begin like a group")
}
