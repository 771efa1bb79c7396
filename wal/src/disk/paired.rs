//! The two directories of a log, its own and its spare one, each on its disk, as one.
//!
//! The log's own directory lists the files of both; [`Disk::locate`] says where one of them stands, and a path
//! is the business of the disk that it leads to. So whoever opens, verifies or mends a log need not know
//! that it has two. Names are given once over both; a name that stands in both is refused.
//!
//! Each disk has its queue, and a write goes to the one of its file's disk. A thread that waits for
//! completions waits for both: a write that hangs on one disk holds up nobody who waits for the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};

use super::{
    Completion, Disk, DurableWrite, File, Lock, Map, OpenMode, Profile, Submitted, WriteQueue,
    io_error,
};
use crate::{Error, Result};

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Own,
    Spare,
}

const PLACES: [Place; 2] = [Place::Own, Place::Spare];

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct PairedDisk {
    own: (Arc<dyn Disk>, PathBuf),
    spare: (Arc<dyn Disk>, PathBuf),
    /// Names that both directories have.
    private: &'static [&'static str],
    /// Whether no write is ever performed in the thread that submits it.
    is_apart: bool,
}

impl PairedDisk {
    /// The directories with their disks. Files of the names `private` are of one directory each.
    pub(crate) fn new(
        own: (Arc<dyn Disk>, PathBuf),
        spare: (Arc<dyn Disk>, PathBuf),
        private: &'static [&'static str],
        is_apart: bool,
    ) -> Self {
        Self { own, spare, private, is_apart }
    }

    fn place_of(&self, path: &Path) -> Place {
        match path.starts_with(&self.spare.1) {
            true => Place::Spare,
            false => Place::Own,
        }
    }

    fn at(&self, place: Place) -> &dyn Disk {
        match place {
            Place::Own => &*self.own.0,
            Place::Spare => &*self.spare.0,
        }
    }

    fn of(&self, path: &Path) -> &dyn Disk {
        self.at(self.place_of(path))
    }

    /// The names in the spare directory that count as the log's.
    fn spare_names(&self) -> Result<Vec<String>> {
        let mut names = self.spare.0.list(&self.spare.1)?;
        names.retain(|name| !self.private.contains(&name.as_str()));
        Ok(names)
    }

    fn queue(&self, disk: &dyn Disk, is_apart: bool) -> Result<Lane> {
        let queue = if is_apart { disk.event_queue()? } else { disk.write_queue()? };
        Ok(Lane { queue: queue.into(), in_flight: AtomicUsize::new(0) })
    }

    fn queues(&self, is_apart: bool) -> Result<Box<dyn WriteQueue>> {
        let lanes = [
            self.queue(self.at(Place::Own), is_apart)?,
            self.queue(self.at(Place::Spare), is_apart)?,
        ];
        let bell = match (lanes[0].queue.completion_fd(), lanes[1].queue.completion_fd()) {
            (Some(own), Some(spare)) => Some(both(&[own, spare], &self.own.1)?),
            _ => None,
        };
        Ok(Box::new(PairedQueue { lanes, bell }))
    }
}

