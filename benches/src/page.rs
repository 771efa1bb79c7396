//! A comparison as one page: floors, curves, counts, every row, and the machine it ran on.
//!
//! What stands where: first what was promised, and whether it holds; then for each workload the rate, what it
//! costs the device, and how long an acknowledgement takes; then every row as a table, so that no number is only in a
//! picture.

use std::path::Path;
use std::time::Duration;

use strandline_pages::{
    Cell, Chart, Environment, Interval, Intervals, Page, Series, commit, over_percentiles,
    over_threads, short,
};

use crate::report::{Counted, Detail, Measured, Outcome, Row};
use crate::rounds::QUANTILES;

/// How the comparison was made.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// What was compared.
    pub what: &'a str,
    /// How often everybody took a turn, and for how long.
    pub rounds: usize,
    /// How long a turn lasted.
    pub turn: Duration,
    /// Where the files were.
    pub dir: &'a Path,
}

/// Who is drawn, with what was measured of them at each concurrency of a workload.
type Lines<'a> = Vec<(&'a str, Vec<(usize, Side<'a>)>)>;

/// One side of a row.
#[derive(Clone, Copy)]
struct Side<'a> {
    ops_per_s: f64,
    detail: &'a Detail,
}

/// The page.
pub fn page(setting: &Setting<'_>, rows: &[Row]) -> String {
    let made = format!(
        "{} rounds of {} s, everybody in turn, the order drawn anew in each. Numbers are medians over the rounds that \
         were kept. Ratios are taken within a round: machines are noisy, so they say more than the numbers do.",
        setting.rounds,
        setting.turn.as_secs_f64()
    );
    let mut page = Page::new(&format!("Strandline beside its peers: {}", setting.what), &made);
    floors(&mut page, rows);
    counts(&mut page, rows);
    let mut workloads: Vec<&str> = Vec::new();
    for row in rows {
        if !workloads.contains(&row.subject.workload) {
            workloads.push(row.subject.workload);
        }
    }
    // An opening has no threads to be drawn over.
    for workload in workloads.into_iter().filter(|workload| *workload != "reopen") {
        let drawn = charts(workload, rows);
        if drawn.is_empty() {
            continue;
        }
        let bytes = rows.iter().find(|row| row.subject.workload == workload);
        let bytes = bytes.map_or(0, |row| row.subject.value_bytes);
        page.section(&format!("{}, {} bytes each", title(workload), short_bytes(bytes)));
        page.paragraph(meaning(workload));
        page.pictures(&drawn);
    }
    page.section("All rows");
    table(&mut page, rows);
    page.section("Where it ran");
    page.facts(&environment(setting.dir, rows));
    page.html().to_owned()
}

/// What people call a workload.
fn title(workload: &str) -> &str {
    match workload {
        "append" => "Durable appends",
        "block" => "Appends that fill one block",
        "large" => "Large appends",
        "rung" => "The chosen rung beside each forced one",
        "put" => "Durable puts",
        other => other,
    }
}

/// What the pictures of a workload show.
fn meaning(workload: &str) -> &'static str {
    match workload {
        "append" => {
            "Every thread appends a record and waits until it is durable. The disk is the bare one, in the same run: \
             one block for each write, O_DIRECT and O_DSYNC, as many at once as there are threads. A log that puts many \
             records into one write can be faster than that."
        }
        "block" | "large" => {
            "The same writes by the log and by the bare disk, in the same run. What the log adds is its headers, its \
             checksums and the order of acknowledgements."
        }
        "rung" => {
            "The log on the way of writing that it chose by itself, beside the same log told to use another one."
        }
        _ => "Every writer waits until its write is acknowledged as durable, then makes the next.",
    }
}

fn short_bytes(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => {
            format!("{} Mi", bytes >> 20)
        }
        bytes => bytes.to_string(),
    }
}

