//! Models of the log's threads, checked in every order of steps (up to a bound on preemptions).
//!
//! What runs here is the log itself, with the types of loom where it has those of the system, on a disk that
//! checks what is done to it. A model fails if a thread is left asleep (loom reports a deadlock), if somebody
//! is told that a record is durable before it is, if a record stands where another one was promised, if the disk sees
//! what it must not, or if anything panics. Each model names a bug that is planted and that it must find.
//!
//! | model | what meets in it | planted |
//! |---|---|---|
//! | waking | threads that append, wait, write for each other and wake each other | 34 |
//! | reservation | batches that take their places while groups are sealed and memory is bounded | 37 |
//! | sealing | segments that end while others append, make spares, mark and trim | 38 |
//! | reaping | writes that end behind the backs of those who submitted them, in any order; threads that only lead, and who was told to and comes too late | 35, 36 |
//! | prefix | writes that end the newest first, and fail | 39, 19 |
//! | sharing | lanes of the queue that logs share, see [`sharing`] | 40, 41 |

mod disk;
mod queue;
mod sharing;

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{ModelDisk, Order};
use strandline_wal::{Error, Lsn, Options, Result, Wal, canary};

/// What a thread of a model does: the log, its disk, and which of the threads it is.
type Work = fn(&Wal, &ModelDisk, u8);

struct Model {
    name: &'static str,
    threads: u8,
    /// How often a thread may be interrupted where it need not be.
    preemptions: usize,
    order: Order,
    depth: usize,
    /// Which durable writes fail, counted from 1; each range is a run of its own.
    fails: &'static [Range<usize>],
    /// What may be pending, in bytes.
    pending_size_max: usize,
    work: Work,
    /// Bugs that it must find, and a word of what is said then.
    planted: &'static [(u8, &'static str)],
}

/// A model with the bugs that it must find.
trait Checked {
    fn name(&self) -> &'static str;

    /// The numbers of the bugs, and a word of what is said then.
    fn planted(&self) -> &'static [(u8, &'static str)];

    /// Takes its threads through every order, and panics at the first thing that is wrong.
    fn run(&self);
}

fn models() -> Vec<&'static dyn Checked> {
    let logs = MODELS.iter().map(|model| model as &dyn Checked);
    logs.chain(sharing::MODELS.iter().map(|model| model as &dyn Checked)).collect()
}

const NONE: &[Range<usize>] = &[0..0];

