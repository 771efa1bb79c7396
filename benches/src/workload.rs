//! Many threads that write to a store, each waiting for its own write: the closed loop behind the
//! rows `append` and `put`. Connections to servers need no thread each: see `crowd`.
//!
//! Before a turn the file system is synced (what the one before has left dirty must not be written on
//! this one's time), the threads warm up, then the clock runs. Each thread keeps
//! a histogram of its own; they are added up at the end. A latency is the time from one
//! acknowledgement to the next of the same thread, which in a closed loop is when the write was meant
//! to start.
//!
//! Left out: a given rate (`strandline bench --rate`), and reading.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tempfile::TempDir;

use crate::crowd;
use crate::device::Counters;
use crate::random::Random;
use crate::rounds::{Contestant, QUANTILES, Turn};
use crate::{Error, Result};

/// Bytes of a key.
pub const KEY_LEN: usize = 16;
/// How many different keys there are: a cache does not hold the tables of all of them for nothing.
const KEYS: u64 = 1_000_000;
/// Bytes of noise from which values are cut, at the least; larger than the window of the usual compressors.
const NOISE_LEN_MIN: usize = 64 << 10;
/// Part of a turn that warms up and is not counted.
const WARM_UP_PART: u32 = 5;
/// Latencies beyond this are recorded as this, in nanoseconds: a minute is a hang.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

const WARMING_UP: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// An open store.
pub trait Store: Sync {
    /// The system call that makes an acknowledged write durable.
    fn durable_by(&self) -> String;

    /// How many synced writes or calls of sync it has made since it was opened, if it counts them.
    fn syncs(&self) -> Option<u64> {
        None
    }

    /// A writer for the thread with this number.
    ///
    /// # Errors
    ///
    /// If there can be no more.
    fn writer(&self, thread: usize) -> Result<Box<dyn Writer + '_>>;

    /// A connection, for stores in other processes: one thread drives all of them then, because on a small
    /// machine a thread for each would cost more than the servers.
    fn connection(&self) -> Option<Result<Box<dyn Connection>>> {
        None
    }
}

/// One thread's way to write.
pub trait Writer {
    /// Writes and waits until it is durable. A log leaves the key out.
    ///
    /// # Errors
    ///
    /// If the write was refused or its outcome is unknown.
    fn write(&mut self, key: &[u8; KEY_LEN], value: &[u8]) -> Result<()>;
}

/// A connection to a store in another process: one write at a time.
pub trait Connection: Send {
    /// What is readable when there is an answer.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Sends a write.
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    fn begin(&mut self, key: &[u8; KEY_LEN], value: &[u8]) -> Result<()>;

    /// Takes what has come, and waits if nothing has; whether that was the rest of the answer to what was
    /// sent last.
    ///
    /// # Errors
    ///
    /// If the write was refused or its outcome is unknown.
    fn end(&mut self) -> Result<bool>;
}

impl Writer for Box<dyn Connection> {
    fn write(&mut self, key: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
        self.begin(key, value)?;
        while !self.end()? {}
        Ok(())
    }
}

/// A store that can be opened.
#[derive(Clone, Copy, Debug)]
pub struct Opener {
    /// The name in the report.
    pub name: &'static str,
    /// Opens it in an empty directory.
    pub open: fn(&Path) -> Result<Box<dyn Store>>,
}

/// What the threads do.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many threads write.
    pub threads: usize,
    /// Bytes of a value.
    pub value_len: usize,
    /// How long the clock runs.
    pub duration: Duration,
}

/// A store that takes turns. It is opened at its first turn and stays open, so that files are made and
/// filled once and the later turns see a log that has been used before.
pub struct Durable {
    opener: Opener,
    shape: Shape,
    below: PathBuf,
    /// The open store and its directory; dropped in this order.
    open: Option<(Box<dyn Store>, TempDir)>,
    turns: u64,
}

impl Durable {
    /// A store that will be opened in a directory of its own below `below`.
    pub fn new(opener: Opener, shape: Shape, below: &Path) -> Durable {
        Durable { opener, shape, below: below.to_path_buf(), open: None, turns: 0 }
    }

