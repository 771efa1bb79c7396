//! Opening a log after a crash, as a table of cases.
//!
//! Only the newest segment is read: a segment is put to use when the one before it is durable to its
//! end, so everything in the older ones was durable. What is met in the newest one:
//!
//! | # | at the first place where no valid group stands | and behind it | then |
//! |---|---|---|---|
//! | 1 | nothing of this incarnation | nothing | the end of the log; appends go on here |
//! | 2 | a group with a damaged header or body | nothing, or groups that do not claim it | *suspect*: fenced |
//! | 3 | anything | groups of this incarnation that do not claim it | *suspect*: fenced |
//! | 4 | anything | a valid group that says it was durable | *corruption*: the log refuses |
//! | 5 | nothing of this incarnation | a group that belongs to this segment, and to another place, with records that are missing | *suspect*: fenced |
//! | 6 | the end of the segment | | the end of the log |
//!
//! Case 5 is a write that went astray in its file. Had it landed in front, on what had been written before, it would
//! be missed there (case 4, or 2 if it took the last group that nothing claims), or as the header of the
//! segment (`survey`). So of a write that lands elsewhere in its file it is always known that
//! something is missing, although its own place looks like one that was never written. Nothing on this
//! disk tells of a write that landed in no segment's file, or nowhere: that is a disk that lies about a sync.
//!
//! "Fenced" means that the next group opens a fresh segment whose header names the first lost
//! position: the torn bytes are void and are never written over. A torn tail of a crash and rot in the
//! very last group cannot be told from one another without another replica; the window is closed by
//! the marker that follows the last group when the log is idle, because it claims that group.
//!
//! What a crash of the process leaves behind may be in the page cache only, and what a failed write
//! left may be on the disk and not in the cache. So nothing is built on what was read before it was
//! written once more: see [`proof`](crate::proof). That needs no free space.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::core::{InUse, Start};
use crate::disk::{ALIGNMENT_MAX, Disk, DurableWrite, WriteQueue, write_now};
use crate::envelope::{Encryptor, try_keys};
use crate::proof::{self, Proof};
use crate::scan::{Scan, read_loose_group, scan};
use crate::segment::{GROUPS_START, Segment, SegmentHeader, SegmentId, is_left_over};
use crate::survey::{Survey, arrange, survey};
use crate::window::Window;
use crate::{Error, Lsn, Options, Result, canary, preparer};

/// How much of the newest segment is checked at once, in bytes: what a processor keeps close.
const SCAN_LEN: usize = 1 << 20;

/// What opening a log found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Whether the log had been closed in order.
    pub closed: bool,
    /// The end of the log.
    pub tail: Tail,
    /// Bytes that were read: of each segment its header, its first group's header and its footer; the newest one
    /// whole; once more the headers of those that hold nothing, and what nothing proves if that is much.
    pub bytes_read: u64,
    /// Bytes written once more because nothing proved that they were durable.
    pub bytes_rewritten: u64,
    /// Position of the last record.
    pub last: Lsn,
}

/// The end of a log, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tail {
    /// Nothing stands behind the last valid group.
    Clean,
    /// Something stands there that is not valid and that nothing claims: torn by the crash and never
    /// acknowledged, or, which cannot be told here, the last acknowledged group gone bad.
    Suspect {
        /// The segment.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The first position that is missing.
        first: Lsn,
    },
}

/// Opens what stands in `dir`, or starts a new log there.
pub(crate) fn recover(
    disk: &dyn Disk,
    queue: &dyn WriteQueue,
    dir: &Path,
    options: &Options,
) -> Result<(Start, Recovery)> {
    for name in disk.list(dir)? {
        if is_left_over(&name) {
            disk.remove(&disk.locate(dir, &name)?)?;
        }
    }
    let mut survey = survey(disk, dir)?;
    let mut window = Window::of_len(SCAN_LEN);
    let Some((active, header)) = survey.in_use.last().cloned() else {
        return create(disk, queue, dir, options, survey);
    };
    let scan = {
        let ahead = active.read_ahead(disk.readers_max());
        scan(ahead.as_ref().unwrap_or(&active), &header, None, &mut window)
    };
    if let Some(error) = scan.not_understood(&active.path) {
        return Err(error);
    }
    if let Some((offset, claim)) = scan.claim
        && !canary::is_on(canary::CORRUPTION_TAKEN_FOR_TORN_TAIL)
    {
        return Err(Error::Corruption {
            path: active.path,
            offset: scan.end_offset,
            expected: format!(
                "the group of position {}: the group at offset {offset} says that all up to \
                 position {claim} was durable",
                scan.next
            ),
            found: scan.refusal.map_or("the segment's end".into(), |refusal| refusal.to_string()),
        });
    }
    let (sealed, spares) = arrange(disk, &mut survey, header)?;
    // Before anything is written.
    let keys_read = check_keys((&active, &header), &scan, &sealed, options)?;
    let last = Lsn(scan.next.0 - 1);
    let trusts = canary::is_on(canary::RECOVERY_TRUSTS_PAGE_CACHE);
    let proof = match trusts {
        true => Proof::none(&scan),
        false => proof::write(disk, queue, dir, (&active, &header), &scan, &sealed, &spares)?,
    };
    let tail = match scan.residue {
        false => Tail::Clean,
        true => {
            Tail::Suspect { path: active.path.clone(), offset: scan.end_offset, first: scan.next }
        }
    };
    let recovery = Recovery {
        closed: scan.closed && tail == Tail::Clean,
        tail,
        bytes_read: survey.bytes_read + window.bytes_read + proof.bytes_read + keys_read,
        bytes_rewritten: proof.bytes_rewritten,
        last,
    };
    let mut in_use = InUse::new(active, header, Vec::new(), None);
    scan.offsets.iter().for_each(|(first, offset)| in_use.note_group(*first, *offset));
    let start = Start {
        log_id: header.log_id,
        sealed,
        active: in_use,
        next_offset: proof.next_offset,
        chain: proof.chain,
        incarnation: header.incarnation,
        spares: keep_spares(disk, dir, options, spares)?,
        trimmed: header.trimmed,
        last,
        claimed: proof.claimed,
        fence: scan.residue,
        left_behind: if options.spare.is_some() { header.incarnation } else { 0 },
        encryptor: encryptor(disk, options)?,
    };
    Ok((start, recovery))
}

