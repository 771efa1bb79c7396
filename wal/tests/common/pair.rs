//! A log with a spare directory, each on a simulated disk, and what is known of it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use strandline_wal::disk::Disk;
use strandline_wal::disk::simulated::{SimulatedDisk, Survival};
use strandline_wal::{Error, Lsn, Options, Recovery, SpareDirectory, Wal};

use super::{DIR, Family, options};

pub(crate) const SPARE: &str = "/spare";
/// How long a write may take in these tests.
pub(crate) const STALL_MILLIS: u64 = 2;

/// Two disks and what is known of the log on them.
pub(crate) struct Pair {
    pub own: Arc<SimulatedDisk>,
    pub spare: Arc<SimulatedDisk>,
    pub stall_millis: u64,
    pub appended: BTreeMap<u64, Vec<u8>>,
    pub acknowledged: u64,
    pub trimmed: u64,
}

impl Pair {
    pub(crate) fn new(seed: u64, family: Family) -> Self {
        let (own, spare) = (SimulatedDisk::new(seed), SimulatedDisk::new(seed + 1));
        family.set_up(&own);
        family.set_up(&spare);
        let appended = BTreeMap::new();
        Self { own, spare, stall_millis: 0, appended, acknowledged: 0, trimmed: 0 }
    }

    pub(crate) fn directory(&self) -> SpareDirectory {
        SpareDirectory { disk: self.spare.mount(), dir: SPARE.into() }
    }

    pub(crate) fn open(&self) -> Result<(Wal, Recovery), Error> {
        let (spare, stall_millis) = (Some(self.directory()), self.stall_millis);
        let options = Options { spare, stall_millis, ..options() };
        Wal::open(self.own.mount(), Path::new(DIR), options)
    }

    pub(crate) fn open_alone(&self) -> Result<(Wal, Recovery), Error> {
        Wal::open(self.own.mount(), Path::new(DIR), options())
    }

    pub(crate) fn append(&mut self, wal: &Wal, number: u8) -> Option<Lsn> {
        let payload = vec![number.max(1); 300 + 900 * usize::from(number % 7)];
        match wal.append(&payload) {
            Ok(lsn) => {
                self.appended.insert(lsn.0, payload);
                Some(lsn)
            }
            Err(error) => {
                expected(&error);
                None
            }
        }
    }

    /// Appends and waits; returns how many were refused.
    pub(crate) fn work(&mut self, wal: &Wal, count: u8) -> u64 {
        let mut refused = 0;
        for number in 0..count {
            let Some(lsn) = self.append(wal, number) else {
                refused += 1;
                continue;
            };
            if number % 3 == 0 {
                continue;
            }
            match wal.wait(lsn) {
                Ok(()) => self.acknowledged = lsn.0,
                Err(error) => {
                    expected(&error);
                    refused += 1;
                }
            }
            if number % 5 == 0 {
                let _ = wal.prepare(number % 2 == 0);
            }
        }
        refused
    }

    /// Longer than a write may take: the clock of these disks goes on by what is done to them.
    pub(crate) fn let_time_pass(&self) {
        let now = self.own.now();
        while self.own.now() < now + 2 * Duration::from_millis(STALL_MILLIS) {
            self.own.exists(Path::new(DIR)).unwrap();
        }
    }

    /// The power fails on both, and what was to fail is forgotten.
    pub(crate) fn power_cut(&self, survival: Survival) {
        for disk in [&self.own, &self.spare] {
            disk.clear_faults();
            disk.set_survival(survival);
            disk.power_cut();
        }
    }

    /// All that was acknowledged is there, and nothing else than was appended.
    pub(crate) fn check(&self, wal: &Wal, what: &str) {
        let mut last = self.trimmed;
        let mut reader = wal.reader(Lsn(self.trimmed.max(wal.first().0.saturating_sub(1)) + 1));
        while let Some(records) = reader.next_records().unwrap() {
            for record in records.iter() {
                let (lsn, record) = record.unwrap();
                let was = self.appended.get(&lsn.0);
                assert_eq!(was.map(Vec::as_slice), Some(record.payload), "{what}: position {lsn}");
                last = lsn.0;
            }
        }
        assert!(last >= self.acknowledged, "{what}: {last} of {}", self.acknowledged);
    }

    pub(crate) fn reopen(&mut self, what: &str) -> Wal {
        let (wal, _) = self.open().unwrap_or_else(|error| panic!("{what}: {error}"));
        self.check(&wal, what);
        // What was not acknowledged and is gone may be given anew.
        self.appended.retain(|lsn, _| *lsn <= wal.last().0);
        self.acknowledged = wal.last().0;
        wal
    }
}

pub(crate) fn expected(error: &Error) {
    let is_known = matches!(error, Error::Poisoned { .. } | Error::Io { .. } | Error::Full { .. });
    assert!(is_known, "{error}");
}
