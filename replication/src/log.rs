//! The entries of a replica: its store's log, and the end of it in memory.
//!
//! A position in the log is an index, and a record is an entry whose header has its term. Nothing else
//! is kept on disk. In memory are the terms of all entries that can still be asked for, and the bytes
//! of the newest ones: all that are not durable yet, because the log serves only what is, and what
//! peers that keep up are going to need.
//!
//! Invariant: `first <= applied + 1`, `durable <= last`; the cache ends at `last` and holds all that
//! is not durable.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use strandline_engine::{Db, ENTRY_HEADER_LEN, Entry, EntryKind, Index};
use strandline_wal::{Lsn, Reader, Records};

use crate::membership;
use crate::terms::Terms;
use crate::{Error, Result};

/// Durable entries kept in memory for peers that keep up, in bytes.
const CACHE_LEN_MAX: u64 = 16 << 20;

/// How many places in the log are remembered, for peers that are being brought up to date. Each holds
/// at most one segment.
const CURSORS_MAX: usize = 8;

/// See the module's documentation.
pub(crate) struct Log {
    db: Db,
    /// Terms up to the last entry.
    terms: Terms,
    /// The newest entries, oldest first.
    cache: VecDeque<Cached>,
    /// Entries of membership that are not known to be applied, and whether each is a change.
    memberships: BTreeMap<u64, bool>,
    /// Where peers that are behind have read to.
    cursors: RefCell<Vec<Cursor>>,
    /// Whether threads of the driver write the log; else it is pumped.
    has_threads: bool,
    /// The last entry.
    last: u64,
    /// Bytes of all entries ever seen here; the cache's entries say where each ends.
    bytes: u64,
    /// Where entries end in that count, now and then, for those that are not in the cache any more.
    marks: VecDeque<(u64, u64)>,
    /// Whether damage was met when the log was taken up.
    has_holes: bool,
    /// Whether a read has failed.
    has_failed_read: Cell<bool>,
}

struct Cached {
    payload: Bytes,
    /// Bytes of all entries up to this one.
    end: u64,
}

struct Cursor {
    reader: Reader,
    /// Records that were read and not all used.
    records: Option<Records>,
    next: u64,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// The entries stand in the log.
    Done,
    /// Too much waits for the disk; nothing has changed.
    Wait,
    /// The disk is full; nothing has changed.
    Full,
}

fn header_of(index: u64, payload: &[u8]) -> Result<strandline_engine::EntryHeader> {
    Ok(Entry::decode(Index(index), payload)?.header)
}

impl Log {
    /// Takes up the log of a store that was just opened; `terms` are those up to its flushed index.
    pub(crate) fn open(db: Db, terms: Terms, has_threads: bool) -> Result<Self> {
        let mut log = Self {
            terms,
            cache: VecDeque::new(),
            memberships: BTreeMap::new(),
            cursors: RefCell::default(),
            has_threads,
            last: db.flushed().0,
            bytes: 0,
            marks: VecDeque::new(),
            has_holes: false,
            has_failed_read: Cell::new(false),
            db,
        };
        log.drop_if_foreign()?;
        let mut next = log.last + 1;
        while let Err(error) = log.load(next) {
            let Some((_, end)) = log.hole_at(log.last + 1)? else { return Err(error) };
            log.has_holes = true;
            // What is behind it is there, but not what leads up to it. Nothing rests on the terms of what is
            // missing until it is mended, but the last entry has to have one.
            (log.last, next) = (end - 1, end);
            let known = log.terms.last().unwrap_or(1);
            log.terms.push(end - 1, known);
            log.cache.clear();
        }
        Ok(log)
    }

    /// Takes note of all entries from `next` on.
    fn load(&mut self, next: u64) -> Result<()> {
        let mut reader = self.db.log().reader(Lsn(next));
        while let Some(records) = reader.next_records()? {
            for record in records.iter() {
                let (lsn, record) = record.map_err(damaged)?;
                self.note(lsn.0, Bytes::copy_from_slice(record.payload))?;
            }
            self.shrink();
        }
        Ok(())
    }

    /// The damage at which reading from `next` on has ended, and the end of its segment; none if the
    /// log is not damaged there, or damaged where it cannot be mended. Reads the whole log.
    fn hole_at(&self, next: u64) -> Result<Option<(u64, u64)>> {
        let wal = self.db.log();
        while !wal.scrub(SCRUB_LEN)?.finished {}
        // Of a group without records only the place is known, and what follows in its segment is there.
        let damage = wal.damages().into_iter().find(|damage| damage.end.0 >= next);
        let end = damage.as_ref().and_then(|damage| wal.segment_end(damage.first));
        let hole = damage.zip(end).map(|(damage, end)| (damage.first.0, end.0.max(damage.end.0)));
        Ok(hole.filter(|(_, end)| *end > next))
    }