    fn store(&mut self) -> Result<&dyn Store> {
        if self.open.is_none() {
            let dir = tempfile::Builder::new()
                .prefix(self.opener.name)
                .tempdir_in(&self.below)
                .map_err(Error::io("create a directory in", &self.below))?;
            self.open = Some(((self.opener.open)(dir.path())?, dir));
        }
        let (store, _) = self.open.as_ref().expect("opened just now");
        Ok(store.as_ref())
    }
}

impl Contestant for Durable {
    fn name(&self) -> &'static str {
        self.opener.name
    }

    fn turn(&mut self) -> Result<Turn> {
        let (shape, below, turns) = (self.shape, self.below.clone(), self.turns);
        self.turns += 1;
        let store = self.store()?;
        sync_file_system(&below)?;
        drive(store, shape, turns, &below)
    }
}

/// Writes out all that is dirty in the file system of `dir`.
pub(crate) fn sync_file_system(dir: &Path) -> Result<()> {
    let file = std::fs::File::open(dir).map_err(Error::io("open", dir))?;
    rustix::fs::syncfs(&file).map_err(std::io::Error::from).map_err(Error::io("sync", dir))
}

/// Lets the threads write until the time is over. `turn` gives each turn keys and values of its own; the
/// counters are those of the device under `dir`.
///
/// # Errors
///
/// The first error of any thread.
///
/// # Panics
///
/// If a store panics.
pub fn drive(store: &dyn Store, shape: Shape, turn: u64, dir: &Path) -> Result<Turn> {
    let phase = AtomicU8::new(WARMING_UP);
    let connections: Option<Vec<_>> = (0..shape.threads).map(|_| store.connection()).collect();
    let drivers = if connections.is_some() { 1 } else { shape.threads };
    let start = Barrier::new(drivers + 1);
    let (results, elapsed, device, syncs) = std::thread::scope(|scope| {
        let (phase, start) = (&phase, &start);
        let load = |number: usize| {
            let number = u64::try_from(number).expect("few threads");
            Load::new((turn << 32) + number, shape.value_len)
        };
        let threads: Vec<_> = match connections {
            Some(connections) => {
                let load = load(0);
                vec![scope.spawn(move || crowd::run(connections, load, phase, start))]
            }
            None => (0..drivers)
                .map(|thread| {
                    let load = load(thread);
                    scope.spawn(move || run_thread(store, thread, load, phase, start))
                })
                .collect(),
        };
        start.wait();
        std::thread::sleep(shape.duration / WARM_UP_PART);
        let before = (Counters::of(dir), store.syncs());
        let started = Instant::now();
        phase.store(COUNTING, Ordering::Relaxed);
        std::thread::sleep(shape.duration);
        phase.store(OVER, Ordering::Relaxed);
        let elapsed = started.elapsed();
        let device = Counters::of(dir).zip(before.0).map(|(after, before)| after.since(before));
        let syncs = store.syncs().zip(before.1).map(|(after, before)| after - before);
        let results: Vec<_> =
            threads.into_iter().map(|thread| thread.join().expect("no store panics")).collect();
        (results, elapsed, device, syncs)
    });
    let mut all = histogram();
    for result in results {
        all.add(result?).expect("all histograms have the same bounds");
    }
    let count = f64_of(all.len()).max(1.0);
    let payload_len = u64::try_from(shape.value_len).expect("a value fits into memory");
    Ok(Turn {
        ops_per_s: f64_of(all.len()) / elapsed.as_secs_f64(),
        p99_us: f64_of(all.value_at_quantile(0.99)) / 1e3,
        durable_by: store.durable_by(),
        latency_us: QUANTILES
            .map(|quantile| f64_of(all.value_at_quantile(quantile)) / 1e3)
            .to_vec(),
        flushes_per_op: device.map(|device| f64_of(device.flushes) / count),
        syncs_per_op: syncs.map(|syncs| f64_of(syncs) / count),
        device_bytes_per_payload_byte: device
            .map(|device| f64_of(device.bytes) / (count * f64_of(payload_len))),
        ..Turn::default()
    })
}