const MODELS: &[Model] = &[
    Model {
        name: "waking: two commits each",
        threads: 2,
        preemptions: 3,
        order: Order::Caller,
        depth: 1,
        fails: &[0..0, 1..2, 2..3, 2..9],
        pending_size_max: 1 << 20,
        work: commit_twice,
        planted: &[(canary::WATERMARK_STANDS_STILL, "deadlock")],
    },
    Model {
        name: "waking: a group of three",
        threads: 3,
        preemptions: 2,
        order: Order::Caller,
        depth: 1,
        fails: NONE,
        pending_size_max: 1 << 20,
        work: commit_once,
        planted: &[],
    },
    Model {
        name: "waking: a group of three, two in flight",
        threads: 3,
        preemptions: 2,
        order: Order::Caller,
        depth: 2,
        fails: NONE,
        pending_size_max: 1 << 20,
        work: commit_once,
        planted: &[],
    },
    Model {
        name: "reaping: told too late",
        threads: 3,
        preemptions: 2,
        order: Order::Oldest,
        depth: 1,
        fails: NONE,
        pending_size_max: 1 << 20,
        work: commit_or_ask,
        // Who sleeps among others looks up now and then in a model: there for ever.
        planted: &[(canary::HEIR_LIES_IN_BUNK, "maximum number of branches")],
    },
    Model {
        name: "reservation: batches",
        threads: 3,
        preemptions: 1,
        order: Order::Caller,
        depth: 2,
        fails: NONE,
        pending_size_max: 1 << 20,
        work: reserve,
        planted: &[(canary::PLACE_READ_LATE, "another record")],
    },
    Model {
        name: "reservation: no room for a second one",
        threads: 2,
        preemptions: 2,
        order: Order::Caller,
        depth: 2,
        fails: NONE,
        pending_size_max: 4096,
        work: reserve,
        planted: &[],
    },
    Model {
        name: "sealing: a segment each",
        threads: 3,
        preemptions: 2,
        order: Order::Caller,
        depth: 2,
        fails: NONE,
        pending_size_max: 1 << 20,
        work: seal,
        planted: &[(canary::SEGMENT_BEGINS_EARLY, "segment begins")],
    },
    Model {
        name: "reaping: groups of one",
        threads: 3,
        preemptions: 2,
        order: Order::Oldest,
        depth: 2,
        fails: NONE,
        pending_size_max: 1 << 20,
        work: commit_large,
        planted: &[(canary::REAPER_NOT_REPLACED, "deadlock")],
    },
    Model {
        name: "reaping: by whoever leads",
        threads: 3,
        preemptions: 2,
        order: Order::Newest,
        depth: 2,
        fails: NONE,
        pending_size_max: 1 << 20,
        work: lead_for_others,
        planted: &[],
    },
    Model {
        name: "prefix: the newest ends first",
        threads: 2,
        preemptions: 2,
        order: Order::Newest,
        depth: 3,
        fails: &[0..0, 1..2, 2..3, 3..4, 1..9, 2..9],
        pending_size_max: 1 << 20,
        work: commit_two_groups,
        planted: &[
            (canary::GAP_ACKNOWLEDGED, "not durable"),
            (canary::SYNC_ERROR_IGNORED, "not durable"),
        ],
    },
];

/// One asks for what is there, so that somebody is told to see to it.
fn commit_or_ask(wal: &Wal, disk: &ModelDisk, thread: u8) {
    match thread {
        0 => wal.request(wal.last()),
        _ => commit(wal, disk, &[thread]),
    }
}

/// Fills a group: 4096 bytes with the headers of group and record.
const GROUP: usize = 4096 - 64 - 12;

fn commit_once(wal: &Wal, disk: &ModelDisk, thread: u8) {
    commit(wal, disk, &[thread]);
}

fn commit_large(wal: &Wal, disk: &ModelDisk, thread: u8) {
    commit(wal, disk, &vec![thread; GROUP]);
}

/// Batches that fill a group and a half each, while no more than a group may be pending.
fn reserve(wal: &Wal, disk: &ModelDisk, thread: u8) {
    let payloads: Vec<_> = (0..3).map(|number| vec![16 * thread + number; 2000]).collect();
    let batch: Vec<_> = payloads.iter().map(Vec::as_slice).collect();
    let last = wal.append_all(&batch).expect("nothing fails");
    wal.wait(last).expect("nothing fails");
    for (payload, lsn) in payloads.iter().rev().zip((1..=last.0).rev()) {
        disk.acknowledged(Lsn(lsn), payload);
    }
}

/// One keeps house, the others append what fills more than half of a segment.
fn seal(wal: &Wal, disk: &ModelDisk, thread: u8) {
    if thread > 0 {
        return commit(wal, disk, &vec![thread; 40 << 10]);
    }
    wal.prepare(true).expect("nothing fails");
    wal.trim(wal.durable());
    wal.prepare(true).expect("nothing fails");
}

/// One only leads, one only asks, one waits.
fn lead_for_others(wal: &Wal, disk: &ModelDisk, thread: u8) {
    match thread {
        0 => wal.lead().expect("nothing fails"),
        // It may come after the end.
        1 => drop(wal.append(&[thread]).map(|lsn| wal.request(lsn))),
        _ => {
            commit_large(wal, disk, thread);
            wal.close().expect("nothing fails");
        }
    }
}

