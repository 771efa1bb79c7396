//! `doctor`: what this disk and this system can do, and what to change.
//!
//! The disk is tried on the spot (see [`strandline_wal::disk::probe`]): it takes a second or two and
//! leaves nothing behind. Limits and memory are asked of the system. Advice is what follows from both
//! by rules that are stated here, each with its bound.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use strandline_wal::disk::{ProbeReport, Rung, Verdict, probe};

use super::error::{self, Error, Result};

/// Each connection takes a descriptor, and each table and segment too.
const DESCRIPTORS_MIN: u64 = 10_240;
/// Segments, their spares and two compactions of the first levels fit into this.
const FREE_BYTES_MIN: u64 = 2 << 30;
/// Memtables, block cache and connections of the defaults fit into this.
const MEMORY_BYTES_MIN: u64 = 512 << 20;
/// A durable write that takes longer than this is slow for anything that is sold as a disk.
const MEDIAN_MICROS_MAX: u64 = 5_000;
/// How many times the median the 99th percentile may be.
const TAIL_FACTOR_MAX: u64 = 20;

/// Say what this disk and system can do, and what to change.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Where the data is, or will be; it must exist.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the examination: exit code 0 if it ran, whatever it found, 3 if it could not.
pub(crate) fn run(args: DoctorArgs) -> ExitCode {
    let outcome = examine(&args).map(|report| {
        match args.json {
            true => println!("{}", report.json()),
            false => print!("{}", report.text()),
        }
        true
    });
    error::exit("doctor", outcome)
}

/// What was found.
#[derive(Debug)]
struct Report {
    disk: ProbeReport,
    /// How many files may be open; `None` is without bound.
    descriptors: Option<u64>,
    /// Up to how many that may be raised without privileges.
    descriptors_hard: Option<u64>,
    /// Memory that can be had, in bytes, if the system tells.
    memory_available: Option<u64>,
    /// The bound of our control group, if there is one.
    memory_max: Option<u64>,
    /// How many threads run at once.
    processors: usize,
}

