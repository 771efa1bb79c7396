//! Files and memory that a ring knows beforehand, so that a write need not look them up and pin them.
//!
//! Measured (processor time of the submitting thread, depth 4): 1 MiB writes 54 to 34 us, 64 KiB 16 to 13 us,
//! 4 KiB no difference. So memory is registered from [`BUFFER_LEN_MIN`] on, when it is first written
//! from; the log uses its buffers again.
//!
//! **A registration is found by what was registered, never by its address or its descriptor.** Those
//! are given anew when a buffer is freed or a file is closed, and the ring would write from the old
//! memory. Every allocation and every open file has a number of its own instead, which is not given
//! twice; a registration whose owner is gone is never found again and makes room for another one.
//! Until then it holds pages, or the blocks of a removed file, which is why there are few.
//!
//! **What is registered stays for as long as an entry names it that the kernel has not seen**: it looks a slot up
//! when it is given the entry. Entries that are given to it together are a [batch](Slots::begin_batch), and within one no slot
//! is used for something else.
//!
//! Everything here is optional: where the kernel refuses a registration (an old one, a bound on locked
//! memory), or where memory is seldom used twice, writes go without.

use std::fmt;
use std::io;

/// Buffers that are registered: more than the log has large ones.
const BUFFERS: usize = 24;
/// Files: the segment being written, and the one before it.
const FILES: usize = 2;

/// Smaller buffers are not worth it.
pub(super) const BUFFER_LEN_MIN: usize = 32 << 10;
/// Larger ones are not used again.
pub(super) const BUFFER_LEN_MAX: usize = 3 << 20;

/// After so many look-ups it is judged whether registering pays: every third must have hit.
const JUDGED_AFTER: u32 = 96;

/// The slots of one kind.
pub(super) struct Slots {
    slots: Vec<Slot>,
    clock: u64,
    /// The clock when the batch began.
    batch: u64,
    lookups: u32,
    hits: u32,
    /// Whether registering works and pays.
    is_on: bool,
}

/// What one slot holds.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// The number of what is registered; 0 is nothing.
    id: u64,
    /// How many bytes of it.
    len: usize,
    /// When it was used last.
    used: u64,
}

impl fmt::Debug for Slots {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Slots { lookups, hits, is_on, .. } = self;
        write!(out, "{hits} of {lookups}, {}", if *is_on { "on" } else { "off" })
    }
}

impl Slots {
    /// For buffers, or none if the ring refused the table.
    pub(super) fn for_buffers(make: impl FnOnce(u32) -> io::Result<()>) -> Self {
        Self::new(BUFFERS, make)
    }

    /// For files, or none if the ring refused the table.
    pub(super) fn for_files(make: impl FnOnce(u32) -> io::Result<()>) -> Self {
        Self::new(FILES, make)
    }

    fn new(count: usize, make: impl FnOnce(u32) -> io::Result<()>) -> Self {
        let is_on = make(u32::try_from(count).expect("a few")).is_ok();
        Self { slots: vec![Slot::default(); count], clock: 0, batch: 0, lookups: 0, hits: 0, is_on }
    }

    /// The kernel has seen all entries so far.
    pub(super) fn begin_batch(&mut self) {
        self.batch = self.clock;
    }

    /// Where `len` bytes of `id` are registered; if they are not yet, `register` puts it into the slot that was not used for
    /// longest. `None` if it is not worth it or does not work.
    pub(super) fn find(
        &mut self,
        id: u64,
        len: usize,
        register: impl FnOnce(u32) -> io::Result<()>,
    ) -> Option<u16> {
        assert_ne!(id, 0, "numbers begin with 1");
        if !self.is_on {
            return None;
        }
        self.clock += 1;
        self.lookups += 1;
        let found = self.slots.iter().position(|slot| slot.id == id);
        let slot = match found {
            Some(slot) if self.slots[slot].len >= len => {
                self.hits += 1;
                self.slots[slot].used = self.clock;
                return Some(u16::try_from(slot).expect("few slots"));
            }
            // A buffer that has grown is registered anew, in the same slot.
            found => {
                if self.lookups > JUDGED_AFTER && self.hits < self.lookups / 3 {
                    self.is_on = false;
                    return None;
                }
                let oldest = || (0..self.slots.len()).min_by_key(|slot| self.slots[*slot].used);
                let slot = found.or_else(oldest)?;
                if self.slots[slot].used > self.batch {
                    return None;
                }
                // Whatever the kernel makes of it: what was there is not found any more.
                self.slots[slot].id = 0;
                if register(u32::try_from(slot).expect("few slots")).is_err() {
                    self.is_on = false;
                    return None;
                }
                slot
            }
        };
        self.slots[slot] = Slot { id, len, used: self.clock };
        Some(u16::try_from(slot).expect("few slots"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut slots = Slots::for_files(|_| Ok(()));
        let put = |slots: &mut Slots, id| {
            slots.begin_batch();
            let mut registered = None;
            let slot = slots.find(id, 1, |slot| {
                registered = Some(slot);
                Ok(())
            });
            (slot, registered.is_some())
        };
        assert_eq!(put(&mut slots, 7), (Some(0), true));
        assert_eq!(put(&mut slots, 8), (Some(1), true));
        assert_eq!(put(&mut slots, 7), (Some(0), false));
        assert_eq!(put(&mut slots, 9), (Some(1), true));
        assert_eq!(put(&mut slots, 8), (Some(0), true));
        // It has grown.
        slots.begin_batch();
        assert_eq!(
            slots.find(9, 2, |slot| (slot == 1).then_some(()).ok_or_else(|| unreachable!())),
            Some(1)
        );
        assert_eq!(slots.find(9, 2, |_| unreachable!()), Some(1));
    }

    /// The kernel looks at the slots when it is given the batch: the first write would have gone to the third
    /// file.
    #[test]
    fn within_a_batch_a_slot_is_not_used_for_something_else() {
        let mut slots = Slots::for_files(|_| Ok(()));
        slots.begin_batch();
        let mut find = |id| slots.find(id, 0, |_| Ok(()));
        assert_eq!([7, 8, 9, 7].map(&mut find), [Some(0), Some(1), None, Some(0)]);
        slots.begin_batch();
        assert_eq!(slots.find(9, 0, |_| Ok(())), Some(1));
    }

    #[test]
    fn where_it_is_refused_or_does_not_pay_it_is_left() {
        let refused = || Err(io::Error::from(io::ErrorKind::OutOfMemory));
        assert_eq!(Slots::for_buffers(|_| refused()).find(1, 1, |_| Ok(())), None);
        let mut slots = Slots::for_buffers(|_| Ok(()));
        assert_eq!(slots.find(1, 1, |_| refused()), None);
        assert_eq!(slots.find(1, 1, |_| Ok(())), None, "it is not asked again");
        let mut slots = Slots::for_buffers(|_| Ok(()));
        let mut find = |id| {
            slots.begin_batch();
            slots.find(id, 1, |_| Ok(()))
        };
        let tried = (1..200).filter(|id| find(*id).is_some()).count();
        assert!(tried <= 100, "{tried}");
    }
}
