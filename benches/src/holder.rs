//! A log held open by a process of its own, which is killed with -9.
//!
//! What an opening costs after a crash, and what memory a log keeps, can only be told of a process that does nothing
//! else. The program `compare` starts itself again with [`ROLE`] as its first argument; that process opens a
//! log, says what that cost, appends as many records as it was told to, says what memory that took, and waits to be
//! killed. It is told nothing else, and ends too if whoever started it is gone.
//!
//! Both logs get the same: batches of `BATCH` records, each batch synced. Bytes read are the kernel's count of what
//! the process has asked for by reading (`rchar`), wherever it came from; memory is what the kernel has given the process
//! that is no file's (`RssAnon`).

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use ::protobuf::well_known_types::BytesValue;
use ::raft_engine::{Engine, LogBatch, ReadableSize};
use serde::{Deserialize, Serialize};
use strandline_wal::disk::RealDisk;
use strandline_wal::{Options, Wal};

use crate::peers::raft_engine::{Indexed, config};
use crate::random::Random;
use crate::{Error, Result};

/// The first argument of the process that holds a log.
pub const ROLE: &str = "hold-log";
/// Records that one sync makes durable.
const BATCH: u64 = 64;
/// The part of the records after which memory is looked at first: what a log needs however small it is, it has by then.
const SETTLED_PART: u64 = 4;
/// raft-engine's: no file of it is ever due to go.
const PURGE_GIB: u64 = 64;
/// Bytes of noise that payloads are cut from.
const NOISE_LEN: usize = 8 << 20;
/// Of raft-engine's log.
const REGION: u64 = 1;

/// Whose log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Ours.
    Strandline,
    /// raft-engine's.
    RaftEngine,
}

impl Log {
    /// Both.
    pub const ALL: [Log; 2] = [Log::Strandline, Log::RaftEngine];

    /// As rows name it.
    pub fn name(self) -> &'static str {
        match self {
            Log::Strandline => "strandline",
            Log::RaftEngine => "raft-engine",
        }
    }
}

/// What an opening cost and what the log then kept in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// How long the opening took, in microseconds.
    pub open_us: f64,
    /// Bytes that the process read for it.
    pub bytes_read: f64,
    /// What the opening may read at most: ours promises three blocks of each segment and one segment whole.
    pub bytes_promised: Option<f64>,
    /// Bytes of memory for each record, from a quarter of them on.
    pub memory_per_record: f64,
}

/// The process.
#[derive(Debug)]
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // SIGKILL; both fail only if it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets a process open the log in `dir`, append `records` records of `len` bytes, and kills it.
///
/// # Errors
///
/// If the process cannot be started, or says something else than what it was asked for.
pub fn hold(log: Log, dir: &Path, records: u64, len: usize) -> Result<Held> {
    let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
    let child = Command::new(&program)
        .arg(ROLE)
        .arg(log.name())
        .arg(dir)
        .args([records.to_string(), len.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::io("start", &program))?;
    let mut holder = Holder(child);
    let stdout = holder.0.stdout.take().expect("it was asked for");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(Error::io("read from", &program))?;
    serde_json::from_str(&line).map_err(Error::store(log.name(), "be held by a process"))
}

/// The process's own part, if it was started for that: opens, appends, says what it found, and waits. Returns only if it
/// was not started for that (`None`), or with why it could not.
pub fn run_if_asked() -> Option<Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, name, dir, records, len] = &arguments[..] else { return None };
    if role != ROLE {
        return None;
    }
    let log = Log::ALL.into_iter().find(|log| log.name() == name)?;
    let (records, len) = (records.parse().ok()?, len.parse().ok()?);
    let held = match log {
        Log::Strandline => hold_ours(Path::new(dir), records, len),
        Log::RaftEngine => hold_theirs(Path::new(dir), records, len),
    };
    held.err()
}

/// Says what was found, and waits for the end.
fn say_and_wait(held: &Held) {
    let line = serde_json::to_string(held).expect("plain numbers");
    // Nobody to tell if the other end is gone: then so is the wish to know.
    let _ = writeln!(std::io::stdout(), "{line}");
    let _ = std::io::stdin().read(&mut [0]);
    std::process::abort();
}

fn hold_ours(dir: &Path, records: u64, len: usize) -> Result<()> {
    const NAME: &str = "strandline";
    let (started, before) = (Instant::now(), counted("/proc/self/io", "rchar:"));
    let disk = RealDisk::open(dir, None).map_err(Error::store(NAME, "open the disk"))?;
    let options = Options::default();
    let segment_size = options.segment_size;
    let (wal, _) =
        Wal::open(Arc::new(disk), dir, options).map_err(Error::store(NAME, "open the log"))?;
    let open_us = started.elapsed().as_secs_f64() * 1e6;
    let bytes_read = counted("/proc/self/io", "rchar:") - before;
    let stats = wal.stats();
    let files = u32::try_from(stats.segments_in_use + stats.spares).unwrap_or(u32::MAX);
    let segment = f64::from(u32::try_from(segment_size).unwrap_or(u32::MAX));
    // A block of each file for the header, the first group's header and the footer.
    let bytes_promised = Some(f64::from(files) * 3.0 * 4096.0 + segment);
    let mut payloads = Payloads::new(len);
    let memory_per_record = fill(records, &mut |count| {
        for _ in 1..count {
            wal.append(payloads.cut()).map_err(Error::store(NAME, "append"))?;
        }
        let last = wal.append(payloads.cut()).map_err(Error::store(NAME, "append"))?;
        wal.wait(last).map_err(Error::store(NAME, "sync"))
    })?;
    say_and_wait(&Held { open_us, bytes_read, bytes_promised, memory_per_record });
    Ok(())
}