/// Sees whether the keys of the log's end are there: it goes on only with them. Those of older groups are asked for
/// when the groups are read. Returns how many bytes were read.
fn check_keys(
    (active, header): (&Segment, &SegmentHeader),
    scan: &Scan,
    sealed: &VecDeque<Arc<InUse>>,
    options: &Options,
) -> Result<u64> {
    // Single groups, here and there.
    let mut window = Window::of_len(ALIGNMENT_MAX);
    let keyring = options.encryption.as_ref();
    try_keys(active, header, scan.encrypted.values().copied(), keyring, &mut window)?;
    if let Some(newest) = sealed.back().filter(|_| scan.offsets.is_empty()) {
        let (segment, header) = (&newest.segment, &newest.header);
        let first = read_loose_group(segment, header, GROUPS_START, &mut window).ok();
        try_keys(segment, header, first, keyring, &mut window)?;
    }
    Ok(window.bytes_read)
}

fn encryptor(disk: &dyn Disk, options: &Options) -> Result<Option<Encryptor>> {
    options.encryption.as_ref().map(|keyring| Encryptor::draw(disk, keyring)).transpose()
}

/// Free segments of the right length become spares; the others are removed, and so are all of a log with a
/// spare directory: a write that hung in an earlier life may yet land in one of them.
fn keep_spares(
    disk: &dyn Disk,
    dir: &Path,
    options: &Options,
    free: Vec<Segment>,
) -> Result<Vec<Segment>> {
    let (mut spares, mut others): (Vec<_>, Vec<_>) = free
        .into_iter()
        .partition(|segment| segment.len == options.segment_size && options.spare.is_none());
    others.extend(spares.drain((options.spares + 1).min(spares.len())..));
    for segment in &others {
        disk.remove(&segment.path)?;
    }
    if !others.is_empty() {
        disk.sync_dir(dir)?;
    }
    Ok(spares)
}

fn create(
    disk: &dyn Disk,
    queue: &dyn WriteQueue,
    dir: &Path,
    options: &Options,
    survey: Survey,
) -> Result<(Start, Recovery)> {
    for segment in &survey.spares {
        disk.remove(&segment.path)?;
    }
    let id = SegmentId(survey.spares.iter().map(|segment| segment.id.0).max().unwrap_or(0) + 1);
    let log_id = options.new_log_id;
    let segment = preparer::make(disk, dir, id, options.segment_size, log_id)?;
    let header = SegmentHeader {
        in_use: true,
        log_id,
        incarnation: 1,
        first: Lsn(1),
        chain: 0,
        len: segment.len,
        trimmed: Lsn(0),
        previous: 0,
    };
    let (file, bytes) = (segment.file.clone(), Arc::new(header.encode()));
    write_now(queue, DurableWrite { id: 0, file, offset: 0, bytes })?;
    let recovery = Recovery {
        closed: true,
        tail: Tail::Clean,
        bytes_read: 0,
        bytes_rewritten: 0,
        last: Lsn(0),
    };
    let start = Start {
        log_id,
        sealed: VecDeque::new(),
        active: InUse::new(segment, header, Vec::new(), None),
        next_offset: GROUPS_START,
        chain: 0,
        incarnation: 1,
        spares: Vec::new(),
        trimmed: Lsn(0),
        last: Lsn(0),
        claimed: Lsn(0),
        fence: false,
        left_behind: 0,
        encryptor: encryptor(disk, options)?,
    };
    Ok((start, recovery))
}
