//! `demo`: shows in a few seconds that no acknowledged write is lost.
//!
//! ```text
//! serve on an empty directory -> write at full speed -> kill -9 in full load -> serve again
//!   -> writes go on -> read back every acknowledged write and compare -> table
//! ```
//!
//! It is the real server, this program run as `serve` with its defaults, behind real sockets. What
//! was not acknowledged when it was killed is unknown and counts neither way. The directory and the
//! server are gone when the demo ends, also when it is interrupted.

mod load;
mod report;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::{self, Error, Result};
use super::node::Node;
use super::scratch::{self, Scratch};
use load::{Course, Ledger};
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
    /// How many nodes. One so far: replication is not there yet.
    #[arg(long, default_value_t = 1)]
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
    if args.nodes != 1 {
        let reason = format!(
            "--nodes {}: replication is not there yet, so the demo has one node; leave --nodes out",
            args.nodes
        );
        return Err(Error::Usage { reason });
    }
    scratch::watch_for_interrupts()?;
    let scratch = Scratch::create(None, "demo")?;
    let dir = scratch.path().join("node-1");
    let bar = progress_bar(args.json);

    bar.set_message("starting the server");
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let node = Node::start(&dir, any_port, &[], &scratch.path().join("log-1"))?;
    let address = node.address();
    let course = Arc::new(Course::new(address));
    let mut writers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let first = thread * CONNECTIONS;
            let ledgers = (first..first + CONNECTIONS).map(Ledger::new).collect();
            let course = course.clone();
            std::thread::spawn(move || load::write(&course, ledgers))
        })
        .collect();
    let report = kill_and_restart(args, &scratch, node, &course, &bar);
    // Whatever happened, the writers end before the directory goes.
    course.stop();
    let mut ledgers = Vec::new();
    for writer in writers.drain(..) {
        ledgers.extend(writer.join().expect("writers do not panic"));
    }
    let (mut report, node) = report?;

    bar.set_message("reading back every acknowledged write");
    report.take_ledgers(&ledgers);
    bar.set_length(report.acknowledged);
    let shares = share_out(ledgers);
    let readers: Vec<_> = shares
        .into_iter()
        .map(|ledgers| {
            let bar = bar.clone();
            std::thread::spawn(move || load::read_back(address, &ledgers, &|count| bar.inc(count)))
        })
        .collect();
    bar.set_position(0);
    for reader in readers {
        report.take_check(&reader.join().expect("readers do not panic")?);
    }
    bar.finish_and_clear();
    drop(node);
    Ok(report)
}

/// Lets the writers write, kills the server under them, and starts it again.
fn kill_and_restart(
    args: &DemoArgs,
    scratch: &Scratch,
    node: Node,
    course: &Course,
    bar: &ProgressBar,
) -> Result<(Report, Node)> {
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
    let address = node.address();
    let killed = course.kill();
    node.kill()?;
    let dir = scratch.path().join("node-1");
    let node = Node::start(&dir, address, &[], &scratch.path().join("log-2"))?;
    let ready_after = killed.elapsed();
    let resumed_after = loop {
        if let Some(resumed) = course.resumed() {
            break resumed.duration_since(killed);
        }
        if killed.elapsed() > RESUME_MAX {
            let reason = "it is ready, but no write was acknowledged for a minute".into();
            return Err(Error::NotReady { reason, log: course.refusal().unwrap_or_default() });
        }
        scratch::check()?;
        std::thread::sleep(Duration::from_millis(1));
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
    Ok((report, node))
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
    fn several_nodes_are_refused_as_wrong_usage() {
        let args = DemoArgs { nodes: 3, seconds: 1, json: true };
        let error = show(&args).expect_err("not there yet");
        assert_eq!(error.exit_code(), error::EXIT_USAGE);
        assert!(error.to_string().contains("replication is not there yet"), "{error}");
    }

    #[test]
    fn every_ledger_is_read_by_one_thread() {
        let shares = share_out((0..THREADS * CONNECTIONS).map(Ledger::new).collect());
        assert!(shares.iter().all(|share| share.len() == CONNECTIONS));
    }
}