/// What was promised.
fn floors(page: &mut Page, rows: &[Row]) {
    let promised: Vec<(&Row, &Measured, f64)> = rows
        .iter()
        .filter_map(|row| match &row.outcome {
            Outcome::Measured(measured) => Some((row, measured.as_ref(), measured.floor?)),
            Outcome::Counted(_) | Outcome::Skipped { .. } => None,
        })
        .collect();
    if promised.is_empty() {
        return;
    }
    page.section("Against the floors");
    let short_of = promised.iter().filter(|(_, row, _)| row.holds == Some(false)).count();
    page.paragraph(&format!(
        "{} of {} hold. A floor holds if the lower end of the interval reaches it. The interval is where the median lies in \
         19 cases of 20, by the order of the rounds alone; with fewer than six rounds it is the whole range.",
        promised.len() - short_of,
        promised.len()
    ));
    let intervals = promised.iter().map(|(row, measured, floor)| Interval {
        name: name(row),
        range: (measured.ratio_min, measured.ratio_max),
        interval: (measured.ratio_low, measured.ratio_high),
        median: measured.ratio_median,
        bound: *floor,
        holds: measured.holds == Some(true),
    });
    let title = "Ours over theirs; the stroke is the floor".into();
    page.pictures(&[Intervals { title, rows: intervals.collect() }.svg()]);
    let cells = |(row, measured, floor): &(&Row, &Measured, f64)| {
        let held = measured.holds == Some(true);
        vec![
            Cell::text(name(row)),
            Cell::number(format!("{floor:.2}")),
            Cell::number(format!("{:.2}", measured.ratio_low)),
            Cell::number(format!("{:.2}", measured.ratio_median)),
            Cell::number(format!("{:.2}", measured.ratio_high)),
            Cell::number(format!("{:.2} to {:.2}", measured.ratio_min, measured.ratio_max)),
            Cell::number(measured.rounds.to_string()),
            Cell::Verdict(held, if held { "holds".into() } else { "short".into() }),
        ]
    };
    let headings =
        ["what", "floor", "lower end", "median", "upper end", "worst to best", "rounds", ""];
    page.table(&headings, &promised.iter().map(cells).collect::<Vec<_>>());
}

/// What was counted and not timed.
fn counts(page: &mut Page, rows: &[Row]) {
    let counted: Vec<(&Row, &Counted)> = rows
        .iter()
        .filter_map(|row| match &row.outcome {
            Outcome::Counted(counted) => Some((row, counted.as_ref())),
            Outcome::Measured(_) | Outcome::Skipped { .. } => None,
        })
        .collect();
    if counted.is_empty() {
        return;
    }
    page.section("What was counted");
    page.paragraph(
        "Less is better. A log held by a process that is killed with -9: what opening it reads, by the kernel's count, against \
         its promise (of each segment the header, the first group's header and the footer, and one segment whole); and by \
         how much memory grows with each small record. Counts hardly know noise; a bound on our own count holds in every round.",
    );
    let cells = |(row, counted): &(&Row, &Counted)| {
        let bound = match (counted.ceiling, counted.ours_count_max) {
            (Some(ceiling), _) => format!("ratio {ceiling:.2}"),
            (None, Some(max)) => short(max),
            (None, None) => String::new(),
        };
        let verdict = match counted.holds {
            Some(true) => Cell::Verdict(true, "holds".into()),
            Some(false) => Cell::Verdict(false, "over".into()),
            None => Cell::text(""),
        };
        vec![
            Cell::text(counted.unit),
            Cell::text(row.peer),
            Cell::number(short(counted.ours_count)),
            Cell::number(short(counted.peer_count)),
            Cell::number(short(counted.ratio_median)),
            Cell::number(short(counted.ratio_high)),
            Cell::number(bound),
            Cell::number(counted.rounds.to_string()),
            verdict,
        ]
    };
    let headings =
        ["what", "peer", "ours", "theirs", "ratio", "upper end", "at most", "rounds", ""];
    page.table(&headings, &counted.iter().map(cells).collect::<Vec<_>>());
}

/// A row in words.
fn name(row: &Row) -> String {
    let subject = &row.subject;
    let pipeline = subject.pipeline.map(|depth| format!(" x {depth}")).unwrap_or_default();
    format!("{} {}{pipeline} / {}", subject.workload, subject.concurrency, row.peer)
}

