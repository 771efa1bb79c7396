//! `bench server`: SET over sockets, against a server of our own or one that is running.
//!
//! The threads share the connections out among themselves. With a rate, a pipeline's requests begin
//! together; whichever connection is idle takes the next ones that are due.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::measure::{self, Counted, Pace, Report, Times};
use super::{ServerArgs, to_usize};
use crate::cli::client::{Connection, Reply};
use crate::cli::error::{Error, Result};
use crate::cli::fleet::{Fleet, Task};
use crate::cli::node::Node;
use crate::cli::scratch::Scratch;

/// How many keys there are; written in a scattered order.
const KEYS: u64 = 1 << 20;
/// Scatters the keys: odd, so that every key is met.
const STRIDE: u64 = 0x9_e377;
/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long the last replies may take.
const LAST_REPLIES: Duration = Duration::from_secs(30);
/// How long to wait for replies before looking at the clock.
const LOOK: Duration = Duration::from_millis(50);

/// Measures a server.
///
/// # Errors
///
/// If it cannot be started or reached, or refuses a write.
pub(crate) fn run(args: &ServerArgs) -> Result<Report> {
    // Dropped in the reverse order: the server goes before its directory.
    let scratch;
    let node;
    let address = match args.connect {
        Some(address) => address,
        None => {
            scratch = Scratch::create(args.load.dir.as_deref(), "bench")?;
            let mut settings =
                vec!["--durability".to_owned(), args.load.durability.name().to_owned()];
            if let Some(rung) = args.load.rung {
                settings.extend(["--rung".to_owned(), rung.name().to_owned()]);
            }
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let log = scratch.path().join("log");
            node = Node::start(&scratch.path().join("node"), any_port, &settings, &log)?;
            node.address()
        }
    };
    let mut plan = args.load.plan();
    // A thread without a connection would have nothing to do.
    plan.threads = plan.threads.min(to_usize(args.connections));
    let connections = to_usize(args.connections);
    let value = args.load.value();
    let broken = |source| Error::Connection { address: address.to_string(), source };
    let before = counted(address).map_err(broken)?;
    let (times, took) = measure::run(&plan, args.pipeline, &|thread, pace, times| {
        let count = connections / plan.threads + usize::from(thread < connections % plan.threads);
        let mut fleet = Fleet::open(address, count).map_err(broken)?;
        let asked = vec![VecDeque::new(); count];
        let first_key = u64::try_from(thread).expect("few threads") << 40;
        let mut writer = Writer {
            pace,
            times,
            value: &value,
            pipeline: args.pipeline,
            next_key: first_key,
            asked,
            refusal: None,
        };
        writer.write(&mut fleet).map_err(broken)?;
        match writer.refusal {
            Some(refusal) => Err(Error::Answer { asked: "SET", found: format!("{refusal:?}") }),
            None => Ok(()),
        }
    })?;
    let after = counted(address).map_err(broken)?;
    let counted = before.zip(after).map(|(before, after)| after.since(before));
    let key_bytes = u64::try_from(key(0).len()).expect("keys are short");
    let payload_bytes = times.count().saturating_mul(args.load.value_bytes + key_bytes);
    let facts = vec![
        ("address", address.to_string().into()),
        ("threads", plan.threads.into()),
        ("connections", args.connections.into()),
        ("pipeline", args.pipeline.into()),
        ("value_bytes", args.load.value_bytes.into()),
        ("rate", args.load.rate.into()),
        (
            "durability",
            match args.connect {
                Some(_) => serde_json::Value::Null,
                None => args.load.durability.name().into(),
            },
        ),
    ];
    Ok(Report { target: "server", facts, times, took, counted, payload_bytes })
}

/// What the server's log has counted so far; another kind of server does not tell.
fn counted(address: SocketAddr) -> std::io::Result<Option<Counted>> {
    let Reply::Bulk(text) = Connection::open(address, CONNECT_MAX)?.ask(&[b"INFO", b"all"])? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().parse().ok()
    };
    let pair = number("log_syncs").zip(number("log_device_bytes"));
    Ok(pair.map(|(syncs, device_bytes)| Counted { syncs, device_bytes }))
}

/// The key of a write; all are equally long.
fn key(number: u64) -> String {
    format!("key:{:012}", number.wrapping_mul(STRIDE) % KEYS)
}

/// One thread's writes.
struct Writer<'a> {
    pace: &'a mut Pace,
    times: &'a mut Times,
    value: &'a [u8],
    pipeline: u64,
    next_key: u64,
    /// Per connection: when the requests without a reply should have begun.
    asked: Vec<VecDeque<Instant>>,
    /// The first answer that is not OK.
    refusal: Option<Reply>,
}

impl Writer<'_> {
    fn write(&mut self, fleet: &mut Fleet) -> std::io::Result<()> {
        while !self.pace.is_over() && self.refusal.is_none() {
            // Without a rate the next request follows a reply, so only replies are waited for.
            let patience = match self.pace.until_due() {
                Duration::ZERO => LOOK,
                time => time.min(LOOK),
            };
            if fleet.round(self, patience)? == 0 {
                std::thread::sleep(self.pace.until_due().min(LOOK));
            }
        }
        let over = Instant::now();
        while fleet.collect(self, LOOK)? > 0 && over.elapsed() < LAST_REPLIES {}
        Ok(())
    }
}

impl Task for Writer<'_> {
    fn ask(&mut self, connection: usize, out: &mut Connection) -> usize {
        let Some(due) = self.pace.take_due() else { return 0 };
        for _ in 0..self.pipeline {
            out.queue(&[b"SET", key(self.next_key).as_bytes(), self.value]);
            self.next_key += 1;
            self.asked[connection].push_back(due);
        }
        to_usize(self.pipeline)
    }

    fn take(&mut self, connection: usize, reply: Reply) {
        let due = self.asked[connection].pop_front().expect("a reply belongs to a request");
        match reply.is_ok() {
            true => self.times.note(due),
            false => {
                self.refusal.get_or_insert(reply);
            }
        }
    }
}
