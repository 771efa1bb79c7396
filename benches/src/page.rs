//! A comparison as one page: curves, counts, every row, and the machine it ran on. One file of HTML that needs
//! no other.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::chart::{Chart, Series, escaped, short};
use crate::device;
use crate::report::{Measured, Outcome, Row};
use crate::rounds::QUANTILES;

const STYLE: &str = "
:root { color-scheme: light dark; --ground: #fff; --ink: #1c2429; --faint: #d8dee2; --c0: #00695c; --c1: #c2410c; --c2: #64748b; --c3: #6d28d9 }
@media (prefers-color-scheme: dark) { :root { --ground: #14191c; --ink: #e4e9ec; --faint: #364046; --c0: #4db6ac; --c1: #fb923c; --c2: #94a3b8; --c3: #a78bfa } }
body { font: 15px/1.5 system-ui, sans-serif; background: var(--ground); color: var(--ink); max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1.5rem }
svg { width: 100%; height: auto } svg text { fill: var(--ink); font: 12px system-ui, sans-serif } svg .title { font-weight: 600 }
.grid { stroke: var(--faint); fill: none } .line { fill: none; stroke-width: 2 }
.line.c0 { stroke: var(--c0) } .line.c1 { stroke: var(--c1) } .line.c2 { stroke: var(--c2) } .line.c3 { stroke: var(--c3) }
.mark.c0 { fill: var(--c0) } .mark.c1 { fill: var(--c1) } .mark.c2 { fill: var(--c2) } .mark.c3 { fill: var(--c3) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .2rem .7rem; border-bottom: 1px solid var(--faint); white-space: nowrap }
th:first-child, td:first-child, .text { text-align: left }
";

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
    detail: &'a crate::report::Detail,
}

/// The page.
pub fn page(setting: &Setting<'_>, rows: &[Row]) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang='en'><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width'>\
         <title>Strandline: {what}</title><style>{STYLE}</style>\n<h1>Strandline beside its peers: {what}</h1>\n",
        what = escaped(setting.what)
    );
    let _ = writeln!(
        html,
        "<p>{} rounds of {} s, in turn; the order is drawn anew in each. Numbers are medians over the rounds that were \
         kept. Ratios are taken within a round: machines are noisy, so they say more than the numbers do.</p>",
        setting.rounds,
        setting.turn.as_secs_f64()
    );
    let mut workloads: Vec<&str> = Vec::new();
    for row in rows {
        if !workloads.contains(&row.subject.workload) {
            workloads.push(row.subject.workload);
        }
    }
    for workload in workloads {
        let bytes = rows.iter().find(|row| row.subject.workload == workload);
        let bytes = bytes.map_or(0, |row| row.subject.value_bytes);
        let _ = writeln!(html, "<h2>{workload}: {bytes} bytes each</h2>\n<div class='charts'>");
        charts(&mut html, workload, rows);
        html.push_str("</div>\n");
    }
    table(&mut html, rows);
    environment(&mut html, setting.dir);
    html
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
        let theirs = Side { ops_per_s: measured.peer_ops_per_s, detail: &measured.theirs };
        match lines.iter_mut().find(|(name, _)| *name == row.peer) {
            Some((_, sides)) => sides.push((concurrency, theirs)),
            None => lines.push((row.peer, vec![(concurrency, theirs)])),
        }
    }
    lines
}

fn charts(html: &mut String, workload: &str, rows: &[Row]) {
    let lines = lines(workload, rows);
    let place =
        |concurrency: usize| f64::from(u32::try_from(concurrency).unwrap_or(u32::MAX)).log2();
    let places: Vec<(f64, String)> =
        lines[0].1.iter().map(|(threads, _)| (place(*threads), threads.to_string())).collect();
    let over_threads =
        |title: &str, y_label: &str, number: &dyn Fn(Side<'_>) -> Option<f64>| Chart {
            title: title.into(),
            x_label: "threads".into(),
            y_label: y_label.into(),
            places: places.clone(),
            series: lines
                .iter()
                .enumerate()
                .map(|(at, (name, sides))| Series {
                    name: (*name).into(),
                    colour: colour(at, name),
                    points: sides
                        .iter()
                        .filter_map(|(threads, side)| Some((place(*threads), number(*side)?)))
                        .collect(),
                })
                .collect(),
        };
    let rate =
        over_threads("Acknowledged durable writes", "per second", &|side| Some(side.ops_per_s));
    html.push_str(&rate.svg());
    let flushes = over_threads("Flushes of the device's cache", "per acknowledgement", &|side| {
        side.detail.flushes_per_op
    });
    html.push_str(&flushes.svg());
    let bytes = over_threads("Bytes written by the device", "per byte of a value", &|side| {
        side.detail.device_bytes_per_payload_byte
    });
    html.push_str(&bytes.svg());
    for (threads, _) in &lines[0].1 {
        html.push_str(&latency(*threads, &lines).svg());
    }
}

/// The disk looks the same in every chart.
fn colour(number: usize, name: &str) -> usize {
    match (name, number) {
        ("disk", _) => 2,
        (_, 2..) => 3,
        (_, number) => number,
    }
}

/// Where a quantile lies: each step to the right is ten times rarer, the maximum at the end.
fn rarity(quantile: f64) -> f64 {
    match quantile {
        quantile if quantile >= 1.0 => 5.0,
        quantile => -(1.0 - quantile).log10(),
    }
}

