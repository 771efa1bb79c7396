//! A workload over the log on the simulated disk, and what must hold after any fault.
//!
//! The model is simple: what was acknowledged is there, with its bytes; what was refused is not; what
//! was appended and not acknowledged is there whole or not at all. Everything a recovery showed as
//! durable survives the next power cut, even if nothing was written in between.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub(crate) mod cipher;
pub(crate) mod pair;
pub(crate) mod read_back;
pub(crate) mod small_log;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::simulated::{Fault, Random, SimulatedDisk, Survival};
use strandline_wal::{Error, Keyring, Lsn, Options, Wal};

/// Where the log lives.
pub(crate) const DIR: &str = "/log";

/// How a disk is driven: one for each family of rungs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// `pwritev2`: each write in the thread that asks for it, several at once.
    Threads,
    /// `io_uring`: writes are queued and end in any order.
    Ring,
    /// The same on a disk of small sectors.
    RingOfSmallSectors,
    /// `direct-fdatasync`: one at a time.
    Single,
    /// `buffered-fdatasync`, `fsync`: one at a time, hardly aligned.
    Buffered,
}

impl Family {
    pub(crate) const ALL: [Family; 5] = [
        Family::Threads,
        Family::Ring,
        Family::RingOfSmallSectors,
        Family::Single,
        Family::Buffered,
    ];

    /// Lets the disk, and the logs of this thread, be driven so.
    pub(crate) fn set_up(self, disk: &SimulatedDisk) {
        disk.set_stepped(matches!(self, Family::Ring | Family::RingOfSmallSectors));
        let is_small = matches!(self, Family::RingOfSmallSectors | Family::Buffered);
        disk.set_alignment(if is_small { 512 } else { 4096 });
        DEPTH_MAX.set(usize::from(matches!(self, Family::Single | Family::Buffered)));
    }
}

thread_local! {
    /// See [`Options::depth_max`].
    static DEPTH_MAX: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    /// See [`Options::compress`].
    static COMPRESS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// See [`Options::encryption`].
    static KEYRING: std::cell::RefCell<Option<Keyring>> = const { std::cell::RefCell::new(None) };
}

/// Whether the logs of this thread are compressed.
pub(crate) fn set_compress(compress: bool) {
    COMPRESS.set(compress);
}

/// The keys of the logs of this thread.
pub(crate) fn set_keyring(keyring: Option<Keyring>) {
    KEYRING.set(keyring);
}

/// Small segments, so that a short workload crosses many of them.
pub(crate) fn options() -> Options {
    Options {
        segment_size: 64 << 10,
        spares: 1,
        group_size_max: 8 << 10,
        pending_size_max: 32 << 10,
        // As much in flight as the disk bears: more that can go wrong.
        depth: usize::MAX,
        background: false,
        new_log_id: 77,
        depth_max: DEPTH_MAX.get(),
        compress: COMPRESS.get(),
        encryption: KEYRING.with_borrow(Clone::clone),
        ..Options::default()
    }
}

/// What is known of the log's content.
#[derive(Default)]
pub(crate) struct Model {
    /// Every payload that may stand at a position: the last one is the one appended last, and the
    /// only one once it was acknowledged.
    pub taken: BTreeMap<u64, Vec<Vec<u8>>>,
    /// Everything up to here was acknowledged.
    pub acknowledged: u64,
    /// Positions up to here may be gone because they were trimmed.
    pub trimmed: u64,
    /// How many appends were acknowledged.
    pub count: u64,
}

impl Model {
    fn acknowledge(&mut self, lsn: u64) {
        for (_, payloads) in self.taken.range_mut(..=lsn) {
            let last = payloads.len() - 1;
            payloads.drain(..last);
        }
        self.count += lsn.saturating_sub(self.acknowledged);
        self.acknowledged = self.acknowledged.max(lsn);
    }

    /// What a recovery has shown is what counts from then on.
    fn settle(&mut self, found: &BTreeMap<u64, Vec<u8>>) {
        let last = found.keys().next_back().copied().unwrap_or(0);
        self.taken.retain(|lsn, _| *lsn <= last);
        for (lsn, payload) in found {
            self.taken.insert(*lsn, vec![payload.clone()]);
        }
        self.acknowledged = self.acknowledged.max(last);
    }
}

/// Runs `steps` steps; returns early with the error if the log cannot go on.
pub(crate) fn work(
    disk: &Arc<SimulatedDisk>,
    random: &mut Random,
    model: &mut Model,
    steps: usize,
) -> Result<(), Error> {
    let (mut wal, _) = Wal::open(disk.clone(), Path::new(DIR), options())?;
    for _ in 0..steps {
        match random.below(24) {
            0 => {
                let last = wal.last().0;
                wal.close()?;
                model.acknowledge(last);
                drop(wal);
                (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options())?;
            }
            1 | 2 => {
                let lsn = model.acknowledged.saturating_sub(random.below(20));
                model.trimmed = model.trimmed.max(lsn);
                wal.trim(Lsn(lsn));
                tolerate(wal.prepare(false))?;
            }
            3 => tolerate(wal.prepare(true))?,
            4 => truncate(&wal, random, model)?,
            5 => disk.set_full(random.below(3) == 0),
            _ => append(&wal, random, model)?,
        }
    }
    disk.set_full(false);
    let last = wal.last().0;
    wal.close()?;
    model.acknowledge(last);
    Ok(())
}

