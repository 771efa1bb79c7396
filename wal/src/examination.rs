//! All that can be said of a log at rest, over every damage and on.
//!
//! Opening stops at the first thing that is wrong: nothing may be built on it. Whoever verifies or
//! mends wants to know the rest as well. So here nothing ends the look but a directory that cannot be listed:
//!
//! - a segment whose header is gone gets it back from its first group, which names the incarnation, the
//!   first position and the chain; what it continues is the segment that ends with this chain;
//! - of two headers with one incarnation the one counts whose groups agree with it;
//! - where a file is missing, the next older one is taken, and what lies between is a [`Hole`];
//! - every group of every segment is read, and where none is sound there is a hole.
//!
//! Nothing is written. What is whole but not understood is no damage: then the answer is that error.

mod files;

use std::path::Path;

use crate::disk::Disk;
use crate::frame::GroupHeader;
use crate::mark;
use crate::recovery::Tail;
use crate::scan::scan;
use crate::segment::{GROUPS_START, Segment, SegmentHeader};
use crate::walk::{Step, Walk};
use crate::window::Window;
use crate::{Error, Lsn, Result};

use files::{Files, first_group, loose_groups};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Examination {
    /// The segments that make up the log, as far as they are there, oldest first.
    pub parts: Vec<Part>,
    /// The positions that are missing, ascending.
    pub holes: Vec<Hole>,
    /// Files that hold a part of the log, and of which it is not known which: their headers and first
    /// groups are gone. Each with the incarnation of its groups.
    pub unplaced: Vec<(u64, Segment)>,
    /// Files that nothing needs, and that keep the log from opening.
    pub away: Vec<Segment>,
    /// Everything that is wrong.
    pub damages: Vec<Error>,
    /// The end of the log.
    pub tail: Tail,
    /// The directory whose mark can be given back, and the log that it names.
    pub mark: Option<(std::path::PathBuf, u64)>,
    /// Why nobody but a person can say what belongs to the log, if that is so.
    pub unclear: Option<String>,
    /// Everything up to here was trimmed.
    pub trimmed: Lsn,
    /// Sound groups with records.
    pub groups: usize,
    /// How many of them are encrypted.
    pub encrypted: usize,
    /// Sealed segments whose footer agrees with their groups.
    pub footers: usize,
    /// The highest incarnation that anything names.
    pub incarnation: u64,
    /// The highest number of a file.
    pub id_max: u64,
    /// The position after the last one that a sound group holds, wherever it stands.
    pub seen: Lsn,
}

/// A segment of the log.
#[derive(Debug)]
pub(crate) struct Part {
    pub segment: Segment,
    pub header: SegmentHeader,
    /// The position after the last one that counts here; for the newest, after the last that is sound.
    pub end: Lsn,
    /// Where the next group would stand in the newest segment, in bytes; 0 in the others.
    pub end_offset: u64,
    /// The chain there.
    pub chain: u64,
    /// Whether the file's own header is gone or names a wrong one, or its length is not what it was.
    pub is_wrong: bool,
    /// Whether the one behind it names it.
    pub is_continued: bool,
}

/// Positions that are missing.
#[derive(Clone, Debug)]
pub(crate) struct Hole {
    /// The first one.
    pub first: Lsn,
    /// The position after the last one, as far as that is known: the same as `first` for a marker.
    pub end: Lsn,
    /// The chain before them.
    pub chain: u64,
    /// In which of the parts.
    pub part: usize,
    /// Whether the log does not open because of them.
    pub is_blocking: bool,
    /// Whether something sound says that they were durable.
    pub is_certain: bool,
}

/// Examines the log in `dir`; none if there is none.
///
/// # Errors
///
/// If the directory cannot be listed, a file not be opened, or something is whole but not understood.
pub(crate) fn examine(disk: &dyn Disk, dir: &Path) -> Result<Option<Examination>> {
    let mut found = Examination {
        parts: Vec::new(),
        holes: Vec::new(),
        unplaced: Vec::new(),
        away: Vec::new(),
        damages: Vec::new(),
        tail: Tail::Clean,
        mark: None,
        unclear: None,
        trimmed: Lsn(0),
        groups: 0,
        encrypted: 0,
        footers: 0,
        incarnation: 0,
        id_max: 0,
        seen: Lsn(1),
    };
    let marks = mark::examine(disk, dir)?;
    if marks.unclear.is_some() {
        // What would be taken for missing may stand in the other directory, and the other way round.
        (found.damages, found.unclear) = (marks.damages, marks.unclear);
        return Ok(Some(found));
    }
    examine_segments(disk, dir, &mut found)?;
    found.mark = marks.given_back;
    found.damages.extend(marks.damages);
    let is_empty = found.parts.is_empty() && found.damages.is_empty();
    Ok((!is_empty).then_some(found))
}