fn latency(threads: usize, lines: &Lines<'_>) -> Chart {
    let names =
        [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
    let mut places: Vec<(f64, String)> =
        names.iter().map(|(quantile, name)| (rarity(*quantile), (*name).into())).collect();
    places.insert(0, (0.0, String::new()));
    places.push((rarity(1.0), "all".into()));
    let series = lines.iter().enumerate().map(|(number, (name, sides))| {
        let side = sides.iter().find(|(other, _)| *other == threads);
        let latencies = side.map_or(&[][..], |(_, side)| &side.detail.latency_us);
        let points = QUANTILES.iter().zip(latencies).map(|(quantile, us)| (rarity(*quantile), *us));
        Series { name: (*name).into(), colour: colour(number, name), points: points.collect() }
    });
    Chart {
        title: format!("Latency with {threads} thread{}", if threads == 1 { "" } else { "s" }),
        x_label: "so many took at most".into(),
        y_label: "microseconds".into(),
        places,
        series: series.collect(),
    }
}

fn table(html: &mut String, rows: &[Row]) {
    html.push_str(
        "<h2>All rows</h2>\n<div class='wide'><table><tr><th>workload<th>threads<th>bytes<th class='text'>peer<th>ours/s<th>peer/s\
         <th>ratio<th>min<th>max<th>our p99 us<th>its p99 us<th>rounds<th class='text'>ours durable by<th class='text'>peer durable by</tr>\n",
    );
    for row in rows {
        let subject = &row.subject;
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td>{}<td class='text'>{}",
            subject.workload, subject.concurrency, subject.value_bytes, row.peer
        );
        match &row.outcome {
            Outcome::Measured(measured) => cells(html, measured),
            Outcome::Skipped { skipped } => {
                let _ = write!(html, "<td colspan='10' class='text'>skipped: {}", escaped(skipped));
            }
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
}

fn cells(html: &mut String, row: &Measured) {
    let _ = write!(
        html,
        "<td>{}<td>{}<td><b>{:.2}</b><td>{:.2}<td>{:.2}<td>{}<td>{}<td>{}<td class='text'>{}<td class='text'>{}{}",
        short(row.ours_ops_per_s),
        short(row.peer_ops_per_s),
        row.ratio_median,
        row.ratio_min,
        row.ratio_max,
        short(row.ours_p99_us),
        short(row.peer_p99_us),
        row.rounds,
        escaped(&row.ours_durable_by),
        escaped(&row.peer_durable_by),
        if row.equal_durability { "" } else { " (not durable: compares nothing)" }
    );
}

/// What it ran on, as far as the system says.
fn environment(html: &mut String, dir: &Path) {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let cpu = read(Path::new("/proc/cpuinfo"));
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read(Path::new("/proc/meminfo"));
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1));
    let memory = memory.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() >> 20;
    let disk = device::sysfs(dir);
    let name = disk.as_ref().and_then(|path| std::fs::canonicalize(path).ok());
    let name = name.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
    let queue = |file: &str| disk.as_ref().map(|path| read(&path.join("queue").join(file)));
    let facts = [
        ("processor", format!("{} ({cores} cores)", model.trim_start_matches([' ', '\t', ':']))),
        ("memory", format!("{memory} GiB")),
        ("kernel", read(Path::new("/proc/sys/kernel/osrelease"))),
        ("disk", name.map(std::borrow::Cow::into_owned).unwrap_or_default()),
        ("its cache", queue("write_cache").unwrap_or_default()),
        ("writes through it (FUA)", queue("fua").unwrap_or_default()),
        ("Strandline", env!("CARGO_PKG_VERSION").into()),
    ];
    html.push_str("<h2>Where it ran</h2>\n<table>\n");
    for (name, fact) in facts {
        let fact = if fact.is_empty() { "not known".into() } else { escaped(&fact) };
        let _ = writeln!(html, "<tr><td>{name}<td class='text'>{fact}</tr>");
    }
    html.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Subject;
    use crate::rounds::{Rounds, Score, Turn};

    #[test]
    fn a_page_has_every_row_and_needs_nothing_else() {
        let turn = |ops_per_s| Turn {
            ops_per_s,
            latency_us: QUANTILES.map(|quantile| 100.0 + quantile).to_vec(),
            flushes_per_op: Some(0.5),
            ..Turn::default()
        };
        let score = |name, ops| Score { name, turns: Ok(vec![turn(ops)]) };
        let scores = vec![score("strandline", 20_000.0), score("other", 10_000.0)];
        let rounds = Rounds { scores, kept: 1, dropped: 0, probe: Duration::from_micros(100) };
        let subject =
            Subject { workload: "append", concurrency: 8, pipeline: None, value_bytes: 256 };
        let rows = [
            Row::new(&subject, &rounds, &rounds.scores[1], true),
            Row::skipped(&subject, "absent", "it is <not> there"),
        ];
        let setting =
            Setting { what: "wal", rounds: 1, turn: Duration::from_secs(1), dir: Path::new(".") };
        let page = page(&setting, &rows);
        assert!(page.contains("<b>2.00</b>") && page.contains("it is &lt;not> there"));
        assert_eq!(page.matches("<svg").count(), 4, "rate, flushes, bytes, one latency");
        assert!(!page.contains("http") && !page.contains("<script"));
    }
}
