//! `bench wal --page FILE`: the log and the bare disk at several numbers of threads, as one page.
//!
//! At each number of threads the log runs and then the disk, so that both are asked in the same minutes. The page has
//! no peers: `compare` of the benches writes one that has, over many rounds.

use std::path::Path;

use serde_json::Value;
use strandline_pages::{
    Cell, Environment, Page, Series, commit, over_percentiles, over_threads, short,
};

use super::measure::{Report, Times};
use super::{LoadArgs, disk, wal};
use crate::cli::error::{Error, Result};
use crate::cli::scratch::Scratch;

/// At how many threads both are measured, beside the number that was asked for.
const THREADS: [u64; 5] = [1, 4, 16, 64, 256];
/// The quantiles that are drawn.
const QUANTILES: [f64; 9] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1.0];

/// Log and disk at one number of threads.
struct Point {
    threads: f64,
    log: Report,
    disk: (Times, f64),
}

/// Measures, writes the page, and hands back the report of the run that was asked for.
///
/// # Errors
///
/// If something cannot be opened or written.
pub(crate) fn run(args: &LoadArgs, path: &Path) -> Result<Report> {
    let asked = wal::run(args)?;
    let mut threads: Vec<u64> = THREADS.into_iter().chain([args.threads]).collect();
    threads.sort_unstable();
    threads.dedup();
    let mut points = Vec::with_capacity(threads.len());
    for threads in threads {
        // As fast as it goes: a rate would say nothing about how fast that is.
        let args = LoadArgs { threads, rate: None, ..args.clone() };
        let log = wal::run(&args)?;
        let scratch = Scratch::create(args.dir.as_deref(), "bench")?;
        let (times, took) = disk::run(&scratch, &args.plan(), args.value().len())?;
        let per_second = float(times.count()) / took.as_secs_f64();
        let threads = float(threads);
        points.push(Point { threads, log, disk: (times, per_second) });
    }
    let page = write(args, &asked, &points);
    std::fs::write(path, page).map_err(|source| Error::Path {
        operation: "write",
        path: path.to_path_buf(),
        source,
    })?;
    Ok(asked)
}

fn write(args: &LoadArgs, asked: &Report, points: &[Point]) -> String {
    let made = format!(
        "Each thread appends a record of {} bytes and waits until it is durable. At each number of threads {} s of the log, \
         then as long of the bare disk: one block for each write. One run: to compare with others, let them take \
         turns for many rounds.",
        args.value_bytes, args.seconds
    );
    let mut page = Page::new("Strandline: the log on this disk", &made);
    page.section("Over the number of threads");
    page.pictures(&pictures(points));
    page.section("How long an acknowledgement takes");
    let latencies = points.iter().filter_map(|point| {
        let series = vec![
            percentiles("strandline", 0, &point.log.times),
            percentiles("disk", 2, &point.disk.0),
        ];
        let plural = if point.threads > 1.0 { "s" } else { "" };
        over_percentiles(&format!("Latency, {} thread{plural}", point.threads), series)
    });
    page.pictures(&latencies.map(|chart| chart.svg()).collect::<Vec<_>>());
    page.section("In numbers");
    table(&mut page, points);
    page.section(&format!("The run that was asked for: {} threads", args.threads));
    let facts = asked.facts();
    let facts: Vec<(&str, String)> = facts
        .pairs
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| match value {
            Value::String(words) => (*name, words.clone()),
            value => (*name, value.to_string()),
        })
        .collect();
    page.facts(&facts);
    page.section("Where it ran");
    page.facts(&environment(args, asked));
    page.html().to_owned()
}

fn pictures(points: &[Point]) -> Vec<String> {
    let series = |name: &str, colour, number: &dyn Fn(&Point) -> Option<f64>| Series {
        name: name.into(),
        colour,
        points: points.iter().filter_map(|point| Some((point.threads, number(point)?))).collect(),
    };
    let charts = [
        over_threads(
            "Acknowledged writes",
            "per second",
            vec![
                series("strandline", 0, &|point| Some(per_second(&point.log))),
                series("disk, one by one", 2, &|point| Some(point.disk.1)),
            ],
        ),
        over_threads(
            "Synced writes",
            "per acknowledgement",
            vec![
                series("strandline", 0, &|point| syncs(&point.log)),
                series("disk, one by one", 2, &|_| Some(1.0)),
            ],
        ),
        over_threads(
            "Bytes written",
            "per byte of payload",
            vec![series("strandline", 0, &|point| bytes(&point.log))],
        ),
    ];
    charts.into_iter().flatten().map(|chart| chart.svg()).collect()
}