    /// Whether entries beyond the flushed one are damaged: then nothing but reading them is allowed.
    pub(crate) fn has_holes(&self) -> bool {
        self.has_holes
    }

    /// The term of an entry as it stands on the disk.
    pub(crate) fn read_term(&self, index: u64) -> Option<u64> {
        let is_there = (self.db.log().first().0..=self.last()).contains(&index);
        let entries = is_there.then(|| self.entries(index, index + 1, 0).ok()).flatten()?;
        header_of(index, entries.first()?).ok().map(|header| header.term)
    }

    /// Whether a read has failed since this was asked last.
    pub(crate) fn take_failed_read(&self) -> bool {
        self.has_failed_read.take()
    }

    pub(crate) fn note_failed_read(&self) {
        self.has_failed_read.set(true);
    }

    /// Segments have been written anew: nothing that was read of them counts.
    pub(crate) fn forget_places(&mut self) {
        self.cursors.borrow_mut().clear();
    }

    /// A crash after a snapshot was installed and before the log began anew may leave a log that does
    /// not lead up to the state: none of it counts.
    fn drop_if_foreign(&mut self) -> Result<()> {
        let flushed = self.last;
        let wal = self.db.log();
        if flushed < wal.first().0 || flushed > wal.last().0 {
            return Ok(());
        }
        // If it is damaged, whoever has what belongs there has to agree with what stands behind it.
        let Ok(entries) = self.read(flushed, flushed + 1, u64::MAX) else { return Ok(()) };
        let terms = entries.first().map(|payload| header_of(flushed, payload)).transpose()?;
        if terms.map(|header| header.term) != self.terms.get(flushed) {
            self.db.reset_log(Index(flushed + 1))?;
        }
        Ok(())
    }

    /// Begins anew behind a snapshot that was installed.
    pub(crate) fn restart(&mut self, terms: Terms) {
        self.last = self.db.log().last().0;
        self.terms = terms;
        self.cache.clear();
        self.marks.clear();
        self.memberships.clear();
        self.cursors.borrow_mut().clear();
    }

    pub(crate) fn db(&self) -> &Db {
        &self.db
    }

    /// The first entry that is there whole, and the term of whose predecessor is known.
    pub(crate) fn first(&self) -> u64 {
        let first = self.db.log().first().0;
        match self.terms.first() {
            _ if first <= 1 => 1,
            Some(known) => first.max(known + 1),
            None => self.last() + 1,
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn durable(&self) -> u64 {
        self.db.log().durable().0
    }

    /// Whether everything is durable, so that the end may be dropped without waiting.
    pub(crate) fn is_idle(&self) -> bool {
        self.durable() == self.last()
    }

    /// The term of an entry from the one before the first to the last; 0 before all.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == 0 {
            return Some(0);
        }
        if index > self.last() { None } else { self.terms.get(index) }
    }

    /// Whether this entry changes the membership and is not known to be applied.
    pub(crate) fn is_membership(&self, index: u64) -> bool {
        self.memberships.contains_key(&index)
    }

    /// Whether entries that are not known to be applied change the members.
    pub(crate) fn has_changes(&self) -> bool {
        !self.memberships.is_empty()
    }

    /// Up to here the log itself proves that its entries are committed: a change of membership is
    /// proposed only by a leader that has applied the one before it.
    pub(crate) fn proven_committed(&self) -> Option<u64> {
        if self.has_holes {
            return None;
        }
        let mut changes = self.memberships.iter().rev().filter(|(_, is_change)| **is_change);
        changes.nth(1).map(|(index, _)| *index)
    }

