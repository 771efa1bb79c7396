//! Handles to what was appended: waited for, polled, called back; none hangs, whatever fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use strandline_wal::disk::probe::LADDER;
use strandline_wal::disk::simulated::SimulatedDisk;
use strandline_wal::disk::{Disk, RealDisk};
use strandline_wal::{Error, Lsn, Options, Ticket, Wal};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn small() -> Options {
    Options {
        segment_size: 64 << 10,
        group_size_max: 8 << 10,
        pending_size_max: 16 << 10,
        ..Options::default()
    }
}

#[test]
fn futures_and_callbacks_beside_threads_that_wait_on_every_rung() {
    for rung in LADDER {
        for events in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let disk = match RealDisk::open(dir.path(), Some(rung)) {
                Ok(disk) => Arc::new(disk),
                Err(error) => {
                    eprintln!("skipped: {error}");
                    continue;
                }
            };
            let options = Options { segment_size: 256 << 10, events, ..Options::default() };
            let (wal, _) = Wal::open(disk, &dir.path().join("log"), options).unwrap();
            let called = Arc::new(AtomicU64::new(0));
            // With events somebody has to turn the loop.
            let over = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                let turned = scope.spawn(|| {
                    while events && !over.load(Ordering::Acquire) {
                        wal.pump().unwrap();
                        std::thread::sleep(Duration::from_micros(200));
                    }
                });
                let workers: Vec<_> = (0..6_u8)
                    .map(|worker| {
                        let (wal, called) = (&wal, &called);
                        scope.spawn(move || {
                            for round in 0..40_u8 {
                                let ticket = wal.submit(&[&[worker, round], b"second"]).unwrap();
                                let lsn = ticket.lsn();
                                match worker % 3 {
                                    0 => assert_eq!(ticket.wait().unwrap(), lsn),
                                    1 => assert_eq!(block_on(ticket).unwrap(), lsn),
                                    _ => {
                                        let called = called.clone();
                                        let told = move |outcome: Result<Lsn, Error>| {
                                            assert_eq!(outcome.unwrap(), lsn);
                                            let thread = std::thread::current();
                                            assert_eq!(thread.name(), Some("strandline-notify"));
                                            called.fetch_add(1, Ordering::AcqRel);
                                        };
                                        ticket.then(told).unwrap();
                                        continue;
                                    }
                                }
                                assert!(wal.durable() >= lsn);
                            }
                        })
                    })
                    .collect();
                workers.into_iter().for_each(|worker| worker.join().unwrap());
                wal.sync().unwrap();
                over.store(true, Ordering::Release);
                turned.join().unwrap();
            });
            wal.close().unwrap();
            while called.load(Ordering::Acquire) < 80 {
                std::thread::yield_now();
            }
            assert_eq!(wal.last(), Lsn(6 * 40 * 2));
        }
    }
}

/// A disk on which nothing ends until it is told to, and a log that only its caller drives.
fn stepped() -> (Arc<SimulatedDisk>, Wal) {
    let disk = SimulatedDisk::new(3);
    let options = Options { background: false, ..small() };
    let (wal, _) = Wal::open(disk.clone(), Path::new("/log"), options).unwrap();
    disk.set_stepped(true);
    (disk, wal)
}

#[test]
fn memory_is_bounded_and_whoever_would_wait_is_told() {
    let (disk, wal) = stepped();
    let mut tickets = Vec::new();
    let mut refused = 0;
    for _ in 0..1000 {
        match wal.try_submit(&[&[9; 1000]]).unwrap() {
            Some(ticket) => tickets.push(ticket),
            None => refused += 1,
        }
        assert!(wal.stats().pending_bytes <= 16 << 10);
        // What is submitted stays in flight.
        wal.pump().unwrap();
    }
    assert!(refused > 900, "{refused}");
    assert!(tickets.iter().all(|ticket| !ticket.is_durable()));
    while tickets.iter().any(|ticket| !ticket.is_durable()) {
        disk.complete_one();
        wal.pump().unwrap();
    }
    assert!(wal.try_submit(&[&[9; 1000]]).unwrap().is_some(), "there is room again");
}

fn poll_once(ticket: &mut Ticket, waker: &Waker) -> Poll<Result<Lsn, Error>> {
    Pin::new(ticket).poll(&mut Context::from_waker(waker))
}

struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

