//! Nodes that write, follow, are promoted, lose their power, their disks, or are set back to an older
//! copy of their directory, at random: whatever has happened, a log that is called a prefix of another is
//! one, entry by entry, and logs that are apart are the same up to where they are said to be.
//!
//! No sockets: what a feed would carry is carried by the test, by the same rules.

use std::path::Path;
use std::sync::Arc;

use strandline_engine::{
    Batch, Changes, Db, DbOptions, Durability, Entry, Index, KeyspaceId, Machine, Result,
};
use strandline_wal::Lsn;
use strandline_wal::disk::SimulatedDisk;
use strandline_wal::disk::simulated::{Random, Survival};

use super::lineage::{Generation, Relation};
use super::standing::Standing;
use super::standing_file::{StandingFile, Target};

const DIR: &str = "/node";
const NODES: usize = 3;
const STEPS: usize = 60;

/// Batches are the engine's own.
struct NoCommands;

impl Machine for NoCommands {
    fn apply(&mut self, _: &Entry<'_>, _: &mut Changes<'_>) -> Result<()> {
        panic!("there are only batches")
    }
}

/// A running node.
struct Node {
    disk: Arc<SimulatedDisk>,
    db: Db,
    standing: Standing,
}

impl Node {
    fn open(disk: Arc<SimulatedDisk>) -> Self {
        let process = disk.mount();
        let mut options = DbOptions { background: false, ..DbOptions::default() };
        options.wal.segment_size = 256 << 10;
        options.wal.group_size_max = 16 << 10;
        let file = StandingFile::open(process.clone(), Path::new(DIR), 7).unwrap();
        let db = Db::open_with(process, Path::new(DIR), options, Box::new(NoCommands)).unwrap();
        let standing = Standing::new(Some(file));
        standing.begin(Index(db.log().last().0), "", "").unwrap();
        Self { disk, db, standing }
    }

    fn last(&self) -> Index {
        Index(self.db.log().last().0)
    }

    fn settle(&self) {
        self.db.wait(self.last()).unwrap();
    }

    fn write(&self, number: u64, is_waited_for: bool) {
        let mut batch = Batch::new();
        batch.put(KeyspaceId::DEFAULT, &number.to_le_bytes(), b"value").unwrap();
        let index = self.db.append(&[batch.as_entry()], Durability::Disk).unwrap();
        if is_waited_for {
            self.db.wait(index).unwrap();
        }
    }

    /// The payloads of all that is durable.
    fn entries(&self) -> Vec<Vec<u8>> {
        let mut reader = self.db.log().reader(Lsn(1));
        let mut entries = Vec::new();
        while let Some(records) = reader.next_records().unwrap() {
            entries.extend(records.iter().map(|record| record.unwrap().1.payload.to_vec()));
        }
        entries
    }

    fn relation(&self, other: &Node) -> Relation {
        let (last, end) = (self.db.durable(), other.db.durable());
        self.standing.lineage().relation(last, &other.standing.lineage().until(end), end)
    }

    /// What a feed of `primary` brings in one go, `count` entries at the most.
    fn take_from(&self, primary: &Node, count: usize, is_waited_for: bool) {
        let entries = primary.entries();
        let lineage = primary.standing.lineage();
        let start = usize::try_from(self.last().0).unwrap();
        for (at, payload) in entries.iter().enumerate().skip(start).take(count) {
            let index = Index(u64::try_from(at).unwrap() + 1);
            if let Some(generation) = lineage.at(index).filter(|one| one.first == index) {
                self.standing.begin_generation(generation).unwrap();
            }
            self.db.append(&[payload], Durability::Disk).unwrap();
        }
        if is_waited_for {
            self.settle();
        }
    }
}

fn check(nodes: &[Node], context: &str) -> (usize, usize) {
    let (mut prefixes, mut apart) = (0, 0);
    let entries: Vec<_> = nodes.iter().map(Node::entries).collect();
    for (own, node) in nodes.iter().enumerate() {
        for (other, _) in nodes.iter().enumerate().filter(|(other, _)| *other != own) {
            let (mine, theirs) = (&entries[own], &entries[other]);
            match node.relation(&nodes[other]) {
                Relation::Prefix => {
                    prefixes += usize::from(!mine.is_empty());
                    assert!(theirs.starts_with(mine), "{context}: {own} is no prefix of {other}");
                }
                Relation::Apart { common } => {
                    apart += 1;
                    let common = usize::try_from(common.0).unwrap();
                    assert!(common <= mine.len() && common <= theirs.len(), "{context}");
                    assert_eq!(mine[..common], theirs[..common], "{context}: {own} and {other}");
                }
            }
        }
    }
    (prefixes, apart)
}

