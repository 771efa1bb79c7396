//! `demo`: shows in a few seconds that no acknowledged write is lost.
//!
//! ```text
//! serve on an empty directory -> write at full speed -> kill -9 in full load -> serve again
//!   -> writes go on -> read back every acknowledged write and compare -> table
//! ```
//!
//! With several nodes it is the leader that is killed, writes go on when the others have elected a new
//! one, and what is read back is asked of every node, the one that was dead included.
//!
//! It is the real server, this program run as `serve` with its defaults, behind real sockets. What
//! was not acknowledged when it was killed is unknown and counts neither way. The directory and the
//! server are gone when the demo ends, also when it is interrupted.

mod load;
mod nodes;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::{self, Error, Result};
use super::scratch::{self, Scratch};
use load::{Course, Ledger};
use nodes::Nodes;
use report::Report;

/// How many threads write. With [`CONNECTIONS`] each this is a busy server on a small machine.
const THREADS: usize = 4;
/// How many connections each of them has.
const CONNECTIONS: usize = 16;
/// How long writing goes on after it has resumed, so that the second run is under load as well.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// How long writing may take to resume before the demo gives up.
const RESUME_MAX: Duration = Duration::from_secs(60);
/// How often the progress bar moves and interrupts are looked for.
const TICK: Duration = Duration::from_millis(50);
/// The longest demo: an hour of writes fits on most disks.
const SECONDS_MAX: u64 = 3600;

/// Write at full speed, kill -9, restart, read every acknowledged write back.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=7))]
    pub(crate) nodes: u32,
    /// How long to write before the kill.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the demo: exit code 0 if nothing was lost or wrong, 1 if something was, 3 if it could not run.
pub(crate) fn run(args: DemoArgs) -> ExitCode {
    let outcome = show(&args).map(|report| {
        match args.json {
            true => println!("{}", report.json()),
            false => print!("{}", report.table()),
        }
        report.is_good()
    });
    error::exit("demo", outcome)
}

fn show(args: &DemoArgs) -> Result<Report> {
    scratch::watch_for_interrupts()?;
    let scratch = Scratch::create(None, "demo")?;
    let bar = progress_bar(args.json);

    bar.set_message("starting the nodes");
    let mut nodes = Nodes::start(&scratch, args.nodes)?;
    let course = Arc::new(Course::new(nodes.addresses()));
    let mut writers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let first = thread * CONNECTIONS;
            let ledgers = (first..first + CONNECTIONS).map(Ledger::new).collect();
            let course = course.clone();
            std::thread::spawn(move || load::write(&course, ledgers))
        })
        .collect();
    let report = kill_and_restart(args, &mut nodes, &course, &bar);
    // Whatever happened, the writers end before the directory goes.
    course.stop();
    let mut ledgers = Vec::new();
    for writer in writers.drain(..) {
        ledgers.extend(writer.join().expect("writers do not panic"));
    }
    let mut report = report?;
    for place in 0..nodes.addresses().len() {
        nodes.wait_until_readable(place)?;
    }

    bar.set_message("reading back every acknowledged write");
    report.take_ledgers(&ledgers);
    bar.set_length(report.acknowledged);
    let shares = share_out(ledgers);
    let addresses = nodes.addresses();
    let readers: Vec<_> = shares
        .into_iter()
        .zip(addresses.into_iter().cycle())
        .map(|(ledgers, address)| {
            let bar = bar.clone();
            std::thread::spawn(move || load::read_back(address, &ledgers, &|count| bar.inc(count)))
        })
        .collect();
    bar.set_position(0);
    for reader in readers {
        report.take_check(&reader.join().expect("readers do not panic")?);
    }
    bar.finish_and_clear();
    drop(nodes);
    Ok(report)
}

/// Lets the writers write, kills the node that leads under them, and starts it again.
fn kill_and_restart(
    args: &DemoArgs,
    nodes: &mut Nodes,
    course: &Course,
    bar: &ProgressBar,
) -> Result<Report> {
    let ticks_per_second = 1000 / u64::try_from(TICK.as_millis()).expect("a tick is short");
    bar.set_length(args.seconds * ticks_per_second);
    let started = Instant::now();
    let seconds = Duration::from_secs(args.seconds);
    while started.elapsed() < seconds {
        scratch::check()?;
        std::thread::sleep(TICK);
        bar.set_message(format!("{} writes acknowledged", course.acknowledged()));
        bar.inc(1);
    }
    let before = course.acknowledged();
    let wrote_for = started.elapsed();

    bar.set_message("kill -9");
    let victim = nodes.leader()?;
    let killed = course.kill();
    nodes.kill(victim)?;
    // A single node has to come back before writes go on; of several, the others take over.
    let mut ready_after = None;
    if args.nodes == 1 {
        nodes.restart(victim)?;
        ready_after = Some(killed.elapsed());
    }
    let resumed_after = loop {
        if let Some(resumed) = course.resumed() {
            break resumed.duration_since(killed);
        }
        if killed.elapsed() > RESUME_MAX {
            let reason = "the nodes are ready, but no write was acknowledged for a minute".into();
            return Err(Error::NotReady { reason, log: course.refusal().unwrap_or_default() });
        }
        scratch::check()?;
        std::thread::sleep(Duration::from_millis(1));
    };
    let ready_after = match ready_after {
        Some(ready_after) => ready_after,
        None => {
            std::thread::sleep(AFTERWARDS);
            nodes.restart(victim)?;
            killed.elapsed()
        }
    };
    bar.set_message("writing again");
    std::thread::sleep(AFTERWARDS);
    let report = Report {
        nodes: args.nodes,
        seconds: args.seconds,
        writes_per_s: report::per_second(before, wrote_for),
        ready_after,
        resumed_after,
        ..Report::default()
    };
    Ok(report)
}

/// The ledgers in as many parts as there are threads.
fn share_out(ledgers: Vec<Ledger>) -> Vec<Vec<Ledger>> {
    let mut shares: Vec<Vec<Ledger>> = (0..THREADS).map(|_| Vec::new()).collect();
    for (place, ledger) in ledgers.into_iter().enumerate() {
        shares[place % THREADS].push(ledger);
    }
    shares
}

/// A bar on standard error; it shows nothing if that is no terminal or JSON is wanted.
fn progress_bar(json: bool) -> ProgressBar {
    let bar = ProgressBar::new(1);
    if json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("[{elapsed_precise}] {bar:40} {msg}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ledger_is_read_by_one_thread() {
        let shares = share_out((0..THREADS * CONNECTIONS).map(Ledger::new).collect());
        assert!(shares.iter().all(|share| share.len() == CONNECTIONS));
    }
}