fn examine(args: &DoctorArgs) -> Result<Report> {
    // Before anything is tried: a file of the wrong kind gets a better message here.
    let directory = fs::metadata(&args.dir).and_then(|found| match found.is_dir() {
        true => Ok(()),
        false => Err(std::io::ErrorKind::NotADirectory.into()),
    });
    directory.map_err(|source| Error::Path {
        operation: "examine",
        path: args.dir.clone(),
        source,
    })?;
    let limit = getrlimit(Resource::Nofile);
    let kilobytes = |name: &str| {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    Ok(Report {
        disk: probe(&args.dir)?,
        descriptors: limit.current,
        descriptors_hard: limit.maximum,
        memory_available: kilobytes("MemAvailable:"),
        memory_max: group.and_then(|text| text.trim().parse().ok()),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
    })
}

impl Report {
    /// What to change, most important first.
    fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        let disk = &self.disk;
        if disk.file_system.in_memory {
            advice.push(
                "this file system is in memory: nothing here survives a power cut; choose a \
                 directory on a disk"
                    .into(),
            );
        }
        if disk.file_system.free_bytes < FREE_BYTES_MIN {
            advice.push("less than 2 GiB are free: a full disk refuses writes; make room".into());
        }
        match &disk.device {
            Some(device) if !device.needs_no_flush() && device.volatile_cache == Some(true) => {
                advice.push(format!(
                    "{} has a volatile cache and no FUA: every durable write flushes the whole \
                     cache; a disk with power loss protection is much faster",
                    device.name
                ));
            }
            _ => {}
        }
        if !matches!(disk.chosen, Rung::IoUring | Rung::Pwritev2) && !disk.file_system.in_memory {
            advice.push(format!(
                "only {} works well here: ext4 or xfs on a local disk allow better ways",
                disk.chosen
            ));
        }
        if let Some(reason) = &disk.io_uring_refused {
            advice.push(format!(
                "io_uring is not allowed ({reason}): see /proc/sys/kernel/io_uring_disabled and, in \
                 a container, its seccomp profile; pwritev2 is nearly as good on many disks"
            ));
        }
        advice.extend(self.advice_on_speed());
        if self.descriptors.is_some_and(|count| count < DESCRIPTORS_MIN) {
            advice.push(format!(
                "only {} files may be open: raise it (ulimit -n {DESCRIPTORS_MIN}, or LimitNOFILE= \
                 of the service) if there are many connections",
                shown(self.descriptors)
            ));
        }
        if self.memory().is_some_and(|bytes| bytes < MEMORY_BYTES_MIN) {
            advice.push("less than 512 MiB of memory can be had: lower the memory settings".into());
        }
        advice
    }

    fn advice_on_speed(&self) -> Option<String> {
        let chosen = self.disk.rungs.iter().find(|one| one.rung == self.disk.chosen)?;
        let Verdict::Works(timing) = &chosen.verdict else { return None };
        if timing.median_micros > MEDIAN_MICROS_MAX {
            return Some(format!(
                "a durable write takes {} us: that is slow; many connections, or pipelining, share \
                 one",
                timing.median_micros
            ));
        }
        if timing.p99_micros > timing.median_micros.saturating_mul(TAIL_FACTOR_MAX) {
            return Some(format!(
                "one durable write of a hundred takes {} us, the median {} us: something else uses \
                 this disk, or it is bounded from outside",
                timing.p99_micros, timing.median_micros
            ));
        }
        None
    }

    /// Memory that this process can have.
    fn memory(&self) -> Option<u64> {
        match (self.memory_available, self.memory_max) {
            (Some(available), Some(max)) => Some(available.min(max)),
            (available, max) => available.or(max),
        }
    }

    fn text(&self) -> String {
        let advice = self.advice();
        let mut text = format!("{}\n", self.disk);
        text += &format!(
            "open files         {} (at most {})\n",
            shown(self.descriptors),
            shown(self.descriptors_hard)
        );
        let memory = self.memory().map_or("unknown".into(), |bytes| format!("{} MiB", bytes >> 20));
        text += &format!("memory             {memory}\n");
        text += &format!("processors         {}\n", self.processors);
        for line in &advice {
            text += &format!("advice: {line}\n");
        }
        if advice.is_empty() {
            text += "nothing to change\n";
        }
        text
    }

    fn json(&self) -> Value {
        let disk = &self.disk;
        let rungs: Vec<Value> = disk
            .rungs
            .iter()
            .map(|one| match &one.verdict {
                Verdict::Works(timing) => json!({
                    "rung": one.rung.name(),
                    "works": true,
                    "median_us": timing.median_micros,
                    "p99_us": timing.p99_micros,
                    "writes_per_s": timing.per_second,
                }),
                Verdict::Refused { reason } => {
                    json!({"rung": one.rung.name(), "works": false, "reason": reason})
                }
                Verdict::NotTried { reason } => {
                    json!({"rung": one.rung.name(), "works": null, "reason": reason})
                }
            })
            .collect();
        json!({
            "dir": disk.dir.display().to_string(),
            "rung": disk.chosen.name(),
            "why": disk.why,
            "rungs": rungs,
            "io_uring_allowed": disk.io_uring_refused.is_none(),
            "direct_alignment": disk.direct_alignment,
            "device": disk.device.as_ref().map(|device| json!({
                "name": device.name,
                "volatile_cache": device.volatile_cache,
                "fua": device.fua,
            })),
            "file_system": disk.file_system.name,
            "in_memory": disk.file_system.in_memory,
            "free_bytes": disk.file_system.free_bytes,
            "open_files": self.descriptors,
            "open_files_max": self.descriptors_hard,
            "memory_bytes": self.memory(),
            "processors": self.processors,
            "advice": self.advice(),
        })
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or("unlimited".into(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let args = DoctorArgs { dir: std::env::temp_dir(), json: true };
        examine(&args).expect("the temporary directory can be examined")
    }

    #[test]
    fn a_tight_system_gets_advice() {
        let mut report = report();
        report.descriptors = Some(64);
        report.memory_max = Some(1 << 20);
        report.disk.file_system.in_memory = true;
        report.disk.file_system.free_bytes = 0;
        let advice = report.advice().join("\n");
        for word in ["ulimit -n", "power cut", "2 GiB", "512 MiB"] {
            assert!(advice.contains(word), "{word}: {advice}");
        }
        assert!(report.text().contains("advice: this file system is in memory"));
        let json = report.json();
        assert_eq!(json["rung"], report.disk.chosen.name());
        assert_eq!(json["rungs"].as_array().map(Vec::len), Some(5));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let args = DoctorArgs { dir: "/nowhere/at/all".into(), json: false };
        let error = examine(&args).expect_err("it is missing");
        assert_eq!(error.exit_code(), error::EXIT_CANNOT);
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
