//! Verification of an open log, a little at a time.
//!
//! Nothing here has a clock or a thread: whoever drives the log calls [`Wal::scrub`] with as many bytes
//! as may be read now, as often as it likes. That bounds the rate. The sealed segments are read, oldest
//! first, then the active one as far as it is durable, then it begins anew. What is damaged is told
//! when it is met, and kept in [`Wal::damages`] until it is [repaired](Wal::repair) or trimmed.

use std::path::PathBuf;
use std::sync::PoisonError;

use crate::core::Core;
use crate::segment::{Segment, SegmentHeader};
use crate::wal::{Shared, Wal};
use crate::walk::{Gap, Step, Walk};
use crate::window::Window;
use crate::{Error, Lsn, Result};

/// How much is read at once, in bytes: at least, and at the most.
const SLICE_LEN: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 20;

/// Damages kept at the most: more than that, and the disk is lost anyway.
const DAMAGES_MAX: usize = 1024;

/// A damaged place of an open log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The segment's file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// The first position that cannot be read.
    pub first: Lsn,
    /// The position after the last one that cannot; the same as `first` if no record is hit.
    pub end: Lsn,
    /// What stands there.
    pub found: String,
}

/// What one step of a verification did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scrub {
    /// Bytes of groups that were checked.
    pub bytes: u64,
    /// Everything before this position has been checked in this round.
    pub position: Lsn,
    /// Whether the end of the log was reached: the next step begins anew.
    pub finished: bool,
    /// What was found damaged, for the first time.
    pub damages: Vec<Damage>,
}

/// Where a verification is.
pub(crate) struct Scrubber {
    /// In the segment of this incarnation.
    at: Option<(u64, Walk)>,
    /// Found and not yet repaired, in the order of positions.
    damages: Vec<Damage>,
}

impl Scrubber {
    pub(crate) fn new() -> Self {
        Self { at: None, damages: Vec::new() }
    }

    /// Whether this damage was not known before.
    fn take(&mut self, damage: &Damage) -> bool {
        let known = self.damages.iter().any(|other| {
            (other.first, other.offset, &other.path) == (damage.first, damage.offset, &damage.path)
        });
        if known || self.damages.len() >= DAMAGES_MAX {
            return false;
        }
        let place = self.damages.partition_point(|other| other.first <= damage.first);
        self.damages.insert(place, damage.clone());
        true
    }

    /// What lies before `end` and not before `first` has been repaired.
    pub(crate) fn forget(&mut self, first: Lsn, end: Lsn) {
        self.damages.retain(|damage| damage.first < first || damage.end > end);
        // Offsets in a file that was replaced may be others.
        self.at = None;
    }
}

/// A segment, and up to where everything in it was durable.
pub(crate) struct Stretch {
    pub segment: Segment,
    pub header: SegmentHeader,
    pub end: Lsn,
    /// Keeps the file from being used for something else.
    _hold: Option<std::sync::Arc<crate::core::InUse>>,
}

impl Core {
    /// The segment that holds `lsn`, or the oldest one after it.
    pub(crate) fn stretch(&self, lsn: Lsn) -> Option<Stretch> {
        let ends = |in_use: &crate::core::InUse| in_use.end.expect("a sealed segment has an end");
        if let Some(in_use) = self.sealed.iter().find(|in_use| ends(in_use) > lsn) {
            let (segment, header) = (in_use.segment.clone(), in_use.header);
            return Some(Stretch {
                segment,
                header,
                end: ends(in_use).min(self.durable().next()),
                _hold: Some(in_use.clone()),
            });
        }
        let end = self.durable().next();
        let (segment, header) = (self.active.segment.clone(), self.active.header);
        (end > lsn && end > header.first).then_some(Stretch { segment, header, end, _hold: None })
    }

    /// Whether the segment of this incarnation is still a part of the log.
    fn holds(&self, incarnation: u64) -> bool {
        self.active.header.incarnation == incarnation
            || self.sealed.iter().any(|in_use| in_use.header.incarnation == incarnation)
    }
}

impl Wal {
    /// Checks about so many `bytes` of the log's groups, from where the last step stopped: at least one
    /// group. Reads go past this log's own memory.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`]. Damage is no error but a finding.
    pub fn scrub(&self, bytes: u64) -> Result<Scrub> {
        self.shared.scrub(bytes)
    }

    /// The position after the last one of the segment that holds `lsn`, as far as it is durable; none if
    /// no segment does.
    pub fn segment_end(&self, lsn: Lsn) -> Option<Lsn> {
        self.shared.lock().core.stretch(lsn).map(|stretch| stretch.end)
    }

    /// What verifications of this open log have found damaged and nobody has repaired, ascending.
    pub fn damages(&self) -> Vec<Damage> {
        let first = self.first();
        let mut scrubber = self.shared.scrubber();
        scrubber.damages.retain(|damage| damage.end > first || damage.first >= first);
        scrubber.damages.clone()
    }
}

impl Shared {
    pub(crate) fn scrubber(&self) -> crate::sync::MutexGuard<'_, Scrubber> {
        self.scrubber.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scrub(&self, bytes: u64) -> Result<Scrub> {
        let mut scrubber = self.scrubber();
        let mut done = Scrub::default();
        // Anew each time: what was read ahead before may have been written since.
        let slice = bytes.clamp(*SLICE_LEN.start(), *SLICE_LEN.end());
        let mut window = Window::of_len(usize::try_from(slice).expect("a slice is small"));
        while done.bytes < bytes.max(1) {
            let from = scrubber.at.map_or(Lsn(0), |(_, walk)| walk.next);
            let stretch = {
                let state = self.lock();
                if let Some(Error::Closed) = state.core.failure() {
                    return Err(Error::Closed);
                }
                state.core.stretch(from)
            };
            let Some(stretch) = stretch else {
                scrubber.at = None;
                done.finished = true;
                break;
            };
            let incarnation = stretch.header.incarnation;
            let mut walk = match scrubber.at {
                Some((at, walk)) if at == incarnation => walk,
                _ => Walk::new(&stretch.header),
            };
            let Stretch { segment, header, end, .. } = &stretch;
            while done.bytes < bytes.max(1) {
                let from = walk.offset;
                let Some(step) = walk.step(segment, header, *end, &mut window) else { break };
                if let Step::Gap(gap) = step {
                    let damage = damage(segment, &gap);
                    // A segment that was dropped while it was being read is not damaged.
                    let counts = self.lock().core.holds(incarnation);
                    if counts && scrubber.take(&damage) {
                        done.damages.push(damage);
                    }
                }
                done.bytes += (walk.offset - from).max(1);
            }
            scrubber.at = Some((incarnation, walk));
            done.position = walk.next;
        }
        Ok(done)
    }
}

/// As others see it.
pub(crate) fn damage(segment: &Segment, gap: &Gap) -> Damage {
    Damage {
        path: segment.path.clone(),
        offset: gap.offset,
        first: gap.first,
        end: gap.end,
        found: gap.refusal.to_string(),
    }
}