/// Who was measured in a workload, ours first.
fn lines<'a>(workload: &str, rows: &'a [Row]) -> Lines<'a> {
    let mut lines: Lines<'a> = vec![("strandline", Vec::new())];
    for row in rows.iter().filter(|row| row.subject.workload == workload) {
        let Outcome::Measured(measured) = &row.outcome else { continue };
        let concurrency = row.subject.concurrency;
        let ours = Side { ops_per_s: measured.ours_ops_per_s, detail: &measured.ours };
        if lines[0].1.iter().all(|(other, _)| *other != concurrency) {
            lines[0].1.push((concurrency, ours));
        }
        // It is one of the others once more.
        if row.peer == crate::comparison::BEST_FORCED {
            continue;
        }
        let theirs = Side { ops_per_s: measured.peer_ops_per_s, detail: &measured.theirs };
        match lines.iter_mut().find(|(name, _)| *name == row.peer) {
            Some((_, sides)) => sides.push((concurrency, theirs)),
            None => lines.push((row.peer, vec![(concurrency, theirs)])),
        }
    }
    lines
}

fn charts(workload: &str, rows: &[Row]) -> Vec<String> {
    let lines = lines(workload, rows);
    let chart = |title: &str, y_label: &str, number: &dyn Fn(Side<'_>) -> Option<f64>| {
        let series = lines.iter().enumerate().map(|(at, (name, sides))| Series {
            name: (*name).into(),
            colour: colour(at, name),
            points: sides
                .iter()
                .filter_map(|(threads, side)| Some((count(*threads), number(*side)?)))
                .collect(),
        });
        over_threads(title, y_label, series.collect())
    };
    let mut drawn = vec![
        chart("Acknowledged writes", "per second", &|side| Some(side.ops_per_s)),
        chart("Synced writes and syncs", "per acknowledgement", &|side| side.detail.syncs_per_op),
        chart("Flushes of the device's cache", "per acknowledgement", &|side| {
            side.detail.flushes_per_op
        }),
        chart("Bytes written by the device", "per byte of payload", &|side| {
            side.detail.device_bytes_per_payload_byte
        }),
    ];
    drawn.extend(lines[0].1.iter().map(|(threads, _)| latency(*threads, &lines)));
    drawn.into_iter().flatten().map(|chart| chart.svg()).collect()
}

fn count(threads: usize) -> f64 {
    f64::from(u32::try_from(threads).unwrap_or(u32::MAX))
}

/// The disk looks the same in every chart.
fn colour(number: usize, name: &str) -> usize {
    match (name, number) {
        ("disk", _) => 2,
        (_, 2..) => number + 1,
        (_, number) => number,
    }
}

fn latency(threads: usize, lines: &Lines<'_>) -> Option<Chart> {
    let series = lines.iter().enumerate().map(|(number, (name, sides))| {
        let side = sides.iter().find(|(other, _)| *other == threads);
        let latencies = side.map_or(&[][..], |(_, side)| &side.detail.latency_us);
        let points = QUANTILES.into_iter().zip(latencies.iter().copied()).collect();
        Series { name: (*name).into(), colour: colour(number, name), points }
    });
    let plural = if threads == 1 { "" } else { "s" };
    over_percentiles(&format!("Latency, {threads} thread{plural}"), series.collect())
}

fn table(page: &mut Page, rows: &[Row]) {
    let headings = [
        "workload",
        "threads",
        "bytes",
        "peer",
        "ours/s",
        "peer/s",
        "ratio",
        "lower end",
        "min",
        "max",
        "our p99 us",
        "its p99 us",
        "rounds",
        "dropped",
        "ours durable by",
        "peer durable by",
    ];
    let cells = |row: &Row| {
        let subject = &row.subject;
        let pipeline = subject.pipeline.map(|depth| format!(" x {depth}")).unwrap_or_default();
        let mut cells = vec![
            Cell::text(subject.workload),
            Cell::number(format!("{}{pipeline}", subject.concurrency)),
            Cell::number(subject.value_bytes.to_string()),
            Cell::text(row.peer),
        ];
        match &row.outcome {
            Outcome::Measured(measured) => cells.extend(measured_cells(measured)),
            Outcome::Counted(counted) => {
                let counts = [counted.ours_count, counted.peer_count].map(short);
                cells.push(Cell::text(format!("{}: {}", counted.unit, counts.join(", theirs "))));
            }
            Outcome::Skipped { skipped } => cells.push(Cell::text(format!("skipped: {skipped}"))),
        }
        cells
    };
    page.table(&headings, &rows.iter().map(cells).collect::<Vec<_>>());
}

