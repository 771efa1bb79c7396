//! Making a damaged log at rest open again, where no other copy is left to mend it from.
//!
//! What can be given back without loss is given back: a segment's header, its length, a marker. Where
//! positions are missing that somebody needs the log is *cut*: it goes on behind the last position
//! before them. That is what fencing a torn tail does, and it is done in the same way, by the header of a
//! fresh segment that names the first position that is void; so there is one step after which the log is
//! the new one, the rename of that segment, and before it everything is as it was.
//!
//! ```text
//! 1  copies of every file that will hold less than before, under names of their own    synced
//!    and a mark of a spare directory that the other one gives back               durable
//! 2  files with wrong headers or lengths, written anew and renamed over the old ones   synced, each whole
//! 3  the segment that cuts                                                             synced, then named
//! ```
//!
//! A crash leaves a log that is damaged as before, or in parts less so; the same again finishes it. Nothing is
//! ever removed but what an earlier attempt left half written. Positions that the state above the log
//! already holds are not needed: damage among them costs nothing, and where the log does not open
//! because of it they are let go in front, as by a trim.

mod extent;
mod rewrite;

use std::path::{Path, PathBuf};

use crate::disk::{Disk, OpenMode};
use crate::examination::{Examination, examine};
use crate::mark::{self, MARK_FILE};
use crate::preparer;
use crate::recovery::Tail;
use crate::segment::{Segment, SegmentHeader, SegmentId};
use crate::wal::LOCK_FILE;
use crate::{Error, Lsn, Result};

use extent::{Extent, is_real};
use rewrite::Rewrite;

/// How the name of a file ends that holds what stood in a segment before a salvage; a number follows.
const ASIDE: &str = "aside";

/// Consecutive positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The first one.
    pub first: Lsn,
    /// The last one.
    pub last: Lsn,
}

/// What is wrong with a log at rest, and what it takes to make it open again.
#[derive(Debug)]
#[non_exhaustive]
pub struct Salvage {
    /// Everything that is wrong.
    pub damages: Vec<Error>,
    /// The end of the log.
    pub tail: Tail,
    /// Positions that are needed, that something sound says were durable, and that cannot be read.
    pub lost: Vec<Positions>,
    /// Positions that were perhaps never acknowledged, and that cannot be read.
    pub suspect: Vec<Positions>,
    /// What the log ends without: the lost and the suspect positions, and all behind them.
    pub cut: Option<Positions>,
    /// What is let go in front: nobody needs it.
    pub let_go: Option<Positions>,
    /// What cannot be read, is not needed and stays as it is: a copy of it can mend it yet.
    pub unreadable: Vec<Positions>,
    /// What remains in front of a segment that is gone. If the log was ever truncated there, as those of
    /// replicas are, this may be what was truncated: only the segment that is gone knew.
    pub doubtful: Option<Positions>,
    /// What the log will hold, if anything.
    pub remains: Option<Positions>,
    /// Files that will hold less than before, or something else, or nothing, and the names under which
    /// what they held is kept.
    pub aside: Vec<(PathBuf, PathBuf)>,
    /// Files that get their header, their length or a marker back; and a mark of a spare directory.
    pub given_back: Vec<PathBuf>,
    /// Why only a person can go on, if that is so.
    pub unclear: Option<String>,
    /// Whether it has been done.
    pub is_applied: bool,
    steps: Steps,
}

/// What is to be done, in order.
#[derive(Debug, Default)]
struct Steps {
    /// Files that get another name, and nothing in their place: the old and the new one.
    away: Vec<(PathBuf, PathBuf)>,
    rewrites: Vec<Rewrite>,
    /// The directory whose mark is written anew, and the log that it names.
    mark: Option<(PathBuf, u64)>,
    /// The segment that cuts, and whether the chain is that of the last rewrite.
    cut: Option<(SegmentId, SegmentHeader, bool)>,
}

impl Salvage {
    /// Examines the log in `dir` and says what it takes. Changes nothing. The state above the log needs the
    /// positions from `needed` on.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read, or holds something that another program wrote.
    pub fn plan(disk: &dyn Disk, dir: &Path, needed: Lsn) -> Result<Salvage> {
        let mut salvage = Salvage::none();
        let Some(mut found) = examine(disk, dir)? else { return Ok(salvage) };
        salvage.damages = std::mem::take(&mut found.damages);
        salvage.tail = found.tail.clone();
        salvage.unclear = found.unclear.take();
        if salvage.unclear.is_none() {
            if !found.parts.is_empty() {
                salvage.decide(&found, needed.max(found.trimmed.next()));
            }
            if !salvage.is_needed() {
                salvage.aside.clear();
            }
            salvage.give_back_mark(found.mark.take());
            salvage.name_copies(disk, dir)?;
        }
        Ok(salvage)
    }