fn examine_segments(disk: &dyn Disk, dir: &Path, found: &mut Examination) -> Result<()> {
    let mut window = Window::new();
    let mut files = Files::read(disk, dir, found)?;
    let Some((_, newest, _)) = files.headed.last() else {
        found.without_headers(&files);
        return Ok(());
    };
    let newest = *newest;
    found.trimmed = newest.trimmed;
    if let Some((segment, other, _)) =
        files.headed.iter().find(|(_, other, _)| other.log_id != newest.log_id)
    {
        let (path, expected) = (segment.path.clone(), format!("log {:016x}", newest.log_id));
        found.unclear = Some("segments of two logs: move away what does not belong here".into());
        let other = format!("a segment of log {:016x}", other.log_id);
        found.damages.push(Error::Foreign { path, expected, found: other });
        return Ok(());
    }
    files.part_twins(found, &mut window);
    files.set_aside_old_headers(newest, found);
    files.give_back_headers(newest, found, &mut window);
    found.arrange(&files);
    found.walk(&mut window)
}

impl Examination {
    /// What can be said without a single header.
    fn without_headers(&mut self, files: &Files) {
        for (segment, error, _) in &files.unheaded {
            let is_group = first_group(segment)
                .first_chunk()
                .is_some_and(|bytes| GroupHeader::is_likely(bytes, GROUPS_START));
            if !is_group {
                continue;
            }
            self.damages.push(match error {
                Some(error) => error.duplicate(),
                None => Error::Corruption {
                    path: segment.path.clone(),
                    offset: 0,
                    expected: "the header of a segment".into(),
                    found: "zeros, before something like a group".into(),
                },
            });
            self.unplaced.push((0, segment.clone()));
        }
        if !self.damages.is_empty() {
            self.unclear = Some("no header of any segment is left to say which log it was".into());
        }
    }

    /// Puts the segments in order, from the newest back.
    fn arrange(&mut self, files: &Files) {
        let mut rest: Vec<_> = files.headed.iter().collect();
        let mut end = None;
        let mut is_continued = true;
        while let Some((segment, header, was_given_back)) = rest.pop() {
            let is_cut = segment.len != header.len;
            if is_cut {
                self.damages.push(Error::Corruption {
                    path: segment.path.clone(),
                    offset: segment.len.min(header.len),
                    expected: format!("a segment of {} bytes", header.len),
                    found: format!("a file of {} bytes", segment.len),
                });
            }
            self.parts.push(Part {
                segment: segment.clone(),
                header: *header,
                end: end.unwrap_or(Lsn(0)),
                end_offset: 0,
                chain: header.chain,
                is_wrong: is_cut || *was_given_back,
                is_continued,
            });
            end = Some(header.first);
            if header.first.0 <= self.trimmed.0 + 1 {
                break;
            }
            rest.retain(|one| one.1.first < header.first);
            is_continued = rest.iter().any(|one| one.1.incarnation == header.previous);
            if is_continued {
                rest.retain(|one| one.1.incarnation <= header.previous);
                continue;
            }
            self.damages.push(missing(segment, header, self.trimmed));
            if rest.is_empty() {
                let (first, chain) = (Lsn(self.trimmed.0 + 1), 0);
                let end = header.first;
                self.holes.push(Hole {
                    first,
                    end,
                    chain,
                    part: 0,
                    is_blocking: true,
                    is_certain: true,
                });
            }
        }
        self.parts.reverse();
    }

    /// Reads every group.
    fn walk(&mut self, window: &mut Window) -> Result<()> {
        let newest = self.parts.len() - 1;
        for at in 0..newest {
            self.walk_sealed(at, window)?;
        }
        let (segment, header) = (self.parts[newest].segment.clone(), self.parts[newest].header);
        let found = scan(&segment, &header, None, window);
        if let Some(error) = found.not_understood(&segment.path) {
            return Err(error);
        }
        self.groups += found.offsets.len();
        self.encrypted += found.encrypted_groups;
        let part = &mut self.parts[newest];
        (part.end, part.end_offset, part.chain) = (found.next, found.end_offset, found.chain);
        self.seen = self.seen.max(found.next);
        let newer = self.unplaced.iter().find(|(number, _)| *number > header.incarnation);
        let newer = newer.map(|(_, newer)| format!("{} goes on", newer.path.display()));
        match (found.claim, newer) {
            (Some((offset, claim)), _) => self.walk_claimed(offset, claim, window),
            (None, Some(newer)) => {
                self.damages.push(Error::Corruption {
                    path: segment.path.clone(),
                    offset: found.end_offset,
                    expected: format!("the group of position {}: {newer}", found.next),
                    found: found.refusal.map_or("the segment's end".into(), |why| why.to_string()),
                });
                self.holes.push(Hole {
                    first: found.next,
                    end: self.seen.max(found.next.next()),
                    chain: found.chain,
                    part: newest,
                    is_blocking: true,
                    is_certain: true,
                });
            }
            (None, None) if found.residue => {
                let (path, offset) = (segment.path.clone(), found.end_offset);
                self.tail = Tail::Suspect { path, offset, first: found.next };
            }
            (None, None) => {}
        }
        self.holes.sort_by_key(|hole| (hole.first, hole.end));
        Ok(())
    }

