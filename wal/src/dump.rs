//! A segment as annotated text, as far as it can be read.

use std::fmt::Write;
use std::path::Path;

use crate::Result;
use crate::disk::{Disk, OpenMode, VERDICT_FILE, inspect_verdict};
use crate::envelope::Envelope;
use crate::footer::Footer;
use crate::frame::{
    BLOCK_LEN, FLAG_CLOSED, GROUP_HEADER_LEN, GroupHeader, GroupRefusal, u32_at, u64_at,
};
use crate::scan::{read_loose_group, scan};
use crate::segment::{GROUPS_START, Segment, SegmentHeader, SegmentId};
use crate::window::Window;

/// Describes the segment file `path`: its header, each group, and what stands where the groups end.
/// No key is needed: of encrypted groups it says which one they have. Reads only; a damaged file is described as far as possible. So are the mark of a spare
/// directory and what a probe found.
///
/// # Errors
///
/// If the file cannot be opened or read at all.
pub fn inspect_segment(disk: &dyn Disk, path: &Path) -> Result<String> {
    if path.ends_with(crate::mark::MARK_FILE) {
        return crate::mark::inspect(disk, path);
    }
    if path.ends_with(VERDICT_FILE) {
        return inspect_verdict(disk, path);
    }
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
            headless_groups(&segment).into_iter().for_each(line);
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
        let envelope = Envelope::of(&segment, &group, &mut window);
        line(describe(&group, envelope));
        offset += group.len_on_disk();
    }
    match (&found.refusal, found.claim) {
        (_, Some((at, claim))) => line(format!(
            "{}: DAMAGED: position {} belongs here; the group at {at} says that all up to {claim} \
             was durable",
            found.end_offset, found.next
        )),
        (Some(refusal), None) => line(format!("{}: the groups end: {refusal}", found.end_offset)),
        (None, None) => line(format!("{}: the room for groups ends", found.end_offset)),
    }
    // What is sound behind that, each by itself.
    let mut offset = found.end_offset + BLOCK_LEN;
    while found.refusal.is_some() && offset + BLOCK_LEN <= segment.groups_end() {
        match read_loose_group(&segment, &header, offset, &mut window) {
            Ok(group) => {
                let envelope = Envelope::of(&segment, &group, &mut window);
                line(describe(&group, envelope));
                offset += group.len_on_disk();
            }
            Err(GroupRefusal::NotAGroup | GroupRefusal::Stale(_)) => offset += BLOCK_LEN,
            Err(refusal) => {
                line(format!("{offset}: {refusal}"));
                offset += BLOCK_LEN;
            }
        }
    }
    if let Some(footer) = segment.read_footer() {
        line(describe_footer(&footer, &segment, &header));
    }
    Ok(text)
}

fn describe_footer(footer: &Footer, segment: &Segment, header: &SegmentHeader) -> String {
    let use_of = (footer.log_id, footer.incarnation, footer.first);
    let is_own = use_of == (header.log_id, header.incarnation, header.first);
    format!(
        "{}: {}footer of incarnation {}, positions {} to {}, places of {} groups, chain {:016x} behind",
        segment.groups_end(),
        if is_own { "" } else { "old " },
        footer.incarnation,
        footer.first,
        footer.end.0 - 1,
        footer.places.len(),
        footer.chain
    )
}

fn describe(group: &GroupHeader, envelope: Option<Envelope>) -> String {
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
        ", {} bytes{}, durable up to {}, chain {:016x}, crc {:08x}",
        group.body_len,
        if group.is_compressed() { " compressed" } else { "" },
        group.durable,
        group.chain,
        group.body_crc
    );
    // How many records there are is known from the header only: counting them takes the key.
    let _ = match envelope {
        Some(envelope) => {
            write!(text, ", encrypted with key {}, records not counted", envelope.key)
        }
        None => Ok(()),
    };
    text
}

/// What can be said of a segment whose own header is lost: what its groups say of themselves. Which log
/// they are of, which their checksums cover, is not known, so nothing of it is certain.
fn headless_groups(segment: &Segment) -> Vec<String> {
    let mut window = Window::new();
    let mut lines = Vec::new();
    let mut offset = GROUPS_START;
    while offset + BLOCK_LEN <= segment.len {
        let bytes = window.bytes(segment, offset, GROUP_HEADER_LEN);
        if let Some(bytes) = bytes.first_chunk::<GROUP_HEADER_LEN>()
            && bytes.starts_with(b"SLGR")
        {
            lines.push(format!(
                "{offset}: like a group of incarnation {}, from position {} on, {} records, {} bytes; not \
                 checked without the segment's header",
                u64_at(bytes, 8),
                u64_at(bytes, 24),
                u32_at(bytes, 32),
                u32_at(bytes, 36)
            ));
        }
        offset += BLOCK_LEN;
    }
    if lines.is_empty() {
        lines.push(format!("{GROUPS_START}: no block begins like a group"));
    }
    lines
}