/// One thread: write, wait, note how long it took.
fn run_thread(
    store: &dyn Store,
    thread: usize,
    mut load: Load,
    phase: &AtomicU8,
    start: &Barrier,
) -> Result<Histogram<u64>> {
    let mut latencies = histogram();
    let writer = store.writer(thread);
    // Every thread comes to the barrier, or the others would wait for it for ever.
    start.wait();
    let mut writer = writer?;
    let mut before = Instant::now();
    loop {
        let (key, value) = load.next_pair();
        writer.write(&key, value)?;
        let now = Instant::now();
        if !note(&mut latencies, phase, now - before) {
            return Ok(latencies);
        }
        before = now;
    }
}

/// Records a latency if the clock runs; whether to go on.
pub(crate) fn note(latencies: &mut Histogram<u64>, phase: &AtomicU8, took: Duration) -> bool {
    match phase.load(Ordering::Relaxed) {
        WARMING_UP => {}
        COUNTING => {
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(LATENCY_MAX_NS);
            latencies.saturating_record(nanos.max(1));
        }
        _ => return false,
    }
    true
}

/// Keys and values, different ones for every seed.
#[derive(Debug)]
pub struct Load {
    random: Random,
    noise: Vec<u8>,
    value_len: usize,
}

impl Load {
    /// An endless supply.
    pub fn new(seed: u64, value_len: usize) -> Load {
        let mut random = Random::new(seed + 1);
        let noise = random.bytes(NOISE_LEN_MIN.max(value_len * 2));
        Load { random, noise, value_len }
    }

    /// A random key and a value that does not compress.
    pub fn next_pair(&mut self) -> ([u8; KEY_LEN], &[u8]) {
        let key = key(self.random.below(KEYS));
        let places = u64::try_from(self.noise.len() - self.value_len).expect("small");
        let at = usize::try_from(self.random.below(places)).expect("below a usize");
        (key, &self.noise[at..at + self.value_len])
    }
}

/// The key with this number; neighbours in number are not neighbours in order.
pub fn key(number: u64) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    key[8..].copy_from_slice(&number.to_le_bytes());
    key
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 2).expect("the bounds are in order")
}

/// A count as a number to divide by.
pub(crate) fn f64_of(count: u64) -> f64 {
    // Two exact halves: an `as` cast would do the same without saying that it may round.
    let high = u32::try_from(count >> 32).expect("32 bits");
    let low = u32::try_from(count & 0xffff_ffff).expect("32 bits");
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicU64);

    impl Store for Counter {
        fn durable_by(&self) -> String {
            "nothing".into()
        }
        fn writer(&self, _: usize) -> Result<Box<dyn Writer + '_>> {
            Ok(Box::new(&self.0))
        }
    }

    impl Writer for &AtomicU64 {
        fn write(&mut self, _: &[u8; KEY_LEN], value: &[u8]) -> Result<()> {
            assert_eq!(value.len(), 256);
            match self.fetch_add(1, Ordering::Relaxed) {
                10_000_000 => Err(Error::Unreadable { output: "full".into() }),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn what_is_counted_was_written() {
        let store = Counter::default();
        let duration = Duration::from_millis(20);
        let dir = tempfile::tempdir().unwrap();
        let shape = Shape { threads: 3, value_len: 256, duration };
        let turn = drive(&store, shape, 0, dir.path()).unwrap();
        let written = f64_of(store.0.load(Ordering::Relaxed));
        assert!(turn.ops_per_s * duration.as_secs_f64() <= written);
        assert!(turn.p99_us > 0.0);
    }

    #[test]
    fn an_error_of_one_thread_is_the_result() {
        let store = Counter(AtomicU64::new(10_000_000));
        let shape = Shape { threads: 2, value_len: 256, duration: Duration::from_millis(1) };
        assert!(drive(&store, shape, 0, Path::new(".")).is_err());
    }

    #[test]
    fn keys_differ() {
        let keys: std::collections::BTreeSet<_> = (0..1000).map(key).collect();
        assert_eq!(keys.len(), 1000);
    }

    #[test]
    fn large_counts_keep_their_size() {
        assert_eq!(f64_of(3 << 40).total_cmp(&3_298_534_883_328.0), std::cmp::Ordering::Equal);
    }
}
