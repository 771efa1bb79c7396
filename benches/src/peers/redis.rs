//! redis-server with an append-only file synced before each reply, our server, and redis-benchmark,
//! which drives both.
//!
//! The load generator is the peer's own, so it favours nobody we wrote. How many requests make a turn
//! is measured first, by the turns that warm up.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Server;
use crate::rounds::{Contestant, Turn};
use crate::workload::f64_of;
use crate::{Error, Result};

/// How many different keys there are.
const KEYS: u64 = 100_000;
/// Requests per connection and place in the pipeline of a turn that warms up: short, but more than
/// the start of the connections.
const WARM_UP_REQUESTS: u64 = 200;
/// A turn has at most so many requests, whatever the warm-up promised.
const REQUESTS_MAX: u64 = 50_000_000;

/// Which command is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SET of a new value.
    Set,
    /// GET of a key that is there.
    Get,
}

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The command.
    pub request: Request,
    /// Connections at a time.
    pub connections: u64,
    /// Requests in flight on each.
    pub pipeline: u64,
    /// Bytes of a value.
    pub value_len: usize,
    /// How long a turn is meant to last.
    pub duration: Duration,
}

/// A running server that takes turns.
#[derive(Debug)]
pub struct Clients {
    name: &'static str,
    server: Server,
    shape: Shape,
    durable_by: String,
    /// Requests of the next turn; 0 before the warm-up.
    requests: u64,
}

/// Starts redis-server.
///
/// # Errors
///
/// If it is not installed or does not come up.
pub fn redis(below: &Path, shape: Shape) -> Result<Clients> {
    let server = Server::start("redis-server", below, |dir, port| {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(dir);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        command
    })?;
    let durable_by = "fdatasync".into();
    Ok(Clients { name: "redis-server", server, shape, durable_by, requests: 0 })
}

/// Starts our server, built at `program`.
///
/// # Errors
///
/// If it does not come up.
pub fn strandline(program: &Path, below: &Path, shape: Shape) -> Result<Clients> {
    let server = Server::start("strandline", below, |dir, port| {
        let mut command = Command::new(program);
        command.arg("serve").arg("--dir").arg(dir.join("store"));
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command
    })?;
    let durable_by = super::strandline::durable_by(server.dir())?;
    Ok(Clients { name: "strandline", server, shape, durable_by, requests: 0 })
}

/// Whether a program can be run, by asking for its version.
pub fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Our server's binary: built now if cargo runs us, else what lies beside us.
///
/// # Errors
///
/// A reason if there is none.
pub fn our_binary() -> std::result::Result<PathBuf, String> {
    let ours = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = ours.with_file_name("strandline");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let built = Command::new(cargo)
            .args(["build", "--release", "--quiet", "-p", "strandline-server"])
            .status()
            .map_err(|error| error.to_string())?;
        if !built.success() {
            return Err("`cargo build --release -p strandline-server` failed".into());
        }
    }
    match program.exists() {
        true => Ok(program),
        false => Err(format!(
            "{} is missing: run `cargo build --release -p strandline-server` or give --binary",
            program.display()
        )),
    }
}

impl Clients {
    /// Runs redis-benchmark once. Returns requests per second and the 99th percentile in microseconds.
    fn benchmark(&self, request: Request, requests: u64, pipeline: u64) -> Result<(f64, f64)> {
        let address = self.server.address();
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "--csv"]);
        command.args(["-t", if request == Request::Set { "set" } else { "get" }]);
        command.args(["-d", &self.shape.value_len.to_string(), "-r", &KEYS.to_string()]);
        command.args(["-c", &self.shape.connections.to_string(), "-P", &pipeline.to_string()]);
        command.args(["-n", &requests.to_string()]);
        let output = command.output().map_err(Error::io("run", "redis-benchmark"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        parse(&text).ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            Error::Unreadable { output: format!("{text}{errors}") }
        })
    }

    /// Fills the server with keys for GET, and finds out how many requests a turn takes.
    fn warm_up(&mut self) -> Result<()> {
        if self.shape.request == Request::Get {
            // Random keys: twice their number covers most of them.
            self.benchmark(Request::Set, 2 * KEYS, 16)?;
        }
        let shape = self.shape;
        let batch = shape.connections * shape.pipeline;
        let mut requests = WARM_UP_REQUESTS * batch;
        // The first guess pays for starting up; the second is near enough.
        for _ in 0..2 {
            let (per_second, _) = self.benchmark(shape.request, requests, shape.pipeline)?;
            let seconds = shape.duration.as_secs_f64();
            requests = requests_for(per_second * seconds, batch);
        }
        self.requests = requests;
        Ok(())
    }
}

/// A count near `wanted`, in whole batches.
fn requests_for(wanted: f64, batch: u64) -> u64 {
    let mut requests = batch;
    while f64_of(requests) < wanted && requests < REQUESTS_MAX {
        requests += batch;
    }
    requests
}

impl Contestant for Clients {
    fn name(&self) -> &'static str {
        self.name
    }

    fn turn(&mut self) -> Result<Turn> {
        if self.requests == 0 {
            self.warm_up()?;
        }
        let shape = self.shape;
        let (ops_per_s, p99_us) = self.benchmark(shape.request, self.requests, shape.pipeline)?;
        let durable_by = match shape.request {
            Request::Set => self.durable_by.clone(),
            Request::Get => "read only".into(),
        };
        Ok(Turn { ops_per_s, p99_us, durable_by, ..Turn::default() })
    }
}

/// Reads `"test","rps",...,"p99_latency_ms",...` and the line after it.
fn parse(text: &str) -> Option<(f64, f64)> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("\"test\""));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = |wanted: &str| -> Option<f64> {
        let place = names.split(',').position(|name| name.trim_matches('"') == wanted)?;
        values.split(',').nth(place)?.trim_matches('"').parse().ok()
    };
    Some((column("rps")?, column("p99_latency_ms")? * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_load_generator_is_read_by_its_headings() {
        let text = "WARNING: Could not fetch server CONFIG\n\
            \"test\",\"rps\",\"avg_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
            \"SET\",\"12500.00\",\"0.310\",\"1.500\",\"2.000\"\n";
        let (per_second, p99_us) = parse(text).unwrap();
        assert_eq!(per_second.total_cmp(&12_500.0), std::cmp::Ordering::Equal);
        assert_eq!(p99_us.total_cmp(&1_500.0), std::cmp::Ordering::Equal);
        assert!(parse("Could not connect").is_none());
        assert!(parse("\"test\",\"rps\"\n\"SET\",\"1\"\n").is_none());
    }

    #[test]
    fn a_turn_is_whole_batches() {
        assert_eq!(requests_for(1000.0, 64), 1024);
        assert_eq!(requests_for(0.0, 64), 64);
        assert!(requests_for(f64::INFINITY, 64) >= REQUESTS_MAX);
    }
}