/// A descriptor that is readable while one of these is.
fn both(descriptors: &[BorrowedFd<'_>], dir: &Path) -> Result<OwnedFd> {
    let failed = |error: rustix::io::Errno| io_error("epoll", dir, 0, error.into());
    let all = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
    for descriptor in descriptors {
        epoll::add(&all, descriptor, EventData::new_u64(0), EventFlags::IN).map_err(failed)?;
    }
    Ok(all)
}

impl Disk for PairedDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.of(dir).create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let mut names = self.of(dir).list(dir)?;
        if dir == self.own.1 {
            names.retain(|name| !self.private.contains(&name.as_str()));
            for name in self.spare_names()? {
                if names.contains(&name) {
                    return Err(Error::Foreign {
                        path: self.spare.1.join(&name),
                        expected: format!("a name that {} does not have", dir.display()),
                        found: "it has it too".into(),
                    });
                }
                names.push(name);
            }
            names.sort();
        }
        Ok(names)
    }

    fn locate(&self, dir: &Path, name: &str) -> Result<PathBuf> {
        if dir == self.own.1 && self.spare_names()?.iter().any(|spare| spare == name) {
            return Ok(self.spare.1.join(name));
        }
        Ok(dir.join(name))
    }

    fn spare_of(&self, dir: &Path) -> Option<PathBuf> {
        (dir == self.own.1).then(|| self.spare.1.clone())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let place = self.place_of(path);
        let file = self.at(place).open(path, mode)?;
        Ok(Arc::new(PairedFile { place, file }))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.of(path).exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.of(from).rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.of(path).remove(path)
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.of(from).link(from, to)
    }

    /// For the log's own directory: of both.
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        if dir == self.own.1 {
            self.spare.0.sync_dir(&self.spare.1)?;
        }
        self.of(dir).sync_dir(dir)
    }

    fn map_front(&self, path: &Path, len: u64) -> Result<Map> {
        self.of(path).map_front(path, len)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.of(path).lock(path)
    }

    fn write_queue(&self) -> Result<Box<dyn WriteQueue>> {
        self.queues(self.is_apart)
    }

    fn event_queue(&self) -> Result<Box<dyn WriteQueue>> {
        self.queues(true)
    }

    fn profile(&self) -> Profile {
        let (own, spare) = (self.own.0.profile(), self.spare.0.profile());
        Profile {
            rung: own.rung,
            alignment: own.alignment.max(spare.alignment),
            depth_max: own.depth_max.min(spare.depth_max),
        }
    }

    fn readers_max(&self) -> usize {
        self.own.0.readers_max().min(self.spare.0.readers_max())
    }

    fn draw(&self, into: &mut [u8]) -> Result<()> {
        self.own.0.draw(into)
    }

    fn now(&self) -> Duration {
        self.own.0.now()
    }
}

/// A file of one of the disks.
#[derive(Debug)]
struct PairedFile {
    place: Place,
    file: Arc<dyn File>,
}

impl File for PairedFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn allocate(&self, len: u64) -> Result<()> {
        self.file.allocate(len)
    }
}

/// The queue of one disk.
#[derive(Debug)]
struct Lane {
    queue: Arc<dyn WriteQueue>,
    /// Writes that were submitted and not fetched.
    in_flight: AtomicUsize,
}

impl Lane {
    fn fetched(&self, ended: Vec<Completion>) -> Vec<Completion> {
        self.in_flight.fetch_sub(ended.len(), Ordering::AcqRel);
        ended
    }

    fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // A write that hangs is left to the end of the process, with its memory: a queue waits for its writes.
        if !self.is_idle() {
            std::mem::forget(self.queue.clone());
        }
    }
}

/// The queues of both.
#[derive(Debug)]
struct PairedQueue {
    lanes: [Lane; 2],
    /// Readable when one of them may have something; none if they do not tell.
    bell: Option<OwnedFd>,
}

impl WriteQueue for PairedQueue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        let file: &dyn std::any::Any = &*write.file;
        let Some(PairedFile { place, file }) = file.downcast_ref() else {
            let reason = format!("a durable write to {:?}, a file of another disk", write.file);
            return Submitted::Done(Err(Error::InvalidOption { reason }));
        };
        let at = PLACES.iter().position(|other| other == place).expect("it is one of the two");
        let lane = &self.lanes[at];
        lane.in_flight.fetch_add(1, Ordering::AcqRel);
        let submitted = lane.queue.submit(DurableWrite { file: file.clone(), ..write });
        if let Submitted::Done(_) = submitted {
            lane.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
        submitted
    }

    fn complete(&self) -> Vec<Completion> {
        let Some(bell) = &self.bell else {
            // A log goes on in its spare directory only, so what is in flight there is what is waited for.
            let lane = self.lanes.iter().rev().find(|lane| !lane.is_idle());
            return lane.map(|lane| lane.fetched(lane.queue.complete())).unwrap_or_default();
        };
        loop {
            let ended = self.poll();
            if !ended.is_empty() || self.lanes.iter().all(Lane::is_idle) {
                return ended;
            }
            // An error is a signal's; whatever it is, looking again is right.
            let _ = poll(&mut [PollFd::new(bell, PollFlags::IN)], None);
        }
    }

    fn poll(&self) -> Vec<Completion> {
        self.lanes.iter().flat_map(|lane| lane.fetched(lane.queue.poll())).collect()
    }

    fn places_max(&self) -> Option<usize> {
        let [own, spare] = self.lanes.each_ref().map(|lane| lane.queue.places_max());
        own.zip(spare).map(|(own, spare)| own.min(spare))
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(AsFd::as_fd)
    }
}
