//! Reading records in order from a position on, up to what is durable, and then on as it grows.
//!
//! Nothing is copied where it can be helped: recent groups are read from the buffers they were
//! written from, sealed segments from their mapping. Only older groups of the active segment, which is
//! never mapped, are read from its file, a stretch at a time (see [`crate::ahead`]). Groups that are compressed
//! on the disk are decompressed into memory of their own, and encrypted ones decrypted.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::ahead::Ahead;
use crate::core::{Core, InUse};
use crate::disk::{Buffer, File, Map};
use crate::frame::{GROUP_HEADER_LEN, GroupHeader};
use crate::record::Record;
use crate::segment::{GROUPS_START, SegmentHeader};
use crate::wal::Shared;
use crate::{Error, Lsn, Result, canary, group};

/// Reads a log in order. A reader that is behind keeps the segment it reads from being recycled.
pub struct Reader {
    shared: Arc<Shared>,
    next: Lsn,
    /// The sealed segment being read, and where in it the next group stands.
    sealed: Option<(Arc<InUse>, Map, u64)>,
    /// What was read of the active segment beyond what was asked for.
    ahead: Option<Ahead>,
}

/// Some consecutive records, sharing the memory of the log.
#[derive(Clone)]
pub struct Records {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    body: Range<usize>,
    /// Position of the first record in the body.
    body_first: Lsn,
    /// Records before this one are left out.
    first: Lsn,
    /// Records from this one on are left out.
    end: Lsn,
}

impl Records {
    /// The records with their positions.
    ///
    /// # Errors
    ///
    /// An item is a refusal if memory no longer holds what was checked when it was read, which
    /// happens if a mapped file is changed from outside.
    pub fn iter(
        &self,
    ) -> impl Iterator<Item = std::result::Result<(Lsn, Record<'_>), crate::record::Refusal>> {
        let bytes = &(*self.owner).as_ref()[self.body.clone()];
        let (first, end) = (self.first, self.end);
        group::records(bytes, self.body_first).filter(move |record| match record {
            Ok((lsn, _)) => *lsn >= first && *lsn < end,
            Err(_) => true,
        })
    }

    /// Position of the first record.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// The position after the last record.
    pub fn end(&self) -> Lsn {
        self.end
    }
}

/// The memory in which the records lie, headers and all: what an iteration yields are parts of it. For
/// who hands payloads on without copying them.
impl AsRef<[u8]> for Records {
    fn as_ref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.body.clone()]
    }
}

