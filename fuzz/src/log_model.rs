//! A log on a simulated disk, beside a model of it: plain vectors.
//!
//! An input is a sequence of steps: appends, waits, trims, truncations, closings, faults, kills and
//! power cuts. At any time the log shows what the model has. After a crash it shows a beginning of what
//! was appended, with everything that was acknowledged; or, where a truncation had not become durable,
//! of what had been there before. Never a mixture, and never anything else.

use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::SimulatedDisk;
use strandline_wal::disk::simulated::{Fault, Survival};
use strandline_wal::{Error, Lsn, Options, Reader, Result, Wal};

use crate::{Choices, cipher};

const DIR: &str = "/log";

/// Steps of one input at most.
const STEPS_MAX: usize = 150;

/// The largest record of a segment of 64 KiB.
const PAYLOAD_LEN_MAX: usize = (64 << 10) - 3 * 4096 - 12;

/// A record as the model keeps it: its number, from which its bytes are made, and its length.
type Record = (u32, usize);

/// What is known of the log.
struct Model {
    /// What the log may hold, from position 1 on. The last one is the present. The others may come
    /// back: what was there before a truncation, or was written by a failed write that the disk has and its cache
    /// has not.
    branches: Vec<Vec<Record>>,
    /// Everything up to here was acknowledged.
    acknowledged: usize,
    /// Up to here the last branch and the one before are the same.
    fork: usize,
    /// Everything up to here may be dropped.
    trimmed: usize,
    /// The next record's number.
    number: u32,
}

/// A run.
struct Run<'a> {
    choices: Choices<'a>,
    disk: Arc<SimulatedDisk>,
    /// Whether groups are compressed.
    compress: bool,
    /// Whether they are encrypted.
    encrypt: bool,
    wal: Wal,
    model: Model,
    /// A reader that is left behind.
    reader: Option<Reader>,
    /// Whether a write may have failed since the last power cut: then the disk may hold what reads do not show.
    may_hide: bool,
}

/// See the module's documentation.
pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let seed = choices.any::<u8>();
    let disk = SimulatedDisk::new(seed.into());
    let (compress, encrypt) = (seed % 4 == 3, seed % 16 > 12);
    disk.set_stepped(choices.any());
    let wal = open(&disk, compress, encrypt).expect("a new log opens");
    let branches = vec![Vec::new()];
    let model = Model { branches, acknowledged: 0, fork: 0, trimmed: 0, number: 0 };
    let mut run =
        Run { choices, disk, compress, encrypt, wal, model, reader: None, may_hide: false };
    for _ in 0..STEPS_MAX {
        if run.choices.is_empty() {
            break;
        }
        if let Err(error) = run.step() {
            run.recover(&error);
        }
    }
    run.crash();
    // Nothing was written since the log was opened: all that it showed is on the disk.
    run.disk.power_cut();
    run.may_hide = false;
    run.compare();
}

fn open(disk: &Arc<SimulatedDisk>, compress: bool, encrypt: bool) -> Result<Wal> {
    let options = Options {
        compress,
        encryption: encrypt.then(cipher::encrypting),
        segment_size: 64 << 10,
        spares: 1,
        group_size_max: 8 << 10,
        pending_size_max: 32 << 10,
        background: false,
        new_log_id: 7,
        ..Options::default()
    };
    Ok(Wal::open(disk.mount(), Path::new(DIR), options)?.0)
}

/// The bytes of a record.
fn payload((number, len): Record) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn position(lsn: Lsn) -> usize {
    usize::try_from(lsn.0).expect("few records")
}

fn lsn(position: usize) -> Lsn {
    Lsn(u64::try_from(position).expect("few records"))
}

impl Model {
    fn present(&self) -> &[Record] {
        self.branches.last().expect("there is always a present")
    }

    /// Everything up to here is durable now: what was truncated before it cannot come back.
    fn acknowledge(&mut self, position: usize) {
        self.acknowledged = self.acknowledged.max(position);
        if position > self.fork {
            self.branches.drain(..self.branches.len() - 1);
        }
    }

    fn truncate(&mut self, position: usize) {
        if position < self.present().len() {
            let kept = self.present()[..position].to_vec();
            self.branches.push(kept);
            self.fork = if self.branches.len() > 2 { self.fork.min(position) } else { position };
            self.acknowledged = self.acknowledged.min(position);
        }
    }
}

