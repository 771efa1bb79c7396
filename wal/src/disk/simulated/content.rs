//! The content of one simulated file: what reads see, what is durable, and what lies between.
//!
//! A buffered write changes the *cache* at once and is appended to the list of *unsynced* effects; a
//! change of length is an effect of its own. A sync carries the list over to the *durable* image, in
//! order. A power cut draws for each sector of each write, and for each length, whether it is carried
//! over; then the cache is what is durable.
//!
//! Invariant: cache = durable + unsynced effects, except where a sync or a durable write failed, or
//! the tester damaged something: those differences belong to no effect, so no later sync heals them
//! and the next power cut shows them.

use super::fault::Survival;
use super::image::{Image, SECTOR, sectors_of};
use super::random::{PER_MILLE, Random};

/// Something done to the cache that is not durable.
#[derive(Clone, Debug)]
enum Effect {
    /// These bytes were written there.
    Write { offset: usize, bytes: Vec<u8> },
    /// The length was set.
    Length(usize),
}

/// One file without its names.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// What reads see.
    cache: Image,
    /// What a power cut cannot take away.
    durable: Image,
    /// What a sync would make durable, oldest first.
    unsynced: Vec<Effect>,
    /// How many handles, and durable writes under way, keep the file although it has no name.
    pub(super) users: usize,
}

impl Content {
    pub(super) fn cache(&self) -> &Image {
        &self.cache
    }

    pub(super) fn durable(&self) -> &Image {
        &self.durable
    }

    /// Both images, for damage that no operation does.
    pub(super) fn images_mut(&mut self) -> [&mut Image; 2] {
        [&mut self.cache, &mut self.durable]
    }