fn measured_cells(row: &Measured) -> Vec<Cell> {
    let aside = if row.equal_durability { "" } else { " (not durable: compares nothing)" };
    vec![
        Cell::number(short(row.ours_ops_per_s)),
        Cell::number(short(row.peer_ops_per_s)),
        Cell::number(format!("{:.2}", row.ratio_median)),
        Cell::number(format!("{:.2}", row.ratio_low)),
        Cell::number(format!("{:.2}", row.ratio_min)),
        Cell::number(format!("{:.2}", row.ratio_max)),
        Cell::number(short(row.ours_p99_us)),
        Cell::number(short(row.peer_p99_us)),
        Cell::number(row.rounds.to_string()),
        Cell::number(row.rounds_dropped.to_string()),
        Cell::text(row.ours_durable_by.clone()),
        Cell::text(format!("{}{aside}", row.peer_durable_by)),
    ]
}

/// What it ran on, and what ran.
fn environment(dir: &Path, rows: &[Row]) -> Vec<(&'static str, String)> {
    let mut facts = Environment::of(dir).facts();
    let measured = rows.iter().find_map(|row| match &row.outcome {
        Outcome::Measured(measured) => Some(measured),
        Outcome::Counted(_) | Outcome::Skipped { .. } => None,
    });
    let durable_by = measured.map(|row| row.ours_durable_by.clone()).unwrap_or_default();
    let probe = measured.map(|row| format!("{} us for 4 KiB, synced", short(row.probe_us)));
    facts.push(("the bare disk", probe.unwrap_or_default()));
    facts.push(("chosen rung", durable_by));
    let commit = commit(env!("CARGO_MANIFEST_DIR"));
    facts.push(("Strandline", format!("{} ({commit})", env!("CARGO_PKG_VERSION"))));
    let mut peers: Vec<String> = Vec::new();
    for row in rows {
        if let Some(version) = version_of(row.peer) {
            let peer = format!("{} {version}", row.peer);
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
    }
    facts.push(("peers", peers.join(", ")));
    facts
}

/// The version of a peer that is built in, as locked.
pub(crate) fn version_of(peer: &str) -> Option<&'static str> {
    let package = if peer == "lmdb" { "heed" } else { peer };
    let lock = include_str!("../../Cargo.lock");
    let (_, after) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    after.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Subject;
    use crate::rounds::{Rounds, Score, Turn};

    fn rows() -> Vec<Row> {
        let turn = |ops_per_s| Turn {
            ops_per_s,
            latency_us: QUANTILES.map(|quantile| 100.0 + quantile).to_vec(),
            flushes_per_op: Some(0.5),
            ..Turn::default()
        };
        let score = |name, ops| Score { name, turns: Ok(vec![turn(ops)]) };
        let scores = vec![score("strandline", 20_000.0), score("raft-engine", 18_000.0)];
        let rounds = Rounds { scores, kept: 1, dropped: 0, probe: Duration::from_micros(100) };
        let subject =
            Subject { workload: "append", concurrency: 8, pipeline: None, value_bytes: 256 };
        vec![
            Row::new(&subject, &rounds, &rounds.scores[1], true),
            Row::skipped(&subject, "absent", "it is <not> there"),
        ]
    }

    #[test]
    fn a_page_has_every_row_and_needs_nothing_else() {
        let setting =
            Setting { what: "wal", rounds: 1, turn: Duration::from_secs(1), dir: Path::new(".") };
        let page = page(&setting, &rows());
        assert!(page.contains(">1.11<") && page.contains("it is &lt;not> there"), "{page}");
        assert!(page.contains("0 of 1 hold") && page.contains("misses 1.2"), "{page}");
        // The floors, the rate, the flushes, one latency. Nothing else was counted.
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.contains("raft-engine 0.4"), "the version of a peer");
        assert!(!page.contains("http") && !page.contains("<script"));
    }

    #[test]
    fn versions_are_those_of_the_lock_file() {
        assert!(version_of("lmdb").is_some_and(|version| version.starts_with("0.22")));
        assert_eq!(version_of("disk"), None);
    }
}