fn truncate(wal: &Wal, random: &mut Random, model: &mut Model) -> Result<(), Error> {
    let last = Lsn(wal.durable().0.saturating_sub(random.below(3)));
    if last.0 >= model.trimmed && last.next() >= wal.first() {
        // What is truncated is not acknowledged any more; it may come back until the next group
        // is durable.
        model.acknowledged = model.acknowledged.min(last.0);
        wal.truncate(last)?;
    }
    Ok(())
}

fn append(wal: &Wal, random: &mut Random, model: &mut Model) -> Result<(), Error> {
    let count = 1 + random.below(3);
    let payloads: Vec<Vec<u8>> = (0..count)
        .map(|_| {
            let mut payload = vec![0; random.index(3000)];
            // Some of what can be compressed is worth it, and some is not.
            let noise = if COMPRESS.get() { payload.len() / 2 } else { payload.len() };
            random.fill(&mut payload[..noise]);
            payload
        })
        .collect();
    let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let before = wal.last().0;
    let lsn = match wal.append_all(&slices) {
        Ok(lsn) => lsn,
        Err(Error::Full { .. }) => {
            assert_eq!(wal.last().0, before, "a refused batch leaves nothing behind");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for (payload, at) in payloads.into_iter().zip(lsn.0 + 1 - count..) {
        model.taken.entry(at).or_default().push(payload);
    }
    if random.below(4) > 0 {
        wal.wait(lsn)?;
        assert!(wal.durable() >= lsn, "what was waited for is durable");
        model.acknowledge(lsn.0);
    }
    Ok(())
}

/// A full disk is no reason to stop.
fn tolerate(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_full() => Ok(()),
        result => result,
    }
}

/// Opens the log, compares it with the model, and takes over what it shows.
pub(crate) fn check(disk: &Arc<SimulatedDisk>, model: &mut Model) -> Result<(), String> {
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options())
        .map_err(|error| format!("refused to open: {error}"))?;
    let mut reader = wal.reader(wal.first());
    let mut found = BTreeMap::new();
    while let Some(records) = reader.next_records().map_err(|error| format!("reading: {error}"))? {
        for record in records.iter() {
            let (lsn, record) = record.map_err(|refusal| format!("a record: {refusal}"))?;
            found.insert(lsn.0, record.payload.to_vec());
        }
    }
    // They are found by who seeks them, too: in segments that were sealed before by their footers.
    for (lsn, payload) in found.iter().step_by(5) {
        let records = wal.reader(Lsn(*lsn)).next_records();
        let records = records.map_err(|error| format!("seeking {lsn}: {error}"))?;
        let is_found = records.is_some_and(|records| {
            let first = records.iter().next();
            first.is_some_and(|one| {
                one.is_ok_and(|(at, record)| (at.0, record.payload) == (*lsn, payload))
            })
        });
        if !is_found {
            return Err(format!("position {lsn} is not found by who seeks it"));
        }
    }
    for (lsn, payloads) in &model.taken {
        match found.get(lsn) {
            Some(other) if payloads.contains(other) => {}
            Some(_) => return Err(format!("position {lsn} has other bytes than were appended")),
            None if *lsn <= model.acknowledged && *lsn > model.trimmed => {
                return Err(format!("position {lsn} was acknowledged and is gone"));
            }
            None => {}
        }
    }
    if let Some(lsn) = found.keys().find(|lsn| !model.taken.contains_key(lsn)) {
        return Err(format!("position {lsn} was never taken"));
    }
    model.settle(&found);
    Ok(())
}

/// What one seed went through.
#[derive(Default)]
pub(crate) struct Outcome {
    pub acknowledged: u64,
    pub crashes: u64,
    pub event_hash: u64,
}

/// Several lives of one log, each ended by a fault, a crash or an orderly close.
pub(crate) fn run(seed: u64) -> Result<Outcome, String> {
    run_on(seed, None)
}