/// Two groups at once.
fn commit_two_groups(wal: &Wal, disk: &ModelDisk, thread: u8) {
    let payloads = [0, 1].map(|number| vec![16 * thread + number; GROUP]);
    let Ok(first) = wal.append(&payloads[0]).map_err(refused) else { return };
    let Ok(second) = wal.append(&payloads[1]).map_err(refused) else { return };
    for (lsn, payload) in [second, first].into_iter().zip(payloads.iter().rev()) {
        if wal.wait(lsn).map_err(refused).is_ok() {
            disk.acknowledged(lsn, payload);
        }
    }
}

fn commit_twice(wal: &Wal, disk: &ModelDisk, thread: u8) {
    for number in 0..2 {
        commit(wal, disk, &[thread, number]);
    }
}

/// Appends and waits.
fn commit(wal: &Wal, disk: &ModelDisk, payload: &[u8]) {
    let Ok(lsn) = wal.append(payload).map_err(refused) else { return };
    if wal.wait(lsn).map_err(refused).is_ok() {
        disk.acknowledged(lsn, payload);
    }
}

/// The only thing that a thread may be told beside success.
fn refused(error: Error) {
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
}

impl Checked for Model {
    fn name(&self) -> &'static str {
        self.name
    }

    fn planted(&self) -> &'static [(u8, &'static str)] {
        self.planted
    }

    fn run(&self) {
        for fails in self.fails {
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = Some(self.preemptions);
            builder.max_branches = 5_000;
            let (order, depth, threads, work) = (self.order, self.depth, self.threads, self.work);
            let (fails, pending_size_max) = (fails.clone(), self.pending_size_max);
            let failing = fails.clone();
            let runs = Arc::new(AtomicU64::new(0));
            let count = runs.clone();
            builder.check(move || {
                count.fetch_add(1, Ordering::Relaxed);
                let disk = ModelDisk::new(order, depth);
                let options = Options {
                    segment_size: 64 << 10,
                    spares: 1,
                    depth,
                    group_size_max: 4096,
                    pending_size_max,
                    background: false,
                    new_log_id: 7,
                    ..Options::default()
                };
                let wal = open(&disk, options).expect("nothing fails yet");
                disk.fail(failing.clone());
                let others: Vec<_> = (0..threads)
                    .map(|thread| {
                        let (wal, disk) = (wal.clone(), disk.clone());
                        loom::thread::spawn(move || work(&wal, &disk, thread))
                    })
                    .collect();
                // Not in here: loom takes a wake-up that comes late, and is harmless, for the end of a join.
                others.into_iter().for_each(|other| other.join().expect("no thread panics"));
                // What failed before may fail the closing, too.
                let _ = wal.close().map_err(refused);
            });
            println!("{}, {fails:?} fail: {} orders", self.name, runs.load(Ordering::Relaxed));
        }
    }
}

fn open(disk: &ModelDisk, options: Options) -> Result<Wal> {
    let (wal, _) = Wal::open(Arc::new(disk.clone()), Path::new("model"), options)?;
    let settled = disk.clone();
    wal.set_hook(Box::new(move |lsn| settled.settled(lsn)));
    Ok(wal)
}

/// Runs a model with a bug planted, in a process of its own, and sees to it that the bug is found.
fn plant(at: usize, model: &dyn Checked, (bug, word): (u8, &str)) {
    let program = std::env::current_exe().expect("it runs");
    let mut command = Command::new(program);
    command.args(["planted", &at.to_string(), &bug.to_string()]).env("RUST_BACKTRACE", "0");
    let found = command.output().expect("it runs once more");
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(
        !found.status.success() && said.contains(word),
        "{}: canary {bug} is not found: {said}",
        model.name()
    );
    println!("{}: canary {bug} is found ({word})", model.name());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [_, at, bug] = &arguments[..] {
        canary::switch_on(bug.parse().expect("the number of a canary"));
        return models()[at.parse::<usize>().expect("the number of a model")].run();
    }
    for (at, model) in models().into_iter().enumerate() {
        model.run();
        model.planted().iter().for_each(|planted| plant(at, model, *planted));
    }
}
