//! Sealed segments get their footers: which of them, and when.

use std::sync::Arc;

use super::{Core, InUse};
use crate::disk::File;
use crate::footer::Footer;
use crate::segment::SegmentId;

impl Core {
    /// A segment has ended.
    pub(crate) fn lacks_footer(&mut self, in_use: &InUse) {
        self.footless.push_back(in_use.header.incarnation);
    }

    /// A header is durable: all segments before it have ended for good.
    pub(super) fn footers_fall_due(&mut self) {
        self.footers_due = self.footless.len();
    }

    /// A sealed segment was written anew, without its footer.
    pub(crate) fn lacks_footer_anew(&mut self, id: SegmentId) {
        if let Some(at) = self.sealed.iter().position(|one| one.segment.id == id) {
            self.footless.push_back(self.sealed[at].header.incarnation);
        }
        if !self.is_opening() {
            self.footers_fall_due();
        }
    }

    /// Whether there is a footer to be written.
    pub(crate) fn is_footer_due(&self) -> bool {
        self.footers_due > 0
    }

    /// The next footer to be written, where, and the file. What is not a part of the log any more needs none.
    ///
    /// Nothing is kept from being reused meanwhile. A footer that comes too late names a use of the file
    /// that is over, and hits no group: its block is kept free in each use.
    pub(crate) fn next_footer(&mut self) -> Option<(Footer, u64, Arc<dyn File>)> {
        while self.footers_due > 0 {
            self.footers_due -= 1;
            let incarnation = self.footless.pop_front()?;
            let at = self.sealed.iter().rposition(|one| one.header.incarnation == incarnation);
            let Some(in_use) = at.and_then(|at| self.sealed.get(at)) else { continue };
            if self.is_left_alone(incarnation) {
                continue;
            }
            let next = at.and_then(|at| self.sealed.get(at + 1));
            let next = next.map_or(self.active.header, |next| next.header);
            let end = in_use.end.expect("a sealed segment has an end");
            let footer = Footer::new(&in_use.header, end, &next, &in_use.offsets);
            return Some((footer, in_use.groups_end(), in_use.segment.file.clone()));
        }
        None
    }
}