    /// Appends entries, all or none.
    pub(crate) fn append(&mut self, payloads: &[Bytes]) -> Result<Appended> {
        let slices: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
        match self.db.log().try_append_all(&slices) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Appended::Wait),
            Err(error) if error.is_full() => return Ok(Appended::Full),
            Err(error) => return Err(error.into()),
        }
        for payload in payloads {
            self.note(self.last + 1, payload.clone())?;
        }
        assert_eq!(self.last, self.db.log().last().0, "only the replica appends to its log");
        self.shrink();
        Ok(Appended::Done)
    }

    fn note(&mut self, index: u64, payload: Bytes) -> Result<()> {
        let Entry { header, command, .. } = Entry::decode(Index(index), &payload)?;
        if header.kind == EntryKind::MEMBERSHIP {
            self.memberships.insert(index, membership::is_change(command));
        }
        self.terms.push(index, header.term);
        self.last = index;
        self.bytes += u64::try_from(payload.len()).expect("a length fits 64 bits");
        self.cache.push_back(Cached { payload, end: self.bytes });
        self.mark();
        Ok(())
    }

    /// Lets go of the oldest entries in memory.
    fn shrink(&mut self) {
        let durable = self.durable();
        while let Some(oldest) = self.cache.front()
            && self.bytes - oldest.end > CACHE_LEN_MAX
            && self.cache_first() <= durable
        {
            self.cache.pop_front();
        }
    }

    /// Index of the first entry in memory; the one after the last if there is none.
    fn cache_first(&self) -> u64 {
        self.last() + 1 - u64::try_from(self.cache.len()).expect("a length fits 64 bits")
    }

    /// Drops the entries after `last`. The log must be idle.
    pub(crate) fn truncate(&mut self, last: u64) -> Result<()> {
        assert!(self.is_idle(), "a truncation would wait for the disk");
        let kept = (last + 1).saturating_sub(self.cache_first());
        self.cache.truncate(usize::try_from(kept).expect("it is in memory"));
        self.terms.truncate(last);
        self.marks.truncate(self.marks.partition_point(|(index, _)| *index <= last));
        let marked = self.marks.back().map_or(self.bytes, |(_, end)| *end);
        self.bytes = self.cache.back().map_or(marked, |newest| newest.end);
        self.last = self.last.min(last);
        self.memberships.retain(|index, _| *index <= last);
        self.cursors.borrow_mut().clear();
        Ok(self.db.truncate(Index(last))?)
    }

    /// Entries up to this one are applied.
    pub(crate) fn applied(&mut self, index: u64) {
        self.memberships = self.memberships.split_off(&(index + 1));
    }

    /// Has what was appended made durable.
    pub(crate) fn drive(&self) -> Result<()> {
        let wal = self.db.log();
        if self.has_threads {
            wal.request(wal.last());
            return Ok(());
        }
        Ok(wal.pump()?)
    }

    /// Entries from `low` on, before `high`: at least one, and no more than about `len_max` bytes.
    pub(crate) fn entries(&self, low: u64, high: u64, len_max: u64) -> Result<Vec<Bytes>> {
        let cached = self.cache_first();
        if low < cached {
            let read = self.read(low, high.min(cached), len_max);
            if read.is_err() {
                self.note_failed_read();
            }
            return read;
        }
        let skipped = usize::try_from(low - cached).expect("it is in memory");
        let count = usize::try_from(high.saturating_sub(low)).unwrap_or(usize::MAX);
        let mut len = 0;
        let fits = |entry: &&Cached| {
            let is_first = len == 0;
            len += u64::try_from(entry.payload.len()).expect("a length fits 64 bits");
            is_first || len <= len_max
        };
        let entries = self.cache.iter().skip(skipped).take(count).take_while(fits);
        Ok(entries.map(|entry| entry.payload.clone()).collect())
    }

    /// As [`entries`](Log::entries), from the disk.
    fn read(&self, low: u64, high: u64, len_max: u64) -> Result<Vec<Bytes>> {
        let mut cursors = self.cursors.borrow_mut();
        let at = cursors.iter().position(|cursor| cursor.next == low);
        let mut cursor = match at {
            Some(at) => cursors.remove(at),
            None => Cursor { reader: self.db.log().reader(Lsn(low)), records: None, next: low },
        };
        let mut entries = Vec::new();
        let mut len = 0;
        'filled: while cursor.next < high {
            let records = match cursor.records.take() {
                Some(records) => records,
                None => match cursor.reader.next_records()? {
                    Some(records) => records,
                    None => break,
                },
            };
            // Entries are handed on in the memory that they were read in: of a sealed segment, its map.
            let memory = Bytes::from_owner(records.clone());
            for record in records.iter() {
                let (lsn, record) = record.map_err(damaged)?;
                if lsn.0 < cursor.next {
                    continue;
                }
                len += u64::try_from(record.payload.len()).expect("a length fits 64 bits");
                if lsn.0 >= high || (len > len_max && !entries.is_empty()) {
                    cursor.records = Some(records.clone());
                    break 'filled;
                }
                entries.push(memory.slice_ref(record.payload));
                cursor.next += 1;
            }
        }
        cursors.push(cursor);
        if cursors.len() > CURSORS_MAX {
            cursors.remove(0);
        }
        Ok(entries)
    }

    /// About how many bytes of entries follow this one: to within [`MARK_EVERY`], as far back as this
    /// replica has seen them come since it was opened; what lies before that counts as if entries were
    /// alike.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        let cached = index.checked_sub(self.cache_first());
        let cached = cached.and_then(|at| self.cache.get(usize::try_from(at).ok()?));
        if let Some(entry) = cached {
            return self.bytes - entry.end;
        }
        if index >= self.last() {
            return 0;
        }
        let at = self.marks.partition_point(|(marked, _)| *marked <= index);
        match at.checked_sub(1).and_then(|at| self.marks.get(at)) {
            Some((_, end)) => self.bytes - end,
            None => {
                let (known, end) = self.marks.front().copied().unwrap_or((self.last, self.bytes));
                let seen = (self.last - known).max(1);
                let mean = ((self.bytes - end) / seen).max(ENTRY_LEN_MIN);
                (self.bytes - end).saturating_add((known - index).saturating_mul(mean))
            }
        }
    }

    /// Remembers where in the count of bytes an entry ends, now and then.
    fn mark(&mut self) {
        if self.marks.back().is_none_or(|(_, end)| self.bytes - end >= MARK_EVERY) {
            self.marks.push_back((self.last, self.bytes));
        }
        let first = self.db.log().first().0;
        while self.marks.get(1).is_some_and(|(index, _)| *index < first) {
            self.marks.pop_front();
        }
    }
}