fn percentiles(name: &str, colour: usize, times: &Times) -> Series {
    let points = QUANTILES.map(|quantile| (quantile, times.micros_at(quantile)));
    Series { name: name.into(), colour, points: points.to_vec() }
}

fn table(page: &mut Page, points: &[Point]) {
    let headings = [
        "threads",
        "writes/s",
        "disk/s",
        "p50 us",
        "p99 us",
        "p99.99 us",
        "longest us",
        "syncs per ack",
        "bytes per byte",
    ];
    let rows = points.iter().map(|point| {
        let at = |quantile| short(point.log.times.micros_at(quantile));
        let shown = |number: Option<f64>| number.map_or("-".into(), short);
        let cells = [
            short(point.threads),
            short(per_second(&point.log)),
            short(point.disk.1),
            at(0.5),
            at(0.99),
            at(0.9999),
            at(1.0),
            shown(syncs(&point.log)),
            shown(bytes(&point.log)),
        ];
        cells.map(Cell::number).to_vec()
    });
    page.table(&headings, &rows.collect::<Vec<_>>());
}

fn environment(args: &LoadArgs, asked: &Report) -> Vec<(&'static str, String)> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut facts = Environment::of(&dir).facts();
    let rung = asked.facts.iter().find(|(name, _)| *name == "rung");
    let rung = rung.and_then(|(_, rung)| rung.as_str()).unwrap_or_default();
    facts.push(("rung", rung.into()));
    let commit = commit(env!("CARGO_MANIFEST_DIR"));
    let version = env!("CARGO_PKG_VERSION");
    let known = if commit.is_empty() { version.into() } else { format!("{version} ({commit})") };
    facts.push(("Strandline", known));
    facts
}

fn per_second(report: &Report) -> f64 {
    float(report.times.count()) / report.took.as_secs_f64().max(1e-9)
}

fn syncs(report: &Report) -> Option<f64> {
    Some(float(report.counted?.syncs) / float(report.times.count()))
}

fn bytes(report: &Report) -> Option<f64> {
    Some(float(report.counted?.device_bytes) / float(report.payload_bytes))
}

/// A count as a number; counts of a run lie far below where that rounds.
fn float(count: u64) -> f64 {
    let (high, low) = (count >> 32, count & 0xffff_ffff);
    let part = |part: u64| f64::from(u32::try_from(part).expect("32 bits"));
    part(high) * 4_294_967_296.0 + part(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::Level;

    #[test]
    fn a_page_has_the_log_and_the_disk_and_needs_nothing_else() {
        let scratch = Scratch::create(None, "bench-page").expect("there is a temporary directory");
        let args = LoadArgs {
            threads: 2,
            value_bytes: 100,
            seconds: 1,
            rate: None,
            durability: Level::Disk,
            dir: None,
            rung: Some(strandline_wal::disk::Rung::BufferedFdatasync),
            json: true,
        };
        let log = wal::run(&args).expect("it runs");
        let (times, took) = disk::run(&scratch, &args.plan(), 100).expect("it runs");
        let rate = float(times.count()) / took.as_secs_f64();
        let points = [Point { threads: 2.0, log, disk: (times, rate) }];
        let page = write(&args, &points[0].log, &points);
        assert_eq!(page.matches("<svg").count(), 4, "rate, syncs, bytes, one latency");
        assert!(page.contains("buffered-fdatasync") && page.contains("disk, one by one"));
        assert!(!page.contains("http") && !page.contains("<script"));
    }

    #[test]
    fn large_counts_keep_their_size() {
        assert_eq!(float(3 << 40).total_cmp(&3_298_534_883_328.0), std::cmp::Ordering::Equal);
    }
}