/// Where a group is to be read from.
enum Source {
    Recent(group::Group),
    Sealed(Arc<InUse>),
    Active { file: Arc<dyn File>, header: SegmentHeader, offset: u64, path: std::path::PathBuf },
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, from: Lsn) -> Self {
        Self { shared, next: from.max(Lsn(1)), sealed: None, ahead: None }
    }

    /// The position that is read next.
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The next records, as many as lie together; none when all that is durable has been read.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] if the position has been trimmed, [`Error::Corruption`] if what stands
    /// there is damaged, [`Error::Io`] if it cannot be read, [`Error::KeyMissing`] or [`Error::WrongTag`] if it
    /// cannot be decrypted.
    pub fn next_records(&mut self) -> Result<Option<Records>> {
        let (source, durable) = {
            let state = self.shared.lock();
            let core = &state.core;
            if self.next > core.durable() {
                return Ok(None);
            }
            (self.find(core)?, core.durable())
        };
        if !matches!(source, Source::Active { .. }) {
            self.ahead = None;
        }
        let records = match source {
            Source::Recent(group) => {
                let len = group.body().len();
                let body = GROUP_HEADER_LEN..GROUP_HEADER_LEN + len;
                self.records(BufferOwner(group.bytes), body, &group.header)
            }
            Source::Sealed(in_use) => self.read_sealed(in_use)?,
            Source::Active { file, header, mut offset, path } => loop {
                let (group, bytes, body) =
                    self.read_active(&*file, &header, offset, durable, &path)?;
                offset += group.len_on_disk();
                if group.end() > self.next {
                    break self.decoded(
                        StretchOwner(bytes),
                        body,
                        &group,
                        (header.log_id, &path),
                    )?;
                }
            },
        };
        let mut records = records;
        if records.first > self.next && !canary::is_on(canary::POSITION_NOT_COVERED) {
            return Err(Error::Corruption {
                path: self.shared.dir.clone(),
                offset: 0,
                expected: format!("a group with position {}", self.next),
                found: format!("one that begins with position {}", records.first),
            });
        }
        records.end = records.end.min(durable.next());
        self.next = records.end;
        Ok(Some(records))
    }

    fn find(&self, core: &Core) -> Result<Source> {
        if self.next < core.first() {
            return Err(out_of_range(core, self.next));
        }
        let recent = core.recent.iter().rev();
        let mut recent = recent.skip_while(|group| group.header.first > self.next);
        if let Some(group) = recent.next()
            && group.header.end() > self.next
        {
            return Ok(Source::Recent(group.clone()));
        }
        if core.active.header.first <= self.next {
            return Ok(Source::Active {
                file: core.active.segment.file.clone(),
                header: core.active.header,
                offset: core.active.offset_of(self.next),
                path: core.active.segment.path.clone(),
            });
        }
        let at = core.sealed.partition_point(|in_use| in_use.header.first <= self.next);
        match at.checked_sub(1).and_then(|at| core.sealed.get(at)) {
            Some(in_use) => Ok(Source::Sealed(in_use.clone())),
            None => Err(out_of_range(core, self.next)),
        }
    }

    /// The group at `offset` of the active segment: from what was read ahead, or from the file. All
    /// up to `durable` is durable.
    fn read_active(
        &mut self,
        file: &dyn File,
        header: &SegmentHeader,
        offset: u64,
        durable: Lsn,
        path: &std::path::Path,
    ) -> Result<(GroupHeader, Arc<Vec<u8>>, Range<usize>)> {
        let found = |ahead: &Option<Ahead>| {
            let ahead = ahead.as_ref()?;
            let (group, body) = ahead.group(header, offset, self.next)?;
            Some((group, ahead.bytes(), body))
        };
        if let Some(found) = found(&self.ahead) {
            return Ok(found);
        }
        self.ahead = Ahead::read(self.ahead.take(), file, header, offset, durable);
        if let Some(found) = found(&self.ahead) {
            return Ok(found);
        }
        // Larger than what is read ahead, or damaged: read by itself, it says which.
        let (group, bytes) =
            load(file, header, offset, path).map_err(|error| self.trimmed_or(error))?;
        let body = 0..bytes.len();
        Ok((group, Arc::new(bytes), body))
    }

    fn read_sealed(&mut self, in_use: Arc<InUse>) -> Result<Records> {
        let same = self.sealed.as_ref().is_some_and(|(held, _, _)| Arc::ptr_eq(held, &in_use));
        if !same {
            let map = self.shared.disk.map_front(&in_use.segment.path, in_use.groups_end())?;
            let offset = in_use.offset_of(self.next);
            self.sealed = Some((in_use.clone(), map, offset));
            // The place may be told by a footer, which decides nothing: what is wrong is said of the
            // groups, by who walked there.
            if offset > GROUPS_START {
                return match self.walk_sealed(&in_use) {
                    Ok(records) if records.first <= self.next => Ok(records),
                    _ => {
                        let (_, _, offset) = self.sealed.as_mut().expect("it was set just above");
                        *offset = GROUPS_START;
                        self.walk_sealed(&in_use)
                    }
                };
            }
        }
        self.walk_sealed(&in_use)
    }

    /// The next records, from where this reader is in the segment on.
    fn walk_sealed(&mut self, in_use: &Arc<InUse>) -> Result<Records> {
        let (_, map, mut offset) = self.sealed.clone().expect("who reads has mapped it");
        let (header, path) = (&in_use.header, &in_use.segment.path);
        loop {
            let (group, body) = parse(&map, header, offset, path)?;
            offset += group.len_on_disk();
            if group.end() > self.next {
                let end = in_use.end;
                let owner = MapOwner { map: map.clone(), _in_use: in_use.clone() };
                let mut records = self.decoded(owner, body, &group, (header.log_id, path))?;
                // Only now: who gives the key that was missing reads on from here.
                self.sealed = Some((in_use.clone(), map, offset));
                records.end = records.end.min(end.unwrap_or(records.end));
                if records.end <= self.next {
                    return Err(Error::Corruption {
                        path: path.clone(),
                        offset,
                        expected: format!("a group with position {}", self.next),
                        found: format!("one that ends before position {}", group.end()),
                    });
                }
                return Ok(records);
            }
        }
    }

    /// The records of a body as it stands on disk: parts of it, or memory of their own if they are compressed or
    /// encrypted.
    fn decoded(
        &self,
        owner: impl AsRef<[u8]> + Send + Sync + 'static,
        body: Range<usize>,
        header: &GroupHeader,
        (log_id, path): (u64, &std::path::Path),
    ) -> Result<Records> {
        let bytes = &owner.as_ref()[body.clone()];
        let decoded = match header.decode_with(log_id, bytes, self.shared.keyring.as_ref()) {
            Ok(Cow::Borrowed(_)) => None,
            Ok(Cow::Owned(records)) => Some(records),
            Err(refusal) => {
                let error = refusal.not_understood(path, header.offset);
                return Err(error.unwrap_or_else(|| damaged(path, header.offset, &refusal)));
            }
        };
        Ok(match decoded {
            None => self.records(owner, body, header),
            Some(records) => {
                let all = 0..records.len();
                self.records(records, all, header)
            }
        })
    }

    fn records(
        &self,
        owner: impl AsRef<[u8]> + Send + Sync + 'static,
        body: Range<usize>,
        header: &GroupHeader,
    ) -> Records {
        Records {
            owner: Arc::new(owner),
            body,
            body_first: header.first,
            first: self.next.max(header.first),
            end: header.end(),
        }
    }

    /// A segment that was trimmed while it was being read is not damaged.
    fn trimmed_or(&self, error: Error) -> Error {
        let state = self.shared.lock();
        match self.next < state.core.first() {
            true => out_of_range(&state.core, self.next),
            false => error,
        }
    }
}