    /// Goes on in the newest segment behind the first damage, of which the group at `offset` says that
    /// all up to `claim` was durable.
    fn walk_claimed(&mut self, offset: u64, claim: Lsn, window: &mut Window) {
        let newest = self.parts.len() - 1;
        let Part { segment, header, end, end_offset, chain, .. } = &self.parts[newest];
        let (segment, header) = (segment.clone(), *header);
        let mut walk = Walk { offset: *end_offset, next: *end, chain: *chain };
        let behind = loose_groups(&segment, header.log_id, window).into_iter();
        let behind = behind.filter(|group| group.incarnation == header.incarnation);
        let ends = behind.filter(|group| group.offset >= walk.offset).map(|group| group.end());
        let end = ends.max().unwrap_or(walk.next).max(claim.next());
        let mut claimed = Vec::new();
        loop {
            let before = walk;
            match walk.step(&segment, &header, end, window) {
                None => break,
                Some(Step::Group(group)) => {
                    claimed.push(group.durable);
                    self.count(&group);
                }
                Some(Step::Gap(gap)) => {
                    self.damages.push(gap.error(&segment.path));
                    self.holes.push(Hole {
                        first: gap.first,
                        end: gap.end,
                        chain: before.chain,
                        part: newest,
                        is_blocking: true,
                        is_certain: false,
                    });
                }
            }
        }
        let claim = claimed.into_iter().max().unwrap_or(claim).max(claim);
        for hole in self.holes.iter_mut().filter(|hole| hole.part == newest) {
            hole.is_certain = hole.first <= claim;
        }
        if let Some(Error::Corruption { expected, .. }) = self.damages.last_mut() {
            *expected += &format!(
                "; the group at offset {offset} says that all up to position {claim} was durable"
            );
        }
        let part = &mut self.parts[newest];
        (part.end, part.end_offset, part.chain) = (walk.next, walk.offset, walk.chain);
        self.seen = self.seen.max(end);
    }

    fn count(&mut self, group: &GroupHeader) {
        self.groups += usize::from(group.count > 0);
        self.encrypted += usize::from(group.is_encrypted());
    }

    fn walk_sealed(&mut self, at: usize, window: &mut Window) -> Result<()> {
        let Part { segment, header, end, .. } = &self.parts[at];
        let (segment, header, end) = (segment.clone(), *header, *end);
        let is_followed = self.parts[at].is_continued;
        let mut walk = Walk::new(&header);
        let mut is_whole = true;
        let unreadable = window.unreadable;
        let next = self.parts[at + 1].header;
        let footer = segment.read_footer().filter(|footer| footer.is_of(&header, &next));
        let mut places = footer.iter().flat_map(|footer| &footer.places);
        let mut place = places.next();
        loop {
            let before = walk;
            match walk.step(&segment, &header, end, window) {
                None => break,
                Some(Step::Group(group)) => {
                    self.count(&group);
                    if place == Some(&(group.first, group.offset)) && group.count > 0 {
                        place = places.next();
                    }
                }
                Some(Step::Gap(gap)) => {
                    if let Some(error) = gap.refusal.not_understood(&segment.path, gap.offset) {
                        return Err(error);
                    }
                    let is_blocking = gap.end == end && !is_followed;
                    is_whole &= gap.end < end;
                    self.damages.push(gap.error(&segment.path));
                    let (first, end, chain) = (gap.first, gap.end, before.chain);
                    self.holes.push(Hole {
                        first,
                        end,
                        chain,
                        part: at,
                        is_blocking,
                        is_certain: true,
                    });
                }
            }
        }
        let is_found = place.is_none_or(|(first, _)| *first >= end);
        self.footers += usize::from(footer.is_some() && is_found);
        let part = &mut self.parts[at];
        part.chain = walk.chain;
        if window.unreadable > unreadable {
            // It is read by its map, and a map of what cannot be read is of no use.
            part.is_wrong = true;
            self.damages.push(Error::Corruption {
                path: segment.path.clone(),
                offset: 0,
                expected: "blocks that can be read".into(),
                found: format!("{} that the disk refuses", window.unreadable - unreadable),
            });
        }
        self.seen = self.seen.max(end);
        // It ends where the next one begins: that one only names another.
        if !is_followed && is_whole {
            let next = &mut self.parts[at + 1];
            next.header.previous = header.incarnation;
            next.is_wrong = true;
        }
        Ok(())
    }
}

/// A segment is not there that another one continues.
fn missing(segment: &Segment, header: &SegmentHeader, trimmed: Lsn) -> Error {
    Error::Corruption {
        path: segment.path.clone(),
        offset: 0,
        expected: format!(
            "the segment of incarnation {} with the positions up to {}, behind the trimmed position {}",
            header.previous,
            header.first.0 - 1,
            trimmed
        ),
        found: "no such file in its directory".into(),
    }
}
