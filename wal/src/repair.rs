//! Mending a damaged segment of an open log with records from elsewhere.
//!
//! The records come from whoever has them: a peer, a backup. What is still known of the place says
//! whether they are right (`judge.rs`): a group's header that is whole has the checksum of its body; where the
//! header is gone too, the next group's chain covers what stood there, if it was one group. Where several
//! groups are gone with their headers nothing here can judge, and the caller is trusted, as long as what is
//! offered for the sound groups around is what they hold.
//!
//! Nothing is written over what is there. The segment is written anew beside the old file, synced, and
//! takes its name; a crash leaves the one or the other. Readers that hold the old one finish with it.

mod judge;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use self::judge::{agrees, judge};
use crate::core::InUse;
use crate::disk::{Buffer, File, OpenMode};
use crate::envelope::{Encryption, Encryptor};
use crate::frame::{GROUP_HEADER_LEN, GroupHeader};
use crate::group::{Framed, Group, Pending, Place};
use crate::preparer;
use crate::record::Record;
use crate::segment::{GROUPS_START, REPLACEMENT, Segment};
use crate::wal::{Shared, Wal};
use crate::walk::{Gap, Step, Walk};
use crate::window::Window;
use crate::{Error, Keyring, Lsn, Result};

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// Damaged places that are whole again.
    pub places: u64,
    /// Records that were put back.
    pub records: u64,
    /// How many of them were proven to be those that had been there. The others are taken on trust.
    pub proven: u64,
}

/// What a segment is to hold, in order.
enum Piece {
    /// A sound group, as it is.
    Sound(GroupHeader),
    /// The records of positions `first` to before `end`.
    New { first: Lsn, end: Lsn, form: Form },
}

/// How the records that are put back stand in their group.
#[derive(Clone, Copy)]
struct Form {
    /// Whether they are compressed where that is worth it.
    compress: bool,
    /// Whether they are encrypted.
    encrypt: bool,
}

impl Wal {
    /// Mends the log with `records`, which belong at the positions from `first` on. They must cover each
    /// [`Damage`](crate::Damage) that they touch and all others in its segment; those that are not damaged are
    /// left. If they reach into the segment that is being written, the next one is begun first.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if they cannot be what was there, or are not what is there, [`Error::OutOfRange`] if
    /// they reach beyond what is durable or cover a damage in part, [`Error::KeyMissing`] if that cannot be
    /// told: nothing has changed. [`Error::Full`], [`Error::Io`], [`Error::Closed`]: what was mended before the
    /// error stays mended.
    pub fn repair(&self, first: Lsn, records: &[Record<'_>]) -> Result<Repaired> {
        self.shared.repair(first, records)
    }
}

/// Records offered, and where they belong.
struct Offer<'a> {
    first: Lsn,
    records: &'a [Record<'a>],
}

impl Offer<'_> {
    fn end(&self) -> Lsn {
        Lsn(self.first.0 + u64::try_from(self.records.len()).expect("they are in memory"))
    }

    /// The record that is offered for this position, which must lie within.
    fn record(&self, lsn: Lsn) -> &Record<'_> {
        &self.records[usize::try_from(lsn.0 - self.first.0).expect("they are in memory")]
    }

    /// The records from `first` to before `end`, framed as they stand on disk.
    fn framed(&self, first: Lsn, end: Lsn) -> Vec<Framed<'_>> {
        let from = usize::try_from(first.0 - self.first.0).expect("they are in memory");
        let to = usize::try_from(end.0 - self.first.0).expect("they are in memory");
        let records = self.records[from..to].iter();
        records.map(|record| Framed::new(record.kind, record.payload)).collect()
    }

    /// The same records as a group. It claims nothing: that is always true.
    fn group(
        &self,
        (first, end): (Lsn, Lsn),
        log_id: u64,
        place: Place,
        compress: bool,
        encryption: Option<&Encryption>,
    ) -> Group {
        let mut pending = Pending::new(Buffer::with_capacity(1 << 16), first, false);
        self.framed(first, end).iter().for_each(|record| pending.push(record));
        let buffer = Buffer::with_capacity(0);
        match encryption {
            Some(by) => pending.seal_encrypted(log_id, place, buffer, compress, by),
            None if compress => pending.seal_compressed(log_id, place, buffer),
            None => pending.seal(log_id, place),
        }
    }
}