/// A mapped segment, which is not used again while this holds it.
struct MapOwner {
    map: Map,
    _in_use: Arc<InUse>,
}

impl AsRef<[u8]> for MapOwner {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

struct StretchOwner(Arc<Vec<u8>>);

impl AsRef<[u8]> for StretchOwner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

struct BufferOwner(Arc<Buffer>);

impl AsRef<[u8]> for BufferOwner {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

fn out_of_range(core: &Core, lsn: Lsn) -> Error {
    Error::OutOfRange { lsn: lsn.0, first: core.first().0, last: core.last().0 }
}

/// Decodes the group at `offset` of a mapped segment.
fn parse(
    map: &[u8],
    header: &SegmentHeader,
    offset: u64,
    path: &std::path::Path,
) -> Result<(GroupHeader, Range<usize>)> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let bytes = map.get(start..).unwrap_or(&[]);
    let group = GroupHeader::decode(bytes, header.log_id, header.incarnation, offset)
        .map_err(|refusal| damaged(path, offset, &refusal))?;
    let body_len = usize::try_from(group.body_len).unwrap_or(usize::MAX);
    let body = bytes
        .get(GROUP_HEADER_LEN..)
        .and_then(|rest| rest.get(..body_len))
        .ok_or_else(|| damaged(path, offset, &"a body that reaches beyond the file"))?;
    group::check_body(&group, body).map_err(|refusal| damaged(path, offset, &refusal))?;
    let from = start + GROUP_HEADER_LEN;
    Ok((group, from..from + body_len))
}

/// Reads the group at `offset` of the active segment's file.
fn load(
    file: &dyn File,
    header: &SegmentHeader,
    offset: u64,
    path: &std::path::Path,
) -> Result<(GroupHeader, Vec<u8>)> {
    let mut bytes = [0; GROUP_HEADER_LEN];
    file.read_at(&mut bytes, offset)?;
    let group = GroupHeader::decode(&bytes, header.log_id, header.incarnation, offset)
        .map_err(|refusal| damaged(path, offset, &refusal))?;
    let body_len = usize::try_from(group.body_len).unwrap_or(usize::MAX);
    if u64::from(group.body_len) > header.len {
        return Err(damaged(path, offset, &"a body longer than the segment"));
    }
    let mut body = vec![0; body_len];
    let header_len = u64::try_from(GROUP_HEADER_LEN).expect("a small constant");
    let count = file.read_at(&mut body, offset + header_len)?;
    body.truncate(count);
    group::check_body(&group, &body).map_err(|refusal| damaged(path, offset, &refusal))?;
    Ok((group, body))
}

fn damaged(path: &std::path::Path, offset: u64, found: &dyn std::fmt::Display) -> Error {
    Error::Corruption {
        path: path.to_path_buf(),
        offset,
        expected: "a group that was durable".into(),
        found: found.to_string(),
    }
}
