//! A log with everything in it, for those that damage it: groups of one and of several records, empty and
//! large ones, markers, a suffix that was truncated, a recycled segment, spares.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::simulated::{Random, SimulatedDisk};
use strandline_wal::{Lsn, Wal};

use super::{DIR, options};

/// How the life of the log ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Closed,
    Idle,
    Killed,
}

/// The log, at rest, and what is known of it.
pub(crate) struct Log {
    pub disk: Arc<SimulatedDisk>,
    /// Every record that it holds.
    pub records: BTreeMap<u64, Vec<u8>>,
    /// The newest segment.
    pub newest: PathBuf,
    /// A position that nothing on the disk claims, if there is one, and all after it.
    pub unclaimed: Option<u64>,
}

pub(crate) fn payload(lsn: u64, turn: u8) -> Vec<u8> {
    let len = match lsn % 9 {
        0 => 0,
        4 => 5000,
        7 => 12_000,
        other => usize::try_from(other * 13).unwrap(),
    };
    // Half of it is noise: what is compressed takes more than a block, too.
    let mut payload = vec![u8::try_from(lsn).unwrap() ^ turn; len];
    Random::new(lsn << 8 | u64::from(turn)).fill(&mut payload[..len / 2]);
    payload
}

pub(crate) fn written(end: End) -> Log {
    let disk = SimulatedDisk::new(1);
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options()).unwrap();
    let append = |count: u64, turn: u8| {
        let next = wal.last().0 + 1;
        let payloads: Vec<_> = (next..next + count).map(|lsn| payload(lsn, turn)).collect();
        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let lsn = wal.append_all(&slices).unwrap();
        wal.wait(lsn).unwrap();
    };
    // The first segment is filled, trimmed and put to use again as the last.
    while wal.stats().segments_in_use < 2 {
        append(3, 1);
    }
    let trimmed = wal.last().0 - 3;
    append(2, 1);
    wal.prepare(true).unwrap();
    append(4, 1);
    wal.truncate(Lsn(wal.last().0 - 3)).unwrap();
    let turned = wal.last().0 + 1;
    append(1, 2);
    wal.trim(Lsn(trimmed));
    wal.prepare(false).unwrap();
    while wal.stats().segments_in_use < 4 {
        append(2, 2);
    }
    append(1, 2);
    wal.prepare(true).unwrap();
    append(3, 2);
    append(1, 2);
    let last = wal.last().0;
    let first = wal.first().0;
    match end {
        End::Closed => wal.close().unwrap(),
        End::Idle => wal.prepare(true).unwrap(),
        End::Killed => {}
    }
    let disk = disk.fork(1);
    let turn = |lsn| if lsn < turned { 1 } else { 2 };
    let records = (first..=last).map(|lsn| (lsn, payload(lsn, turn(lsn)))).collect();
    let newest = disk.files().into_iter().filter(|file| file.path.extension().is_some());
    let newest = newest
        .max_by_key(|file| {
            let content = disk.visible_content(&file.path).unwrap();
            u64::from_le_bytes(content[16..24].try_into().unwrap())
        })
        .unwrap()
        .path;
    Log { disk, records, newest, unclaimed: (end == End::Killed).then_some(last) }
}