/// The same on a disk that is driven like one family of rungs, or one that the seed draws.
pub(crate) fn run_on(seed: u64, family: Option<Family>) -> Result<Outcome, String> {
    let mut random = Random::new(seed);
    let disk = SimulatedDisk::new(seed);
    let mut model = Model::default();
    let mut outcome = Outcome::default();
    let drawn = Family::ALL[random.index(Family::ALL.len())];
    family.unwrap_or(drawn).set_up(&disk);
    for _ in 0..1 + random.below(4) {
        disk.set_survival(Survival::draw(&mut random));
        if random.below(4) > 0 {
            // Failing writes and kills are drawn more often than the others.
            let fault = match random.below(4) {
                0 => Fault::Eio,
                // What is in the cache only needs a kill to be seen, and then a power cut.
                1 => Fault::Kill,
                _ => Fault::ALL[random.index(Fault::ALL.len())],
            };
            let at = disk.operations() + 1 + random.below(150);
            match fault {
                // The write that saves the failed one may fail too.
                Fault::Eio if random.below(2) == 0 => {
                    disk.fail_writes_from(at, 1 + random.below(8));
                }
                _ => disk.fail_at(at, fault),
            }
        }
        let ended = work(&disk, &mut random, &mut model, 40);
        disk.clear_faults();
        disk.set_full(false);
        if let Err(error @ Error::Corruption { .. }) = ended {
            return Err(format!("a crash was taken for damage: {error}"));
        }
        outcome.crashes += 1;
        match random.below(3) {
            _ if disk.restart().is_some() => {}
            0 => disk.kill(),
            _ => disk.power_cut(),
        }
        check(&disk, &mut model)?;
        if random.below(4) > 0 {
            // Nothing was written since the log was opened: all that it showed must be on disk.
            disk.power_cut();
            check(&disk, &mut model)?;
        }
    }
    outcome.acknowledged = model.count;
    outcome.event_hash = disk.event_hash();
    Ok(outcome)
}

/// A log of `count` records, closed in order, and its payloads.
fn written(disk: &Arc<SimulatedDisk>, random: &mut Random, count: u64) -> BTreeMap<u64, Vec<u8>> {
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options()).unwrap();
    let mut payloads = BTreeMap::new();
    for _ in 0..count {
        let mut payload = vec![0; 1 + random.index(300)];
        random.fill(&mut payload);
        let lsn = wal.append(&payload).unwrap();
        wal.wait(lsn).unwrap();
        payloads.insert(lsn.0, payload);
    }
    // Without this there would be nothing behind the last group that claims it.
    wal.close().unwrap();
    payloads
}

/// Reads a damaged log: it must show all records, or say that it is damaged; never less, never other.
fn read_damaged(
    disk: &Arc<SimulatedDisk>,
    payloads: &BTreeMap<u64, Vec<u8>>,
    suspect_is_word: bool,
) -> Result<bool, String> {
    let Ok((wal, recovery)) = Wal::open(disk.clone(), Path::new(DIR), options()) else {
        return Ok(true);
    };
    if suspect_is_word && recovery.tail != strandline_wal::Tail::Clean {
        return Ok(true);
    }
    let mut found = BTreeMap::new();
    let mut reader = wal.reader(Lsn(1));
    loop {
        match reader.next_records() {
            Ok(Some(records)) => {
                for record in records.iter() {
                    let Ok((lsn, record)) = record else { return Ok(true) };
                    found.insert(lsn.0, record.payload.to_vec());
                }
            }
            Ok(None) => break,
            Err(_) => return Ok(true),
        }
    }
    match found == *payloads {
        true => Ok(false),
        false => Err(format!("{} of {} records, and no word", found.len(), payloads.len())),
    }
}

/// One flipped bit anywhere in the active segment. Returns whether it was noticed.
pub fn flip(seed: u64, bit: Option<u64>, family: Family) -> Result<bool, String> {
    let mut random = Random::new(seed);
    let disk = SimulatedDisk::new(seed);
    family.set_up(&disk);
    let payloads = written(&disk, &mut random, 8);
    let path = Path::new(DIR).join("0000000000000001.segment");
    let bit = bit.unwrap_or_else(|| random.below(10 * 4096 * 8));
    disk.flip_bit(&path, bit);
    read_damaged(&disk, &payloads, false).map_err(|reason| format!("bit {bit}: {reason}"))
}

/// The last write lands, whole, on an older group of the same segment; then the process is killed.
pub fn misdirect(seed: u64, family: Family) -> Result<bool, String> {
    let mut random = Random::new(seed);
    let disk = SimulatedDisk::new(seed);
    family.set_up(&disk);
    let (wal, _) = Wal::open(disk.clone(), Path::new(DIR), options()).unwrap();
    let mut payloads = BTreeMap::new();
    let last = 2 + random.below(6);
    for count in 0..=last {
        let mut payload = vec![0; 1 + random.index(300)];
        random.fill(&mut payload);
        if count == last {
            disk.misdirect_next_write(4096 * (1 + random.below(count)));
        }
        let lsn = wal.append(&payload).unwrap();
        wal.wait(lsn).unwrap();
        payloads.insert(lsn.0, payload);
    }
    // Its own place stays empty, like the end of the log.
    disk.kill();
    drop(wal);
    // Nothing claims the last group: a suspect tail is all that one disk can say.
    read_damaged(&disk, &payloads, true)
}