    /// Plans and does it: afterwards the log opens. `lose_from` is the consent to lose positions: the
    /// first one that may be given up, as an earlier plan's [`Salvage::cut`] named it. Without it, where
    /// more would be lost by now, and where something is unclear, nothing is changed and
    /// [`Salvage::is_applied`] is false.
    ///
    /// # Errors
    ///
    /// As for [`plan`](Salvage::plan); [`Error::Locked`] if somebody has it open; what the disk
    /// refuses, a full one above all: then the same again goes on.
    pub fn apply(
        disk: &dyn Disk,
        dir: &Path,
        needed: Lsn,
        lose_from: Option<Lsn>,
    ) -> Result<Salvage> {
        let _lock = disk.lock(&dir.join(LOCK_FILE))?;
        // What an attempt that was killed has renamed may be so in the cache only.
        disk.sync_dir(dir)?;
        let mut salvage = Salvage::plan(disk, dir, needed)?;
        let consents = |cut: Positions| lose_from.is_some_and(|from| cut.first >= from);
        let is_refused = salvage.unclear.is_some() || !salvage.cut.is_none_or(consents);
        if is_refused || !salvage.is_needed() {
            return Ok(salvage);
        }
        for (from, to) in &salvage.aside {
            rewrite::copy(disk, dir, from, to)?;
        }
        if let Some((dir, log_id)) = &salvage.steps.mark {
            mark::write(disk, dir, *log_id)?;
        }
        for (from, to) in &salvage.steps.away {
            disk.rename(from, to)?;
            disk.sync_dir(dir)?;
        }
        let mut chain = 0;
        for rewrite in &salvage.steps.rewrites {
            chain = rewrite.perform(disk, dir)?;
        }
        if let Some((id, header, is_behind_rewrite)) = salvage.steps.cut {
            let header = match is_behind_rewrite {
                true => SegmentHeader { chain, ..header },
                false => header,
            };
            begin_segment(disk, dir, id, &header)?;
        }
        salvage.is_applied = true;
        Ok(salvage)
    }

    /// Whether there is anything to do.
    pub fn is_needed(&self) -> bool {
        self.steps.mark.is_some() || self.changes_segments()
    }

    /// Whether what is to be done changes segments, of which somebody else may have a copy; else it is the mark of a
    /// spare directory at the most.
    pub fn changes_segments(&self) -> bool {
        !self.steps.away.is_empty() || !self.steps.rewrites.is_empty() || self.steps.cut.is_some()
    }

    fn give_back_mark(&mut self, mark: Option<(PathBuf, u64)>) {
        if let Some((dir, _)) = &mark {
            let path = dir.join(MARK_FILE);
            self.aside.push((path.clone(), PathBuf::new()));
            self.given_back.push(path);
        }
        self.steps.mark = mark;
    }

    fn none() -> Self {
        Self {
            damages: Vec::new(),
            tail: Tail::Clean,
            lost: Vec::new(),
            suspect: Vec::new(),
            cut: None,
            let_go: None,
            unreadable: Vec::new(),
            doubtful: None,
            remains: None,
            aside: Vec::new(),
            given_back: Vec::new(),
            unclear: None,
            is_applied: false,
            steps: Steps::default(),
        }
    }

    /// Where the log is cut, in front and at its end, and what that takes.
    fn decide(&mut self, found: &Examination, needed: Lsn) {
        let extent = Extent::new(found, needed);
        for (at, part) in found.parts.iter().enumerate() {
            match extent.keeps(at) {
                true => self.keep(found, &extent, at),
                false if extent.is_new() => self.put_aside(&part.segment),
                false => {}
            }
        }
        let away = found.away.iter().map(|segment| (segment.path.clone(), PathBuf::new()));
        self.steps.away.extend(away);
        found.unplaced.iter().for_each(|(_, segment)| self.put_aside(segment));
        if extent.is_new() {
            let base = extent.base.map(|base| found.parts[base].segment.id);
            let last = self.steps.rewrites.last().filter(|rewrite| rewrite.is_relaid);
            let is_behind = last.is_some_and(|rewrite| Some(rewrite.segment.id) == base);
            self.steps.cut = Some((SegmentId(found.id_max + 1), extent.header(), is_behind));
        }
        self.say(found, &extent, needed);
    }