fn run(seed: u64) -> (usize, usize) {
    let mut random = Random::new(seed);
    let mut nodes: Vec<Node> =
        (0..NODES).map(|_| Node::open(SimulatedDisk::new(random.next_u64()))).collect();
    let mut copies: Vec<(usize, Arc<SimulatedDisk>)> = Vec::new();
    let (mut written, mut seen) = (0, (0, 0));
    for step in 0..STEPS {
        let at = random.index(NODES);
        let other = (at + 1 + random.index(NODES - 1)) % NODES;
        let port = u16::try_from(other).unwrap() + 1;
        let waits = random.chance(700);
        let action = random.below(100);
        let node = &nodes[at];
        match (action, node.standing.follows()) {
            // A client's write, at a primary.
            (0..30, None) => {
                written += 1;
                node.write(seed << 32 | written, waits);
            }
            // A backup is fed.
            (0..65, Some(target)) => {
                node.settle();
                let primary = &nodes[usize::from(target.port) - 1];
                if node.relation(primary) == Relation::Prefix {
                    node.take_from(primary, random.index(5), waits);
                }
            }
            // Told to follow: it does if nothing has to be discarded.
            (30..65, None) => {
                node.settle();
                if node.relation(&nodes[other]) == Relation::Prefix {
                    let target = Target { host: "node".into(), port };
                    node.standing.follow(target, "", false).unwrap();
                }
            }
            (65..75, Some(_)) => {
                let last = || {
                    node.settle();
                    Ok(node.last())
                };
                node.standing.lead(last).unwrap();
            }
            (65..75, None) => copies.push((at, node.disk.fork(random.next_u64()))),
            // The power goes, or the disk, or an older copy of the directory is put in its place.
            (75..94, _) => {
                let disk = node.disk.clone();
                disk.set_survival(Survival::draw(&mut random));
                disk.power_cut();
                nodes[at] = Node::open(disk);
            }
            (94..96, _) => nodes[at] = Node::open(SimulatedDisk::new(random.next_u64())),
            _ => {
                if let Some((_, copy)) = copies.get(random.index(copies.len().max(1))) {
                    let disk = copy.fork(random.next_u64());
                    disk.power_cut();
                    nodes[at] = Node::open(disk);
                }
            }
        }
        let (prefixes, apart) = check(&nodes, &format!("seed {seed}, step {step}"));
        seen = (seen.0 + prefixes, seen.1 + apart);
    }
    seen
}

#[test]
fn what_is_called_a_prefix_is_one() {
    let number = |name: &str, default| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let from = number("STRANDLINE_SEED", 1);
    let (mut prefixes, mut apart) = (0, 0);
    for seed in from..from + number("STRANDLINE_SEEDS", 60) {
        let seen = run(seed);
        (prefixes, apart) = (prefixes + seen.0, apart + seen.1);
    }
    assert!(prefixes > 0 && apart > 0, "{prefixes} prefixes, {apart} apart: nothing was tried");
}

/// What the model must find: a lineage that goes on with the generation it had.
#[test]
fn a_generation_that_is_used_again_is_found() {
    let disk = SimulatedDisk::new(5);
    let primary = Node::open(disk.clone());
    primary.write(1, true);
    let copy = disk.fork(6);
    let backup = Node::open(SimulatedDisk::new(7));
    primary.write(2, true);
    backup.take_from(&primary, 9, true);
    let restored = Node::open(copy);
    // As if it had not begun anew when it was opened.
    let before = primary.standing.lineage().newest().map(|one| one.id).unwrap();
    let again = Generation { id: before, first: Index(1) };
    restored.standing.begin_generation(again).unwrap();
    restored.write(3, true);
    let nodes = [backup, restored];
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&nodes, "")));
    assert!(found.is_err(), "two entries of one generation at one index");
}