impl Run<'_> {
    fn step(&mut self) -> Result<()> {
        match self.choices.below(20) {
            0..=5 => self.append(),
            6 => {
                let lsn = self.wal.last();
                self.wait(lsn)
            }
            7 => {
                let back = u64::from(self.choices.any::<u8>() % 8);
                let lsn = Lsn(self.wal.last().0.saturating_sub(back));
                self.wait(lsn)
            }
            8 => self.truncate(),
            9 => self.trim(),
            10 => tolerate(self.wal.prepare(self.choices.any())),
            11 => self.reopen(),
            12 => {
                let operation =
                    self.disk.operations() + 1 + u64::from(self.choices.any::<u8>() % 40);
                let fault = self.choices.pick(&Fault::ALL);
                self.may_hide |= !fault.is_crash();
                self.disk.fail_at(operation, fault);
                Ok(())
            }
            13 => {
                self.disk.set_full(self.choices.once_in(2));
                Ok(())
            }
            14 => {
                let chances = [0, 100, 500, 900, 1000];
                self.disk.set_survival(Survival::of(self.choices.pick(&chances)));
                Ok(())
            }
            15 => {
                let position = self.choices.below(self.model.present().len() + 2);
                self.reader = Some(self.wal.reader(lsn(position)));
                Ok(())
            }
            16 => self.follow(),
            17 => {
                self.disk.complete_one();
                Ok(())
            }
            18 => {
                self.crash();
                Ok(())
            }
            _ => self.compare_present(),
        }
    }

    fn append(&mut self) -> Result<()> {
        let count = 1 + self.choices.below(3);
        let mut records = Vec::new();
        for _ in 0..count {
            let len = match self.choices.below(8) {
                0 => self.choices.below(4),
                1 => self.choices.below(20_000),
                2 => PAYLOAD_LEN_MAX + self.choices.below(2),
                _ => self.choices.below(700),
            };
            records.push((self.model.number, len));
            self.model.number += 1;
        }
        let payloads: Vec<Vec<u8>> = records.iter().map(|record| payload(*record)).collect();
        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let is_too_large = records.iter().any(|(_, len)| *len > PAYLOAD_LEN_MAX);
        let before = self.wal.last();
        let appended = self.wal.append_all(&slices);
        match appended {
            Ok(last) => {
                assert!(!is_too_large, "what does not fit is refused");
                assert_eq!(position(last), position(before) + count, "positions are dense");
                self.model.branches.last_mut().expect("there is a present").extend(records);
                assert_eq!(position(last), self.model.present().len());
                Ok(())
            }
            Err(error) => {
                assert_eq!(self.wal.last(), before, "a refused append leaves nothing behind");
                match error {
                    Error::TooLarge { .. } => assert!(is_too_large),
                    error => return tolerate(Err(error)),
                }
                Ok(())
            }
        }
    }

    fn wait(&mut self, lsn: Lsn) -> Result<()> {
        self.wal.wait(lsn)?;
        assert!(self.wal.durable() >= lsn, "what was waited for is durable");
        self.model.acknowledge(position(lsn));
        Ok(())
    }

    fn truncate(&mut self) -> Result<()> {
        let last = self.model.present().len().saturating_sub(self.choices.below(6));
        self.reader = None;
        let all = self.model.present().len();
        match self.wal.truncate(lsn(last)) {
            Ok(()) => {
                self.model.acknowledge(all);
                self.model.truncate(last);
                assert_eq!(self.wal.last(), lsn(last));
                Ok(())
            }
            Err(Error::OutOfRange { .. }) => {
                assert!(last < self.model.trimmed, "what was not trimmed is there");
                self.model.acknowledge(all);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn trim(&mut self) -> Result<()> {
        let to = self.choices.below(self.model.present().len() + 1).min(self.model.acknowledged);
        self.model.trimmed = self.model.trimmed.max(to);
        self.wal.trim(lsn(to));
        tolerate(self.wal.prepare(false))
    }

    fn reopen(&mut self) -> Result<()> {
        self.wal.close()?;
        self.model.acknowledge(self.model.present().len());
        self.reader = None;
        if self.model.branches.len() > 1 {
            // What was truncated last may come back.
            self.compare();
            return Ok(());
        }
        self.wal = open(&self.disk, self.compress, self.encrypt)?;
        self.compare_present()
    }

    /// Lets the reader that was left behind go on.
    fn follow(&mut self) -> Result<()> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let from = reader.next_lsn();
        let records = match reader.next_records() {
            Ok(Some(records)) => records,
            Ok(None) => return Ok(()),
            Err(Error::OutOfRange { .. }) => {
                assert!(position(from) <= self.model.trimmed, "what was not trimmed is there");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut next = position(from);
        for record in records.iter() {
            let (lsn, record) = record.expect("memory does not change");
            assert_eq!(position(lsn), next, "records in order");
            assert!(record.payload == payload(self.model.present()[next - 1]));
            next += 1;
        }
        assert_eq!(position(reader.next_lsn()), next, "the reader is behind what it gave");
        Ok(())
    }

    /// All that is durable, as the model has it.
    fn compare_present(&mut self) -> Result<()> {
        let found = read(&self.wal)?;
        let durable = position(self.wal.durable());
        let first = position(self.wal.first());
        let present = self.model.present();
        assert_eq!(position(self.wal.last()), present.len());
        assert!(durable >= self.model.acknowledged && durable <= present.len());
        assert!(first <= self.model.trimmed + 1, "only what was trimmed is gone");
        assert!(first <= present.len() + 1, "a log begins at or before its end");
        let expected: Vec<_> = present[first.min(durable + 1) - 1..durable].to_vec();
        assert_eq!(found.len(), expected.len());
        for (found, record) in found.iter().zip(expected) {
            assert!(*found == payload(record), "record {} has other bytes", record.0);
        }
        Ok(())
    }

    /// Goes on after an error: with a crash, or by opening the log again in the same process.
    fn recover(&mut self, error: &Error) {
        assert!(!matches!(error, Error::Corruption { .. }), "a fault is taken for damage: {error}");
        self.reader = None;
        if !self.choices.any::<bool>() {
            let _ = self.wal.close();
            return self.compare();
        }
        self.crash();
    }

    fn crash(&mut self) {
        let crash = self.disk.restart().unwrap_or_else(|| match self.choices.once_in(2) {
            true => {
                self.disk.kill();
                Fault::Kill
            }
            false => {
                self.disk.power_cut();
                Fault::PowerCut
            }
        });
        self.may_hide &= crash != Fault::PowerCut;
        self.compare();
    }

    /// Opens the log and compares it with what may be there; that is then all that was there.
    fn compare(&mut self) {
        // Closing may have been what crashed.
        self.disk.restart();
        self.disk.clear_faults();
        self.disk.set_full(false);
        self.reader = None;
        self.wal =
            open(&self.disk, self.compress, self.encrypt).expect("a log without damage opens");
        let found = read(&self.wal).expect("a log without damage can be read");
        let first = position(self.wal.first());
        let last = position(self.wal.last());
        assert!(first <= self.model.trimmed + 1, "only what was trimmed is gone");
        assert_eq!(found.len(), (last + 1).saturating_sub(first), "all of it is read");
        assert!(last >= self.model.acknowledged, "acknowledged records are gone");
        let is_of = |branch: &Vec<Record>| {
            last <= branch.len()
                && found
                    .iter()
                    .zip(&branch[first.min(last + 1) - 1..])
                    .all(|(found, record)| *found == payload(*record))
        };
        let branch = self.model.branches.iter().rfind(|branch| is_of(branch));
        let branch = branch.expect("a beginning of what was appended")[..last].to_vec();
        if self.may_hide {
            // What failed and is not shown may come back with the next power cut, until something else
            // is durable in its place. Nobody was told that it was durable, nor that it was not.
            self.model.fork = last;
        } else {
            self.model.branches.clear();
            self.model.fork = 0;
        }
        self.model.branches.push(branch);
        // All that an opening has shown survives the next power cut.
        self.model.acknowledged = last;
    }
}

/// The payloads of all durable records that are still held.
fn read(wal: &Wal) -> Result<Vec<Vec<u8>>> {
    let mut reader = wal.reader(wal.first());
    let mut found = Vec::new();
    while let Some(records) = reader.next_records()? {
        for record in records.iter() {
            found.push(record.expect("memory does not change").1.payload.to_vec());
        }
    }
    Ok(found)
}

/// A full disk is no reason to stop.
fn tolerate(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_full() => Ok(()),
        result => result,
    }
}