    /// A segment that remains: as it is, or written anew.
    fn keep(&mut self, found: &Examination, extent: &Extent<'_>, at: usize) {
        let part = &found.parts[at];
        let is_newest = at + 1 == found.parts.len();
        let begins_later = extent.begins_later(part);
        let has_marker = extent.holes_in(at).any(|hole| !is_real(hole));
        let is_relaid = begins_later || (has_marker && !extent.holes_in(at).any(is_real));
        // What was read of the newest one may be in the cache only, and is nowhere written again when
        // the log goes on behind it.
        if part.is_wrong || is_relaid || (is_newest && extent.is_new()) {
            let header = match begins_later {
                true => SegmentHeader { first: extent.trimmed.next(), previous: 0, ..part.header },
                false => part.header,
            };
            self.steps.rewrites.push(Rewrite {
                segment: part.segment.clone(),
                header,
                old: part.header,
                end: extent.end.min(part.end),
                is_relaid,
            });
            self.put_aside(&part.segment);
            if part.is_wrong || has_marker {
                self.given_back.push(part.segment.path.clone());
            }
        } else if Some(at) == extent.base && extent.is_new() && extent.end < part.end {
            // What stands behind the cut is void, and goes when the segment is put to use again.
            self.put_aside(&part.segment);
        }
    }

    fn put_aside(&mut self, segment: &Segment) {
        self.aside.push((segment.path.clone(), PathBuf::new()));
    }

    /// Fills in what the plan comes to.
    fn say(&mut self, found: &Examination, extent: &Extent<'_>, needed: Lsn) {
        let range =
            |first: Lsn, end: Lsn| (first < end).then(|| Positions { first, last: Lsn(end.0 - 1) });
        let (end, trimmed) = (extent.end, extent.trimmed);
        for hole in found.holes.iter().filter(|hole| is_real(hole)) {
            let positions = range(hole.first.max(needed), hole.end);
            match hole.is_certain {
                true => self.lost.extend(positions),
                false => self.suspect.extend(positions),
            }
            // A reader does not get past it: all behind it in this segment is out of reach.
            let first = hole.first.max(trimmed.next());
            let behind = found.parts[hole.part].end.max(hole.end);
            if hole.end <= needed && hole.end > trimmed.next() {
                self.unreadable.extend(range(first, behind.min(end)));
            }
        }
        if let Some(hole) = extent.hole {
            // Even where nothing is known behind it, something was there.
            self.cut = range(end, found.seen.max(end.next()));
            if let Some(base) = extent.base.filter(|base| {
                (hole.is_blocking && base + 1 < found.parts.len()) || !found.unplaced.is_empty()
            }) {
                self.doubtful = range(found.parts[base].header.first.max(trimmed.next()), end);
            }
        }
        if trimmed > found.trimmed {
            self.let_go = range(found.trimmed.next(), trimmed.next());
        }
        self.remains = range(found.parts[0].header.first.max(trimmed.next()), end);
    }

    /// Gives each copy a name that nothing has.
    fn name_copies(&mut self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let names = disk.list(dir)?;
        for (from, to) in self.aside.iter_mut().chain(&mut self.steps.away) {
            let free = (1_u64..)
                .map(|number| from.with_extension(format!("{ASIDE}-{number}")))
                .find(|path| names.iter().all(|name| path.file_name() != Some(name.as_ref())));
            *to = free.unwrap_or_default();
        }
        Ok(())
    }
}

/// Makes the segment `id` with this header: the log goes on in it as soon as it has its name.
fn begin_segment(disk: &dyn Disk, dir: &Path, id: SegmentId, header: &SegmentHeader) -> Result<()> {
    let path = dir.join(id.file_name());
    let replacement = rewrite::fresh(disk, &path)?;
    let file = disk.open(&replacement, OpenMode::CreateLog)?;
    let segment = preparer::fill(file, &replacement, id, header.len, header.log_id)?;
    segment.file.write_at(&header.encode(), 0)?;
    segment.file.sync()?;
    disk.rename(&replacement, &path)?;
    disk.sync_dir(dir)
}
