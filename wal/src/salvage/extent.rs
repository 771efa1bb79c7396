//! What remains of a damaged log: from where to where, and in which segments.

use crate::Lsn;
use crate::examination::{Examination, Hole, Part};
use crate::segment::SegmentHeader;

/// See the module's documentation.
pub(super) struct Extent<'a> {
    found: &'a Examination,
    /// The missing positions that the log ends at; none if it is not cut.
    pub hole: Option<&'a Hole>,
    /// The position after the last one that remains.
    pub end: Lsn,
    /// Everything up to here is let go in front, or had been trimmed.
    pub trimmed: Lsn,
    /// The segment behind which the log goes on; none if it begins anew.
    pub base: Option<usize>,
}

/// Whether positions are missing, and not a marker only.
pub(super) fn is_real(hole: &Hole) -> bool {
    hole.first < hole.end
}

impl<'a> Extent<'a> {
    /// Of a log of which the positions from `needed` on are needed.
    pub(super) fn new(found: &'a Examination, needed: Lsn) -> Self {
        let newest = &found.parts[found.parts.len() - 1];
        let real = || found.holes.iter().filter(|hole| is_real(hole));
        let hole = real().find(|hole| hole.end > needed);
        // A reader walks through a segment from its beginning, so damage in front of what is needed there
        // is in the way as well.
        let blocking = real().filter(|hole| {
            let is_before =
                found.parts[hole.part].end > needed || hole.part + 1 == found.parts.len();
            hole.end <= needed && (hole.is_blocking || is_before)
        });
        let trimmed = blocking.map(|hole| Lsn(hole.end.0 - 1)).max().unwrap_or(found.trimmed);
        // A log that ends before what the state holds begins anew behind that.
        let is_short = newest.end < needed;
        let end = hole.map_or(newest.end.max(needed), |hole| hole.first.max(needed));
        let mut extent = Self { found, hole, end, trimmed, base: None };
        let is_straddled = hole.is_some_and(|hole| hole.first < needed);
        if !is_straddled && !is_short {
            extent.base = (0..found.parts.len()).rfind(|part| extent.reaches(*part));
        }
        if extent.base.is_none() && (extent.is_new() || is_short) {
            extent.trimmed = Lsn(end.0 - 1);
        }
        extent
    }

    /// Whether the log goes on in a fresh segment.
    pub(super) fn is_new(&self) -> bool {
        self.hole.is_some() || self.trimmed > self.found.trimmed
    }

    fn reaches(&self, part: usize) -> bool {
        let part = &self.found.parts[part];
        part.header.first < self.end && part.end.0 > self.trimmed.0 + 1
    }

    /// Whether a segment remains a part of the log.
    pub(super) fn keeps(&self, part: usize) -> bool {
        self.base.is_some_and(|base| part <= base) && self.reaches(part)
    }

    /// Whether what remains of this segment begins later than it does.
    pub(super) fn begins_later(&self, part: &Part) -> bool {
        self.trimmed > self.found.trimmed && part.header.first <= self.trimmed
    }

    /// What is missing within a segment where it is kept.
    pub(super) fn holes_in(&self, part: usize) -> impl Iterator<Item = &'a Hole> {
        let (trimmed, end) = (self.trimmed, self.end);
        let holes = self.found.holes.iter().filter(move |hole| hole.part == part);
        holes.filter(move |hole| hole.first > trimmed && hole.first < end)
    }

    /// The header of the segment that the log goes on in.
    pub(super) fn header(&self) -> SegmentHeader {
        let newest = &self.found.parts[self.found.parts.len() - 1].header;
        let base = self.base.map(|base| (base, &self.found.parts[base]));
        let chain = match (base, self.hole) {
            (None, _) => 0,
            (Some((at, _)), Some(hole)) if hole.part == at && hole.first == self.end => hole.chain,
            (Some((_, part)), _) => part.chain,
        };
        SegmentHeader {
            in_use: true,
            log_id: newest.log_id,
            incarnation: self.found.incarnation + 1,
            first: self.end,
            chain,
            len: newest.len,
            trimmed: self.trimmed,
            previous: base.map_or(0, |(_, part)| part.header.incarnation),
        }
    }
}