impl Shared {
    fn repair(&self, first: Lsn, records: &[Record<'_>]) -> Result<Repaired> {
        let _layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let offer = Offer { first, records };
        let mut done = Repaired::default();
        self.seal_before(offer.end())?;
        let compress;
        let sealed: Vec<Arc<InUse>> = {
            let state = self.lock();
            if let Some(Error::Closed) = state.core.failure() {
                return Err(Error::Closed);
            }
            compress = state.core.options.compress;
            let active = state.core.active.header.first;
            if first < state.core.first() || offer.end() > active {
                return Err(Error::OutOfRange {
                    lsn: if first < state.core.first() { first.0 } else { offer.end().0 - 1 },
                    first: state.core.first().0,
                    last: active.0 - 1,
                });
            }
            let touches = |in_use: &&Arc<InUse>| {
                let end = in_use.end.expect("a sealed segment has an end");
                in_use.header.first <= offer.end() && end >= first
            };
            state.core.sealed.iter().filter(touches).cloned().collect()
        };
        let keyring = self.keyring.as_ref();
        let encryptor = keyring.map(|keyring| Encryptor::draw(&*self.disk, keyring));
        let mut encryptor = encryptor.transpose()?;
        let encrypt = keyring.is_some_and(|keyring| keyring.current().is_some());
        let form = Form { compress, encrypt };
        let mut plans = Vec::new();
        for in_use in &sealed {
            plans.push(plan(in_use, &offer, form, keyring, &mut done)?);
        }
        for (in_use, pieces) in sealed.iter().zip(plans) {
            if let Some(pieces) = pieces {
                self.replace(in_use, &pieces, &offer, encryptor.as_mut())?;
            }
        }
        self.scrubber().forget(first, offer.end());
        Ok(done)
    }

    /// Ends the active segment if it holds positions before `end`: what is written to is not replaced.
    fn seal_before(&self, end: Lsn) -> Result<()> {
        loop {
            let mut state = self.lock();
            let core = &mut state.core;
            if let Some(error) = core.failure() {
                return match error {
                    Error::Closed => Err(error),
                    // What was sealed before it stopped can be mended.
                    _ => Ok(()),
                };
            }
            if end <= core.active.header.first || end > core.durable().next() {
                return Ok(());
            }
            if core.in_flight() > 0 || core.has_pending() {
                let last = core.last();
                drop(state);
                self.wait(last)?;
                self.settle_in_flight()?;
                continue;
            }
            let write = core.seal_active();
            state.tell_watcher();
            drop(state);
            match write {
                Some(write) => {
                    let result = self.perform(write);
                    self.hand_on(self.lock());
                    result?;
                    self.settle_in_flight()?;
                }
                None => self.prepare().map_err(|error| self.refusal(error))?,
            }
        }
    }

    /// Writes the segment anew and lets it take the place of the old one.
    fn replace(
        &self,
        in_use: &Arc<InUse>,
        pieces: &[Piece],
        offer: &Offer<'_>,
        encryptor: Option<&mut Encryptor>,
    ) -> Result<()> {
        let old = &in_use.segment;
        let path = replacement_of(&old.path);
        match self.disk.remove(&path) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let written = self.write_anew(&path, in_use, pieces, offer, encryptor);
        let (new, offsets) = written.inspect_err(|_| {
            // Best effort: a left-over is removed when the log is opened.
            let _ = self.disk.remove(&path);
        })?;
        self.disk.rename(&path, &old.path)?;
        // From here on the name may stand for either file, and a power cut may bring the old one back:
        // neither must be put to use for something else before the name is durable.
        if let Err(error) = self.disk.sync_dir(old.path.parent().unwrap_or(&self.dir)) {
            self.unsure.lock().unwrap_or_else(PoisonError::into_inner).push(in_use.clone());
            return Err(error);
        }
        // Its file is open already: nothing may fail between the name and this.
        let mut state = self.lock();
        state.core.exchange(&Segment { path: old.path.clone(), ..new }, &offsets);
        state.tell_what_is_due();
        Ok(())
    }

    /// Writes a segment that holds the pieces; returns it, and where its groups stand.
    fn write_anew(
        &self,
        path: &Path,
        in_use: &InUse,
        pieces: &[Piece],
        offer: &Offer<'_>,
        mut encryptor: Option<&mut Encryptor>,
    ) -> Result<(Segment, Vec<(Lsn, u64)>)> {
        let header = in_use.header;
        let (old, log_id) = (&in_use.segment, header.log_id);
        let created = self.disk.open(path, OpenMode::CreateLog);
        let new = created
            .and_then(|file| preparer::fill(file, path, old.id, old.len, log_id))
            .map_err(|error| self.or_full(error))?;
        let mut window = Window::new();
        let mut offsets = Vec::new();
        let (mut offset, mut chain) = (GROUPS_START, header.chain);
        for piece in pieces {
            let (group, bytes) = match piece {
                Piece::Sound(group) => again(old, *group, log_id, offset, chain, &mut window),
                Piece::New { first, end, form } => {
                    let incarnation = header.incarnation;
                    let place = Place { flags: 0, incarnation, offset, durable: Lsn(0), chain };
                    // The keyring was asked when this was planned, and does not forget the key in use.
                    let encryption = encryptor.as_mut().filter(|_| form.encrypt);
                    let by = encryption.and_then(|encryptor| encryptor.next());
                    let range = (*first, *end);
                    let group = offer.group(range, log_id, place, form.compress, by.as_ref());
                    (group.header, group.on_disk().to_vec())
                }
            };
            if offset + group.len_on_disk() > new.groups_end() {
                return Err(Error::Mismatch {
                    lsn: group.first.0,
                    expected: format!("records that fit into a segment of {} bytes", new.len),
                    found: format!("{} bytes at {offset}", group.len_on_disk()),
                });
            }
            write_aligned(&*new.file, &bytes, offset)?;
            if group.count > 0 {
                offsets.push((group.first, offset));
            }
            chain = group.chain_after();
            offset += group.len_on_disk();
        }
        new.file.write_at(&header.encode(), 0)?;
        new.file.sync()?;
        Ok((new, offsets))
    }

    fn or_full(&self, error: Error) -> Error {
        match error.is_full() {
            true => Error::Full { path: self.dir.clone() },
            false => error,
        }
    }
}

/// What a segment is to hold when it is mended with what is offered; none if nothing in it is damaged. What
/// is put back is compressed if the log is, or what stands there: it has to fit again. It is encrypted if what stood
/// there was, or where that is not known, if the log is, or what stands before it.
fn plan(
    in_use: &InUse,
    offer: &Offer<'_>,
    form: Form,
    keyring: Option<&Keyring>,
    done: &mut Repaired,
) -> Result<Option<Vec<Piece>>> {
    let (segment, header) = (&in_use.segment, &in_use.header);
    let end = in_use.end.expect("a sealed segment has an end");
    let mut window = Window::new();
    let mut walk = Walk::new(header);
    let mut pieces = Vec::new();
    let mut is_damaged = false;
    let mut left = None;
    let mut chain = header.chain;
    let Form { mut compress, mut encrypt } = form;
    while let Some(step) = walk.step(segment, header, end, &mut window) {
        match step {
            Step::Group(group) => {
                agrees(&group, offer, in_use, keyring, &mut window)?;
                compress |= group.is_compressed();
                encrypt |= group.is_encrypted();
                pieces.push(Piece::Sound(group));
            }
            Step::Gap(gap) => {
                let (first, behind) = (gap.first, gap.end);
                if first < offer.first || behind > offer.end() {
                    let lsn = if first < offer.first { first.0 } else { behind.0 - 1 };
                    let last = offer.end().0.saturating_sub(1);
                    let error = Error::OutOfRange { lsn, first: offer.first.0, last };
                    if first < offer.end() && behind > offer.first {
                        return Err(error);
                    }
                    // None of it is offered: it stays, unless its segment is to be written anew.
                    left = left.or(Some(error));
                    chain = walk.chain;
                    continue;
                }
                let encrypt = gap.group.map_or(encrypt, |group| group.is_encrypted());
                if first < behind && encrypt && !form.encrypt {
                    return Err(unencrypted(segment, &gap));
                }
                let proven = judge(&gap, chain, offer, in_use, keyring)?;
                is_damaged = true;
                done.places += 1;
                done.records += behind.0 - first.0;
                done.proven += if proven { behind.0 - first.0 } else { 0 };
                if first < behind {
                    compress |= gap.group.is_some_and(|group| group.is_compressed());
                    let form = Form { compress, encrypt };
                    pieces.push(Piece::New { first, end: behind, form });
                }
            }
        }
        chain = walk.chain;
    }
    match (is_damaged, left) {
        (true, Some(error)) => Err(error),
        (true, None) => Ok(Some(pieces)),
        (false, _) => Ok(None),
    }
}

/// What was encrypted is not put back for everybody to read.
fn unencrypted(segment: &Segment, gap: &Gap) -> Error {
    Error::InvalidOption {
        reason: format!(
            "{} is encrypted at offset {}, and there is no key to encrypt with what is put back: open the log \
             with a keyring that has one",
            segment.path.display(),
            gap.offset
        ),
    }
}

/// A sound group at another place: its header and its bytes, padded.
pub(crate) fn again(
    segment: &Segment,
    group: GroupHeader,
    log_id: u64,
    offset: u64,
    chain: u64,
    window: &mut Window,
) -> (GroupHeader, Vec<u8>) {
    let len = usize::try_from(group.len_on_disk()).expect("a group was in memory");
    let mut bytes = window.bytes(segment, group.offset, len).to_vec();
    bytes.resize(len, 0);
    let moved = GroupHeader { offset, chain, ..group };
    bytes[..GROUP_HEADER_LEN].copy_from_slice(&moved.encode(log_id));
    (moved, bytes)
}

/// Writes whole blocks from aligned memory, as files for durable writes ask for.
pub(crate) fn write_aligned(file: &dyn File, bytes: &[u8], offset: u64) -> Result<()> {
    let mut buffer = Buffer::with_capacity(bytes.len());
    buffer.extend(bytes);
    file.write_at(&buffer, offset)
}

pub(crate) fn replacement_of(path: &Path) -> PathBuf {
    path.with_extension(REPLACEMENT)
}

impl crate::core::Core {
    /// A segment has been written anew: from now on the new file is used.
    fn exchange(&mut self, segment: &Segment, offsets: &[(Lsn, u64)]) {
        let exchanged = |in_use: &Arc<InUse>| {
            let (header, end) = (in_use.header, in_use.end);
            let (segment, offsets) = (segment.clone(), offsets.to_vec());
            Arc::new(InUse::new(segment, header, offsets, end))
        };
        for in_use in self.sealed.iter_mut().chain(&mut self.held) {
            if in_use.segment.id == segment.id {
                *in_use = exchanged(in_use);
            }
        }
        self.lacks_footer_anew(segment.id);
    }
}