#[test]
fn the_last_waker_is_woken_once_and_a_dropped_future_not_at_all() {
    let (disk, wal) = stepped();
    let wakers: Vec<_> = (0..3).map(|_| Arc::new(Count(AtomicU64::new(0)))).collect();
    let mut kept = wal.submit(&[b"kept"]).unwrap();
    let mut dropped = wal.submit(&[b"dropped"]).unwrap();
    assert!(poll_once(&mut kept, &wakers[0].clone().into()).is_pending());
    assert!(poll_once(&mut kept, &wakers[1].clone().into()).is_pending());
    assert!(poll_once(&mut dropped, &wakers[2].clone().into()).is_pending());
    drop(dropped);
    while wal.durable() < Lsn(2) {
        wal.pump().unwrap();
        disk.complete_one();
    }
    let woken: Vec<_> = wakers.iter().map(|waker| waker.0.load(Ordering::Acquire)).collect();
    assert_eq!(woken, [0, 1, 0]);
    assert!(matches!(poll_once(&mut kept, Waker::noop()), Poll::Ready(Ok(Lsn(1)))));
}

#[test]
fn a_failure_reaches_everybody() {
    let disk = SimulatedDisk::new(4);
    let (wal, _) = Wal::open(disk.clone(), Path::new("/log"), small()).unwrap();
    wal.submit(&[b"before"]).unwrap().wait().unwrap();
    let (told, outcomes) = channel();
    disk.fail_writes_from(disk.operations() + 1, u64::MAX >> 1);
    std::thread::scope(|scope| {
        for kind in 0..9 {
            let (wal, told) = (&wal, told.clone());
            scope.spawn(move || {
                let ticket = match wal.submit(&[b"lost"]) {
                    Ok(ticket) => ticket,
                    Err(error) => return told.send(Err(error)).unwrap(),
                };
                match kind % 3 {
                    0 => told.send(ticket.wait()).unwrap(),
                    1 => told.send(block_on(ticket)).unwrap(),
                    _ => ticket.then(move |outcome| told.send(outcome).unwrap()).unwrap(),
                }
            });
        }
    });
    for _ in 0..9 {
        let outcome = outcomes.recv_timeout(Duration::from_secs(60)).expect("nobody hangs");
        assert!(matches!(outcome, Err(Error::Poisoned { .. })), "{outcome:?}");
    }
    // And whoever comes later.
    assert!(matches!(wal.submit(&[b"late"]), Err(Error::Poisoned { .. })));
}

#[test]
fn closing_ends_what_waits_and_a_callback_that_panics_harms_no_other() {
    let disk = SimulatedDisk::new(5);
    let (wal, _) = Wal::open(disk, Path::new("/log"), small()).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    for number in 0..50 {
        let order = order.clone();
        let ticket = wal.submit(&[b"record"]).unwrap();
        let note = move |outcome: Result<Lsn, Error>| {
            order.lock().unwrap().push(outcome.unwrap().0);
            assert!(number != 7, "this callback panics on purpose");
        };
        ticket.then(note).unwrap();
    }
    wal.close().unwrap();
    while order.lock().unwrap().len() < 50 {
        std::thread::yield_now();
    }
    // One given to what is durable already may overtake those that are just being told of it.
    order.lock().unwrap().sort_unstable();
    assert_eq!(*order.lock().unwrap(), (1..=50).collect::<Vec<_>>());
    assert!(matches!(wal.submit(&[b"late"]), Err(Error::Closed)));
}

/// The last handle may be a ticket's, and its log is closed with it.
#[test]
fn tickets_keep_the_log_open() {
    let disk = SimulatedDisk::new(6);
    let (wal, _) = Wal::open(disk.clone(), Path::new("/log"), small()).unwrap();
    let tickets: Vec<_> = (0..4).map(|_| wal.submit(&[b"record"]).unwrap()).collect();
    drop(wal);
    let (told, outcome) = channel();
    for (number, ticket) in tickets.into_iter().enumerate() {
        match number {
            0 => drop(ticket),
            1 => assert_eq!(block_on(ticket).unwrap(), Lsn(2)),
            2 => {
                let told = told.clone();
                ticket.then(move |outcome| told.send(outcome).unwrap()).unwrap();
            }
            _ => assert_eq!(ticket.wait().unwrap(), Lsn(4)),
        }
    }
    assert_eq!(outcome.recv_timeout(Duration::from_secs(60)).unwrap().unwrap(), Lsn(3));
    let (wal, _) = Wal::open(disk, Path::new("/log"), small()).unwrap();
    assert_eq!(wal.last(), Lsn(4));
    assert_eq!(wal.stats().rung, Some(wal_rung()));
}

fn wal_rung() -> strandline_wal::disk::Rung {
    SimulatedDisk::new(1).profile().rung
}