/// Bytes read at a time when the whole log is searched for damage.
const SCRUB_LEN: u64 = 1 << 20;
/// So many bytes of entries lie between two marks: a thousand of them for a gigabyte.
const MARK_EVERY: u64 = 1 << 20;

/// The shortest entry: a header.
const ENTRY_LEN_MIN: u64 = {
    // A constant expression cannot call `try_from`.
    assert!(ENTRY_HEADER_LEN == 32);
    32
};

fn damaged(refusal: impl std::fmt::Display) -> Error {
    let reason = refusal.to_string();
    strandline_engine::Error::Malformed { what: "log record", offset: 0, reason }.into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use strandline_engine::{Changes, Commit, DbOptions, EntryHeader, Machine};
    use strandline_wal::disk::SimulatedDisk;

    use super::*;

    struct NoCommands;

    impl Machine for NoCommands {
        fn apply(&mut self, _: &Entry<'_>, _: &mut Changes<'_>) -> strandline_engine::Result<()> {
            panic!("nothing is committed")
        }
    }

    fn payload(len: usize) -> Bytes {
        let header = EntryHeader { term: 1, ..EntryHeader::of_kind(EntryKind::COMMAND) };
        let mut payload = header.encode().to_vec();
        payload.resize(len, 7);
        Bytes::from(payload)
    }

    /// Large entries first, then small ones: counted as if they were alike, the lag was off by far.
    #[test]
    fn lag_in_bytes_is_right_beyond_what_is_in_memory() {
        let options =
            DbOptions { commit: Commit::WhenTold, background: false, ..DbOptions::default() };
        let disk = SimulatedDisk::new(1);
        let db = Db::open_with(disk, Path::new("/store"), options, Box::new(NoCommands)).unwrap();
        let mut log = Log::open(db, Terms::default(), false).unwrap();
        let mut ends = vec![0];
        for (len, count) in [(64 << 10, 64), (1 << 10, 24 << 10)] {
            for batch in vec![payload(len); count].chunks(64) {
                assert_eq!(log.append(batch).unwrap(), Appended::Done);
                log.db().log().sync().unwrap();
                ends.extend(batch.iter().map(|_| 0));
                for at in ends.len() - batch.len()..ends.len() {
                    ends[at] = ends[at - 1] + u64::try_from(len).unwrap();
                }
            }
        }
        assert!(log.cache_first() > 64, "the large ones are not in memory");
        let all = ends[ends.len() - 1];
        for (index, end) in (0..).zip(&ends).step_by(50) {
            let (told, right) = (log.bytes_after(index), all - end);
            assert!(told.abs_diff(right) <= MARK_EVERY + (64 << 10), "{index}: {told}, {right}");
        }
    }
}