    /// A buffered write.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if offset + bytes.len() > self.cache.len() {
            self.unsynced.push(Effect::Length(offset + bytes.len()));
        }
        self.cache.write(offset, bytes);
        self.unsynced.push(Effect::Write { offset, bytes: bytes.to_vec() });
    }

    /// Cuts the file or grows it by zeros.
    pub(super) fn set_len(&mut self, len: usize) {
        self.cache.resize(len);
        self.unsynced.push(Effect::Length(len));
    }

    /// Makes everything durable that a sync still knows of.
    pub(super) fn sync(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        for effect in std::mem::take(&mut self.unsynced) {
            match effect {
                Effect::Write { offset, bytes } => self.durable.write(offset, &bytes),
                Effect::Length(len) => self.durable.resize(len),
            }
        }
    }

    /// A sync that fails. Each sector and each length reaches the disk or does not. Sectors are clean
    /// afterwards either way: that is what makes the loss invisible. A length that did not reach the
    /// disk stays to be synced: it is metadata, which file systems keep until it is written.
    pub(super) fn sync_failed(&mut self, survival: &Survival, random: &mut Random) {
        let keeps_new = random.chance(PER_MILLE / 2);
        let mut kept = Vec::new();
        let mut writes = Vec::new();
        for effect in std::mem::take(&mut self.unsynced) {
            match effect {
                Effect::Length(len) if random.chance(survival.lengths) => self.durable.resize(len),
                Effect::Length(_) => kept.push(effect),
                Effect::Write { offset, bytes } => writes.push((offset, bytes)),
            }
        }
        let before = self.durable.clone();
        for (offset, bytes) in writes {
            if !keeps_new {
                self.cache.write_from(&before, offset..offset + bytes.len());
            }
            self.write_some(offset, &bytes, survival, random);
        }
        self.unsynced = kept;
    }

    /// A durable write that completes.
    pub(super) fn write_durably(&mut self, offset: usize, bytes: &[u8]) {
        self.supersede(offset, bytes.len());
        self.cache.write(offset, bytes);
        self.durable.write(offset, bytes);
    }

    /// A durable write that fails: some of its sectors reach the disk; reads see the new bytes or the
    /// old ones; nothing is left to be synced.
    pub(super) fn write_durably_failed(
        &mut self,
        offset: usize,
        bytes: &[u8],
        survival: &Survival,
        random: &mut Random,
    ) {
        let end = offset + bytes.len();
        if end > self.cache.len() {
            self.set_len(end);
        }
        self.supersede(offset, bytes.len());
        if random.chance(PER_MILLE / 2) {
            self.cache.write(offset, bytes);
        }
        self.write_some(offset, bytes, survival, random);
    }

    /// A durable write of which the disk says that it is done, while its bytes went elsewhere.
    pub(super) fn write_misdirected(&mut self, to: usize, bytes: &[u8]) {
        for image in self.images_mut() {
            image.write_within(to, bytes);
        }
    }

    /// What the power leaves. Where a length survives without the bytes, there are zeros, or what lay
    /// in those sectors before they belonged to this file: `stale`, or noise where that ends.
    pub(super) fn power_cut(&mut self, survival: &Survival, random: &mut Random, stale: &[u8]) {
        let mut len = self.durable.len();
        let reach = self.unsynced.iter().fold(len, |reach, effect| match effect {
            Effect::Length(len) => reach.max(*len),
            Effect::Write { offset, bytes } => reach.max(offset + bytes.len()),
        });
        for sector in sectors_of(len..reach) {
            let mut bytes = vec![0; sector.len()];
            if random.chance(PER_MILLE / 2) {
                match stale.get(sector.clone()) {
                    Some(old) => bytes.copy_from_slice(old),
                    None => random.fill(&mut bytes),
                }
            }
            self.durable.write(sector.start, &bytes);
        }
        for effect in std::mem::take(&mut self.unsynced) {
            match effect {
                Effect::Write { offset, bytes } => {
                    self.write_some(offset, &bytes, survival, random);
                }
                Effect::Length(new) if random.chance(survival.lengths) => {
                    if new < len {
                        self.durable.resize(new);
                        self.durable.resize(reach);
                    }
                    len = new;
                }
                Effect::Length(_) => {}
            }
        }
        self.durable.resize(len);
        self.cache = self.durable.clone();
    }

    /// Makes a random subset of the sectors of a write durable, within the durable length.
    fn write_some(
        &mut self,
        offset: usize,
        bytes: &[u8],
        survival: &Survival,
        random: &mut Random,
    ) {
        for sector in sectors_of(offset..offset + bytes.len()) {
            if random.chance(survival.sectors) {
                let piece = &bytes[sector.start - offset..sector.end - offset];
                self.durable.write_within(sector.start, piece);
            }
        }
    }

    /// Forgets unsynced effects that a durable write overtakes: an older write of the same bytes, or
    /// a length that would cut them off, must not come to light after it.
    fn supersede(&mut self, offset: usize, len: usize) {
        let end = offset + len;
        let mut kept = Vec::with_capacity(self.unsynced.len());
        for effect in std::mem::take(&mut self.unsynced) {
            match effect {
                Effect::Length(len) => kept.push(Effect::Length(len.max(end))),
                Effect::Write { offset: start, bytes } => {
                    let stop = start + bytes.len();
                    if start < offset {
                        let before = bytes[..stop.min(offset) - start].to_vec();
                        kept.push(Effect::Write { offset: start, bytes: before });
                    }
                    if stop > end {
                        let first = start.max(end);
                        let after = bytes[first - start..].to_vec();
                        kept.push(Effect::Write { offset: first, bytes: after });
                    }
                }
            }
        }
        self.unsynced = kept;
    }

    /// How many sectors of writes a sync would make durable.
    pub(super) fn unsynced_sectors(&self) -> usize {
        let sectors = self.unsynced.iter().map(|effect| match effect {
            Effect::Write { bytes, .. } => bytes.len().div_ceil(SECTOR),
            Effect::Length(_) => 0,
        });
        sectors.sum()
    }
}
