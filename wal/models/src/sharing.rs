//! The queue that logs share: each thread has a lane, submits and waits.
//!
//! Checked is what a log is promised: each of its writes comes back once, and to it; whoever waits is woken, whoever
//! of the others leaves; the disk gets all that was submitted, and no more at once than it bears. Fairness is
//! not: it is tested where time passes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strandline_wal::canary;
use strandline_wal::disk::{
    Buffer, Disk, DurableWrite, File, OpenMode, SharedDisk, Submitted, WriteQueue,
};

use crate::Checked;
use crate::disk::{ModelDisk, Order};
use crate::queue::ModelQueue;

/// What a thread does with its lane. Returns how many writes it has submitted.
type Work = fn(Box<dyn WriteQueue>, &Arc<dyn File>, u64) -> usize;

pub struct Sharing {
    name: &'static str,
    threads: u64,
    /// How often a thread may be interrupted where it need not be.
    preemptions: usize,
    order: Order,
    /// How many writes the queue inside bears.
    places: usize,
    work: Work,
    planted: &'static [(u8, &'static str)],
}

pub const MODELS: &[Sharing] = &[
    Sharing {
        name: "sharing: one write each",
        threads: 3,
        preemptions: 2,
        order: Order::Oldest,
        places: 2,
        work: one_by_one,
        planted: &[(canary::QUEUE_NOT_HANDED_ON, "deadlock")],
    },
    Sharing {
        name: "sharing: the newest ends first",
        threads: 3,
        preemptions: 2,
        order: Order::Newest,
        places: 3,
        work: one_by_one,
        planted: &[(canary::QUEUE_NOT_HANDED_ON, "deadlock")],
    },
    Sharing {
        name: "sharing: more than there are places for",
        threads: 2,
        preemptions: 3,
        order: Order::Oldest,
        places: 2,
        work: three_at_once,
        planted: &[(canary::TURN_FORGOTTEN, "maximum number of branches")],
    },
    Sharing {
        name: "sharing: writes that end where they are submitted",
        threads: 3,
        preemptions: 2,
        order: Order::Caller,
        places: 2,
        work: two_at_once,
        planted: &[],
    },
    Sharing {
        name: "sharing: one looks and goes, one leaves",
        threads: 3,
        preemptions: 2,
        order: Order::Oldest,
        places: 2,
        work: look_or_leave,
        planted: &[],
    },
];

/// One write after the other.
fn one_by_one(lane: Box<dyn WriteQueue>, file: &Arc<dyn File>, thread: u64) -> usize {
    submit(&*lane, file, thread..thread + 1);
    1
}

fn two_at_once(lane: Box<dyn WriteQueue>, file: &Arc<dyn File>, thread: u64) -> usize {
    submit(&*lane, file, 10 * thread..10 * thread + 2);
    2
}

fn three_at_once(lane: Box<dyn WriteQueue>, file: &Arc<dyn File>, thread: u64) -> usize {
    submit(&*lane, file, 10 * thread..10 * thread + 3);
    3
}

/// One looks once before it waits, one goes without waiting, one waits.
fn look_or_leave(lane: Box<dyn WriteQueue>, file: &Arc<dyn File>, thread: u64) -> usize {
    let left = begin(&*lane, file, thread..thread + 1);
    match thread {
        0 => {
            let ended = lane.poll().into_iter().map(|completion| completion.id);
            let seen: Vec<u64> = ended.collect();
            await_all(&*lane, left.into_iter().filter(|id| !seen.contains(id)).collect());
        }
        1 => drop(lane),
        _ => await_all(&*lane, left),
    }
    1
}

/// Submits these and waits for all of them.
fn submit(lane: &dyn WriteQueue, file: &Arc<dyn File>, ids: std::ops::Range<u64>) {
    let left = begin(lane, file, ids);
    await_all(lane, left);
}

/// Submits these, at once if there are several; returns those that have not ended.
fn begin(lane: &dyn WriteQueue, file: &Arc<dyn File>, ids: std::ops::Range<u64>) -> Vec<u64> {
    let bytes = Arc::new(Buffer::with_capacity(4096));
    let write = |id| DurableWrite { id, file: file.clone(), offset: 0, bytes: bytes.clone() };
    let outcomes = match ids.end - ids.start {
        1 => vec![lane.submit(write(ids.start))],
        _ => lane.submit_all(ids.clone().map(write).collect()),
    };
    let left = ids.zip(outcomes).filter_map(|(id, outcome)| match outcome {
        Submitted::Done(result) => {
            result.expect("nothing fails");
            None
        }
        Submitted::Queued => Some(id),
    });
    left.collect()
}

fn await_all(lane: &dyn WriteQueue, mut left: Vec<u64>) {
    while !left.is_empty() {
        let ended = lane.complete();
        assert!(!ended.is_empty(), "nothing of {left:?} is under way any more");
        for completion in ended {
            completion.result.expect("nothing fails");
            let at = left.iter().position(|id| *id == completion.id);
            left.remove(at.expect("it was submitted here, and has not ended before"));
        }
    }
    assert!(lane.complete().is_empty(), "what has ended is told once");
}

impl Checked for Sharing {
    fn name(&self) -> &'static str {
        self.name
    }

    fn planted(&self) -> &'static [(u8, &'static str)] {
        self.planted
    }

    fn run(&self) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(self.preemptions);
        builder.max_branches = 5_000;
        let (order, places, threads, work) = (self.order, self.places, self.threads, self.work);
        let runs = Arc::new(AtomicU64::new(0));
        let count = runs.clone();
        builder.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let queue = ModelQueue::new(order, places);
            let disk = SharedDisk::new(Arc::new(ModelDisk::of_queue(queue.clone())));
            let file = disk.open(Path::new("model"), OpenMode::Log).expect("it opens all");
            let lanes: Vec<_> =
                (0..threads).map(|_| disk.write_queue().expect("there is room")).collect();
            let threads = lanes.into_iter().zip(0..).map(|(lane, thread)| {
                let file = file.clone();
                loom::thread::spawn(move || work(lane, &file, thread))
            });
            let threads: Vec<_> = threads.collect();
            let ended = threads.into_iter().map(|thread| thread.join().expect("no thread panics"));
            queue.has_performed(ended.sum());
        });
        println!("{}: {} orders", self.name, runs.load(Ordering::Relaxed));
    }
}
