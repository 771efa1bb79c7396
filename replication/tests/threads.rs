//! Replicas as a server runs them: each on its own thread, with threads that commit for it, on real
//! files, and channels for a network.
//!
//! Goal: what the simulated clusters cannot show, because there everything is one thread: the log is
//! written by others, and tells its replica; tables are flushed and compacted meanwhile.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use strandline_engine::{Batch, Changes, Entry, Index, KeyspaceId, Machine};
use strandline_replication::{
    Event, Member, MemberRole, Options, Outcome, Output, Replica, ReplicaId, Role,
};
use strandline_wal::disk::{RealDisk, Rung};

struct Batches;

impl Machine for Batches {
    fn apply(&mut self, _: &Entry<'_>, _: &mut Changes<'_>) -> strandline_engine::Result<()> {
        Ok(())
    }
}

/// What a thread of a replica is told.
enum Told {
    Event(Event),
    Stop,
}

struct Node {
    inbox: Sender<Told>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    thread: std::thread::JoinHandle<(Index, u64)>,
}

fn options(id: u64) -> Options {
    let member = |id| Member { id: ReplicaId(id), role: MemberRole::Voter };
    let mut options = Options {
        id: ReplicaId(id),
        members: vec![member(1), member(2), member(3)],
        seed: id,
        retention_bytes_max: 4 << 20,
        ..Options::default()
    };
    options.db.wal.segment_size = 1 << 20;
    options.db.engine.memtable_size = 256 << 10;
    options
}

/// Runs a replica until it is stopped. Returns what it has applied, and its digest.
fn run(
    mut replica: Replica,
    inbox: &Receiver<Told>,
    network: &[Sender<Told>],
    cut: &AtomicBool,
    outcomes: &Mutex<Vec<Outcome>>,
) -> (Index, u64) {
    let tick = Duration::from_millis(10);
    let mut next_tick = Instant::now() + tick;
    let mut output = Output::default();
    loop {
        let event = match inbox.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
            Ok(Told::Event(event)) => event,
            Err(RecvTimeoutError::Timeout) => {
                next_tick = Instant::now() + tick;
                Event::Tick
            }
            Ok(Told::Stop) | Err(RecvTimeoutError::Disconnected) => {
                let end = (replica.db().applied(), replica.db().digest().unwrap());
                replica.close().unwrap();
                return end;
            }
        };
        output.clear();
        replica.step(event, &mut output).unwrap();
        for envelope in output.messages.drain(..) {
            let to = usize::try_from(envelope.to.0 - 1).unwrap();
            if !cut.load(Ordering::Relaxed) {
                let _ = network[to].send(Told::Event(Event::Received(envelope)));
            }
        }
        outcomes.lock().unwrap().append(&mut output.outcomes);
    }
}

fn start(dir: &std::path::Path, cut: &Arc<AtomicBool>) -> Vec<Node> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| channel()).unzip();
    let node = |(at, inbox): (usize, Receiver<Told>)| {
        let id = u64::try_from(at).unwrap() + 1;
        let home = dir.join(id.to_string());
        std::fs::create_dir_all(&home).unwrap();
        let disk = Arc::new(RealDisk::open(&home, Some(Rung::BufferedFdatasync)).unwrap());
        let replica = Replica::open(disk, &home, options(id), Box::new(Batches)).unwrap();
        let moved = Mutex::new(senders[at].clone());
        replica.set_log_hook(Box::new(move || {
            let _ = moved.lock().unwrap().send(Told::Event(Event::LogMoved));
        }));
        let log = replica.db().log().clone();
        std::thread::spawn(move || log.lead());
        let (network, cut) = (senders.clone(), if id == 3 { cut.clone() } else { Arc::default() });
        let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
        let shared = outcomes.clone();
        let thread = std::thread::spawn(move || run(replica, &inbox, &network, &cut, &shared));
        Node { inbox: senders[at].clone(), outcomes, thread }
    };
    receivers.into_iter().enumerate().map(node).collect()
}

/// The node that says that it leads, as soon as one does.
fn leader(nodes: &[Node]) -> usize {
    loop {
        for (at, node) in nodes.iter().enumerate() {
            let outcomes = node.outcomes.lock().unwrap();
            let role = outcomes.iter().rev().find_map(|outcome| match outcome {
                Outcome::RoleChanged { role, .. } => Some(*role),
                _ => None,
            });
            if role == Some(Role::Leader) {
                return at;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn committed(node: &Node) -> Index {
    let outcomes = node.outcomes.lock().unwrap();
    let last = outcomes.iter().rev().find_map(|outcome| match outcome {
        Outcome::Committed(index) => Some(*index),
        _ => None,
    });
    last.unwrap_or_default()
}

#[test]
fn three_replicas_on_threads_come_to_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let cut = Arc::new(AtomicBool::new(false));
    let nodes = start(dir.path(), &cut);
    let mut accepted = 0;
    for token in 1..=600_u64 {
        // The third says nothing for a while: its log falls behind, and it needs a snapshot.
        cut.store((100..500).contains(&token), Ordering::Relaxed);
        let entries = (0..8_u64).map(|at| {
            let mut batch = Batch::new();
            let key = (token * 8 + at).to_le_bytes();
            batch.put(KeyspaceId::DEFAULT, &key, &[7; 2000]).unwrap();
            batch.as_entry().to_vec()
        });
        let entries = entries.collect();
        let at = leader(&nodes);
        let event = Event::Propose { token, entries, session: None };
        nodes[at].inbox.send(Told::Event(event)).unwrap();
        let answer = loop {
            let outcomes = nodes[at].outcomes.lock().unwrap();
            let found = outcomes.iter().rev().find_map(|outcome| match outcome {
                Outcome::Accepted { token: found, .. } if *found == token => Some(true),
                Outcome::Refused { token: found, .. } if *found == token => Some(false),
                _ => None,
            });
            drop(outcomes);
            match found {
                Some(answer) => break answer,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        accepted += u64::from(answer);
    }
    cut.store(false, Ordering::Relaxed);
    assert!(accepted > 100, "{accepted}");
    let equal = || {
        let first = committed(&nodes[0]);
        first > Index(accepted) && nodes.iter().all(|node| committed(node) == first)
    };
    while !equal() {
        std::thread::sleep(Duration::from_millis(20));
    }
    nodes.iter().for_each(|node| node.inbox.send(Told::Stop).unwrap());
    let ends: Vec<_> = nodes.into_iter().map(|node| node.thread.join().unwrap()).collect();
    println!("{accepted} accepted, {ends:?}");
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
}