fn hold_theirs(dir: &Path, records: u64, len: usize) -> Result<()> {
    const NAME: &str = "raft-engine";
    let mut config = config(dir);
    config.purge_threshold = ReadableSize::gb(PURGE_GIB);
    // It fills files for half of what is kept before any may go: none will, so none are filled.
    config.prefill_for_recycle = false;
    config.enable_log_recycle = false;
    let (started, before) = (Instant::now(), counted("/proc/self/io", "rchar:"));
    let engine = Engine::open(config).map_err(Error::store(NAME, "open"))?;
    let open_us = started.elapsed().as_secs_f64() * 1e6;
    let bytes_read = counted("/proc/self/io", "rchar:") - before;
    let mut index = engine.last_index(REGION).unwrap_or(0);
    let mut payloads = Payloads::new(len);
    let mut batch = LogBatch::with_capacity(1);
    let memory_per_record = fill(records, &mut |count| {
        let mut entries = Vec::new();
        for _ in 0..count {
            index += 1;
            let mut entry = BytesValue::new();
            entry.value = payloads.cut().to_vec();
            entry.value[..8].copy_from_slice(&index.to_le_bytes());
            entries.push(entry);
        }
        batch.add_entries::<Indexed>(REGION, &entries).map_err(Error::store(NAME, "encode"))?;
        engine.write(&mut batch, true).map_err(Error::store(NAME, "append"))?;
        Ok(())
    })?;
    say_and_wait(&Held { open_us, bytes_read, bytes_promised: None, memory_per_record });
    Ok(())
}

/// Appends the records, some at a time; bytes of memory for each record from a part of them on.
fn fill(records: u64, append: &mut dyn FnMut(u64) -> Result<()>) -> Result<f64> {
    let settled = records / SETTLED_PART;
    let (mut done, mut first) = (0, None);
    while done < records {
        if done >= settled && first.is_none() {
            first = Some((done, counted("/proc/self/status", "RssAnon:")));
        }
        let count = BATCH.min(records - done);
        append(count)?;
        done += count;
    }
    let Some((at, memory)) = first else { return Ok(0.0) };
    let grown = (counted("/proc/self/status", "RssAnon:") - memory) * 1024.0;
    Ok(grown / crate::workload::f64_of(records - at))
}

/// Payloads that no log makes smaller: cut one after the other from noise that is longer than what a compressor looks
/// back on. The same payload again and again would let one that compresses its batches write and read next to nothing.
struct Payloads {
    noise: Vec<u8>,
    len: usize,
    /// Where the next one begins.
    at: usize,
}

impl Payloads {
    /// Of so many bytes each; eight at the least, as raft-engine's begin with their index.
    fn new(len: usize) -> Payloads {
        let len = len.max(8);
        Payloads { noise: Random::new(7).bytes(NOISE_LEN.max(len)), len, at: 0 }
    }

    fn cut(&mut self) -> &[u8] {
        if self.at + self.len > self.noise.len() {
            self.at = 0;
        }
        let start = self.at;
        self.at += self.len;
        &self.noise[start..self.at]
    }
}

/// A number that the kernel keeps of this process; 0 if it does not.
fn counted(file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_this_process() {
        assert!(counted("/proc/self/status", "RssAnon:") > 0.0);
        assert!(counted("/proc/self/io", "rchar:") > 0.0);
        assert_eq!(
            counted("/proc/self/io", "no such name").total_cmp(&0.0),
            std::cmp::Ordering::Equal
        );
    }

    #[test]
    fn all_records_are_appended_in_batches() {
        let mut counts = Vec::new();
        fill(150, &mut |count| {
            counts.push(count);
            Ok(())
        })
        .unwrap();
        assert_eq!(counts, [64, 64, 22]);
        assert_eq!(fill(0, &mut |_| Ok(())).unwrap().total_cmp(&0.0), std::cmp::Ordering::Equal);
    }

    #[test]
    fn payloads_are_new_until_the_noise_is_over() {
        let mut payloads = Payloads::new(NOISE_LEN / 2 - 1);
        let [first, second, third] = [(); 3].map(|()| payloads.cut().to_vec());
        assert_ne!(first, second);
        assert_eq!(first, third, "from the beginning");
        assert_eq!(Payloads::new(1).cut().len(), 8);
    }

    #[test]
    fn a_process_that_is_asked_for_nothing_is_not_a_holder() {
        assert!(run_if_asked().is_none());
    }
}
