//! Many writers on one thread: each is a future, and none holds a thread while it waits for the disk.
//!
//! `cargo run --release -p strandline-wal --example futures -- [DIR]`. The executor is thirty lines
//! to show that any will do.

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};

use strandline_wal::disk::RealDisk;
use strandline_wal::{Options, Wal};

/// How many writers, and how many records each writes one after the other.
const WRITERS: usize = 1000;
const RECORDS: u32 = 20;

/// Waking puts the number of the future into the queue of those to be polled.
struct Number(usize, Sender<usize>);

impl Wake for Number {
    fn wake(self: Arc<Self>) {
        // The executor has gone when all are done.
        let _ = self.1.send(self.0);
    }
}

async fn write(wal: Wal, writer: usize) -> strandline_wal::Result<()> {
    for round in 0..RECORDS {
        let record = format!("writer {writer}, record {round}");
        // It is on disk, in this order, before the next one is made.
        wal.submit(&[record.as_bytes()])?.await?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let parent = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = parent.join(format!("strandline-futures-{}", std::process::id()));
    let (wal, _) =
        Wal::open(Arc::new(RealDisk::open(&dir, None)?), &dir.join("log"), Options::default())?;

    let (ready, to_poll) = channel();
    type Writer = Pin<Box<dyn Future<Output = strandline_wal::Result<()>>>>;
    let mut writers: Vec<(Option<Writer>, Waker)> = (0..WRITERS)
        .map(|number| {
            let waker = Waker::from(Arc::new(Number(number, ready.clone())));
            let future: Writer = Box::pin(write(wal.clone(), number));
            (Some(future), waker)
        })
        .collect();
    (0..WRITERS).try_for_each(|number| ready.send(number))?;
    let mut running = WRITERS;
    while running > 0 {
        let (future, waker) = &mut writers[to_poll.recv()?];
        let Some(unfinished) = future else { continue };
        if let Poll::Ready(result) = unfinished.as_mut().poll(&mut Context::from_waker(waker)) {
            result?;
            *future = None;
            running -= 1;
        }
    }
    let stats = wal.stats();
    println!("{} records are on disk, in {} writes", wal.durable(), stats.syncs);
    wal.close()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
