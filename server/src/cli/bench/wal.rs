//! `bench wal`: each thread appends a record and waits until it is durable.

use std::sync::Arc;

use strandline_wal::disk::{Disk, RealDisk};
use strandline_wal::{Options, Wal};

use super::measure::{self, Counted, Report};
use super::{Level, LoadArgs};
use crate::cli::error::Result;
use crate::cli::scratch::Scratch;

/// How many writes of a thread lie between two trims: the log stays a few segments long, as it does
/// under a store that flushes.
const TRIM_EVERY: u64 = 10_000;

/// Measures the log.
///
/// # Errors
///
/// If it cannot be opened or written.
pub(crate) fn run(args: &LoadArgs) -> Result<Report> {
    let scratch = Scratch::create(args.dir.as_deref(), "bench")?;
    let disk = RealDisk::open(scratch.path(), args.rung)?;
    let rung = disk.profile().rung;
    let (wal, _) = Wal::open(Arc::new(disk), &scratch.path().join("log"), Options::default())?;
    let value = args.value();
    let plan = args.plan();
    let before = Counted::from(wal.stats());
    let (times, took) = measure::run(&plan, 1, &|_, pace, times| {
        while let Some(due) = pace.wait() {
            let lsn = wal.append(&value)?;
            if args.durability == Level::Disk {
                wal.wait(lsn)?;
            }
            times.note(due);
            if times.count().is_multiple_of(TRIM_EVERY) {
                wal.trim(wal.durable());
            }
        }
        Ok(())
    })?;
    let stats = wal.stats();
    let counted = Counted::from(stats).since(before);
    wal.close()?;
    let payload_bytes = times.count().saturating_mul(args.value_bytes);
    let facts = vec![
        ("threads", args.threads.into()),
        ("value_bytes", args.value_bytes.into()),
        ("rate", args.rate.into()),
        ("durability", args.durability.name().into()),
        ("rung", rung.name().into()),
        ("depth", stats.depth.into()),
        ("depth_max_seen", stats.depth_max.into()),
        ("groups_idle", stats.submitted_idle.into()),
        ("groups_size", stats.submitted_size.into()),
        ("groups_age", stats.submitted_age.into()),
        ("sync_p50_us", stats.sync_micros.percentile(50.0).into()),
        ("sync_p99_us", stats.sync_micros.percentile(99.0).into()),
        ("group_p50_bytes", stats.group_bytes.percentile(50.0).into()),
        ("group_p99_bytes", stats.group_bytes.percentile(99.0).into()),
    ];
    Ok(Report { target: "wal", facts, times, took, counted: Some(counted), payload_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_counts_what_it_wrote() {
        let args = LoadArgs {
            threads: 2,
            value_bytes: 100,
            seconds: 1,
            rate: Some(50),
            durability: Level::Disk,
            dir: None,
            rung: Some(strandline_wal::disk::Rung::BufferedFdatasync),
            json: true,
        };
        let report = run(&args).expect("there is a temporary directory");
        let json = report.facts().json();
        assert!(json["ops"].as_u64() > Some(0), "{json}");
        assert!(json["syncs"].as_u64() > Some(0), "{json}");
        assert_eq!(json["rung"], "buffered-fdatasync");
        assert_eq!(json["payload_bytes"].as_u64(), json["ops"].as_u64().map(|ops| ops * 100));
    }
}
