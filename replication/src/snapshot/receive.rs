//! The follower's side: files in `state.incoming/`, then the new state.
//!
//! Parts are fetched in the order of the files, several at a time; those that come early wait in memory.
//! What is here, and stays here when the process dies, is the business of [`staging`](super::staging).
//! When all files are here they are taken over, a table at each tick; one that is found damaged then is
//! fetched again, alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use strandline_engine::{Adopted, Adoption, Index};
use strandline_wal::disk::Disk;

use super::staging::{self, Staging, Wrote};
use super::{CHUNK_LEN_MAX, Point};
use crate::message::{FileOffer, SnapshotBody};
use crate::{Error, Output, Replica, ReplicaId, Result, Transfer};

/// The directory, beside the state's.
pub(crate) const INCOMING_DIR: &str = "state.incoming";
/// No table is larger; the sum of all that an offer may have can be counted.
const FILE_LEN_MAX: u64 = 1 << 40;
/// How many parts are fetched at a time, those included that wait for one before them.
const WINDOW: usize = 16;
/// After so many election times without a part the leader is taken to be gone.
const PATIENCE_ELECTIONS: u64 = 20;

/// What is being received.
pub(crate) struct Receiver {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    current: Option<Receiving>,
    /// Whether there may be files of a transfer that has ended, and where the log ended then.
    leftovers: Option<u64>,
}

struct Receiving {
    from: ReplicaId,
    id: u64,
    index: Index,
    staging: Staging,
    /// What is fetched next: file and offset.
    next: (usize, u64),
    /// What was fetched and has not come, and for how many ticks.
    outstanding: BTreeMap<(u32, u64), u64>,
    /// What has come and follows what has not.
    early: BTreeMap<(u32, u64), Bytes>,
    /// Since the last part.
    ticks: u64,
    /// All files were here, and are being taken over.
    adoption: Option<Adoption>,
    /// All is taken over; the consensus has been told.
    is_complete: bool,
    /// All is taken over, and the log agrees with it: it is to stand still for a moment.
    waits_for_log: bool,
}

fn refused(reason: String) -> Error {
    Error::Message { offset: 0, reason }
}

/// Whether a peer may have a file of this name written here.
fn is_ours(place: usize, name: &str) -> bool {
    let is_of_table = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    match place {
        0 => name == "manifest",
        _ => name
            .strip_suffix(".table")
            .is_some_and(|stem| (1..=64).contains(&stem.len()) && stem.bytes().all(is_of_table)),
    }
}

impl Receiver {
    pub(crate) fn new(disk: Arc<dyn Disk>, group_dir: &std::path::Path) -> Self {
        Self { disk, dir: group_dir.join(INCOMING_DIR), current: None, leftovers: Some(u64::MAX) }
    }

    /// The leader does not have it any more.
    pub(crate) fn forget(&mut self, from: ReplicaId, id: u64) {
        let fetches = |r: &Receiving| (r.from, r.id) == (from, id) && !r.staging.is_complete();
        if self.current.as_ref().is_some_and(fetches) {
            self.end();
        }
    }

    /// Ends the transfer and leaves its files to the next one.
    fn end(&mut self) {
        self.current = None;
        self.leftovers = Some(u64::MAX);
    }

    /// Whether nothing may be appended, so that the log becomes idle.
    pub(crate) fn waits_for_log(&self) -> bool {
        self.current.as_ref().is_some_and(|receiving| receiving.waits_for_log)
    }

    /// Whether a checkpoint of this leader is on its way.
    pub(crate) fn receives_from(&self, leader: ReplicaId) -> bool {
        self.current.as_ref().is_some_and(|receiving| receiving.from == leader)
    }

    /// The checkpoint that is complete here, to be installed. Who has sent it, and its name.
    pub(crate) fn take_complete(&mut self) -> Option<(ReplicaId, u64, Adoption)> {
        let receiving = self.current.take()?;
        receiving.adoption.map(|adoption| (receiving.from, receiving.id, adoption))
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Option<Transfer> {
        self.current.as_ref().map(|receiving| receiving.staging.transfer())
    }

    /// Prepares the directory for an offer; keeps what is there of the same files.
    fn begin(
        &mut self,
        (from, id): (ReplicaId, u64),
        index: Index,
        files: Vec<FileOffer>,
        find: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<()> {
        self.current = None;
        let staging = Staging::begin(Arc::clone(&self.disk), &self.dir, files, find)?;
        self.current = Some(Receiving {
            from,
            id,
            index,
            staging,
            next: (0, 0),
            outstanding: BTreeMap::new(),
            early: BTreeMap::new(),
            ticks: 0,
            adoption: None,
            is_complete: false,
            waits_for_log: false,
        });
        Ok(())
    }

    /// Removes all that was received.
    pub(crate) fn clear(&mut self) -> Result<()> {
        (self.current, self.leftovers) = (None, None);
        match self.disk.exists(&self.dir)? {
            true => staging::clear(&*self.disk, &self.dir),
            false => Ok(()),
        }
    }

    /// Removes what an ended transfer has left, once the log goes on without it.
    fn tidy(&mut self, last: u64) -> Result<()> {
        match self.leftovers {
            Some(then) if self.current.is_none() && last > then => self.clear(),
            Some(then) => {
                self.leftovers = Some(then.min(last));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Receiving {
    /// Takes a part that was fetched. Whether it was one.
    fn take(&mut self, place: (u32, u64), bytes: Bytes) -> Result<bool> {
        let at = usize::try_from(place.0).unwrap_or(usize::MAX);
        let Some((len, _)) = self.staging.extent(at) else { return Ok(false) };
        let wanted = (len - place.1.min(len)).min(u64::from(CHUNK_LEN_MAX));
        if u64::try_from(bytes.len()) != Ok(wanted) {
            return Err(refused(format!("a part of {} bytes where {wanted} belong", bytes.len())));
        }
        if self.outstanding.remove(&place).is_none() {
            return Ok(false);
        }
        self.ticks = 0;
        self.early.insert(place, bytes);
        Ok(true)
    }

    /// Writes what follows what is there. `false` if a file came damaged too often.
    fn write(&mut self) -> Result<bool> {
        while let Some(at) = self.staging.incomplete_from(0) {
            let (_, here) = self.staging.extent(at).expect("it is one of the files");
            let place = (u32::try_from(at).expect("files are bounded"), here);
            let Some(bytes) = self.early.remove(&place) else { break };
            if self.staging.write(at, &bytes)? == Wrote::Mismatch {
                self.fetch_anew();
                return Ok(!self.staging.is_hopeless(at));
            }
        }
        Ok(true)
    }

    /// A file begins anew: whatever is under way may be of it.
    fn fetch_anew(&mut self) {
        self.outstanding.clear();
        self.early.clear();
        self.next = (0, 0);
    }

    /// The next part to fetch, if the window allows one.
    fn fetch(&mut self) -> Option<SnapshotBody> {
        if self.outstanding.len() + self.early.len() >= WINDOW {
            return None;
        }
        loop {
            let at = self.staging.incomplete_from(self.next.0)?;
            let (len, here) = self.staging.extent(at).expect("it is one of the files");
            let offset = if at == self.next.0 { self.next.1.max(here) } else { here };
            self.next = (at, offset);
            if offset >= len && len > 0 {
                self.next = (at + 1, 0);
                continue;
            }
            let place = (u32::try_from(at).expect("files are bounded"), offset);
            self.next.1 += u64::from(CHUNK_LEN_MAX);
            self.outstanding.insert(place, 0);
            return Some(self.request(place));
        }
    }

    fn request(&self, (file, offset): (u32, u64)) -> SnapshotBody {
        let at = usize::try_from(file).expect("files are bounded");
        let (len, _) = self.staging.extent(at).expect("it is one of the files");
        let rest = len - offset;
        let len = u32::try_from(rest).unwrap_or(CHUNK_LEN_MAX).min(CHUNK_LEN_MAX);
        SnapshotBody::Fetch { id: self.id, file, offset, len }
    }
}

impl Replica {
    /// The leader offers a checkpoint.
    pub(crate) fn offered(
        &mut self,
        from: ReplicaId,
        id: u64,
        index: Index,
        files: Vec<FileOffer>,
        output: &mut Output,
    ) -> Result<()> {
        let replaces = self.is_damaged() && index >= self.db().applied();
        if index <= self.consensus.committed() && !replaces {
            self.say(from, SnapshotBody::Done { id, installed: true }, output);
            return Ok(());
        }
        let known = self.receiver.current.as_ref().map(|receiving| (receiving.from, receiving.id));
        if known == Some((from, id)) {
            return Ok(());
        }
        let is_strange = |(place, file): (usize, &FileOffer)| {
            !is_ours(place, &file.name) || file.len == 0 || file.len > FILE_LEN_MAX
        };
        let names: BTreeSet<&String> = files.iter().map(|file| &file.name).collect();
        let is_odd = files.is_empty() || names.len() < files.len();
        if is_odd || files.iter().enumerate().any(is_strange) {
            return Err(refused("a checkpoint with a file that is not one of a checkpoint".into()));
        }
        let db = self.consensus.log().db();
        self.receiver.begin((from, id), index, files, |name| db.find_file(name))?;
        self.fetch_more(output);
        self.adopt_if_here(output)
    }

    fn fetch_more(&mut self, output: &mut Output) {
        while let Some(receiving) = &mut self.receiver.current {
            let from = receiving.from;
            let Some(fetch) = receiving.fetch() else { return };
            self.say(from, fetch, output);
        }
    }

    /// A part has come.
    pub(crate) fn chunk(
        &mut self,
        from: ReplicaId,
        id: u64,
        place: (u32, u64),
        bytes: Bytes,
        output: &mut Output,
    ) -> Result<()> {
        let Some(receiving) = &mut self.receiver.current else { return Ok(()) };
        if (receiving.from, receiving.id) != (from, id) || !receiving.take(place, bytes)? {
            return Ok(());
        }
        if !receiving.write()? {
            return self.give_up(output);
        }
        self.fetch_more(output);
        self.adopt_if_here(output)
    }

    /// When all files are here they are taken over.
    fn adopt_if_here(&mut self, output: &mut Output) -> Result<()> {
        let Some(receiving) = &mut self.receiver.current else { return Ok(()) };
        if !receiving.staging.is_complete() || receiving.adoption.is_some() {
            return Ok(());
        }
        receiving.staging.seal()?;
        match self.consensus.log().db().adopt(&self.receiver.dir) {
            Ok(adoption) => receiving.adoption = Some(adoption),
            Err(_) => self.give_up(output)?,
        }
        Ok(())
    }

    /// What came is of no use: it was damaged where it was read, or on the way.
    fn give_up(&mut self, output: &mut Output) -> Result<()> {
        let Some(receiving) = &self.receiver.current else { return Ok(()) };
        let (to, done) =
            (receiving.from, SnapshotBody::Done { id: receiving.id, installed: false });
        self.receiver.clear()?;
        self.say(to, done, output);
        Ok(())
    }

    pub(crate) fn receiving_tick(&mut self, output: &mut Output) -> Result<()> {
        let retry = 2 * u64::from(self.options.heartbeat_ticks) + 2;
        let patience = PATIENCE_ELECTIONS * u64::from(self.options.election_ticks);
        self.receiver.tidy(self.consensus.log().last())?;
        let Some(receiving) = &mut self.receiver.current else { return Ok(()) };
        receiving.ticks += 1;
        if receiving.adoption.is_some() && receiving.staging.is_complete() {
            return self.adopt_more(output);
        }
        if receiving.ticks > patience {
            self.receiver.end();
            return Ok(());
        }
        let mut again = Vec::new();
        for (place, ticks) in &mut receiving.outstanding {
            *ticks += 1;
            if ticks.is_multiple_of(retry) {
                again.push(*place);
            }
        }
        let from = receiving.from;
        let requests: Vec<_> = again.into_iter().map(|place| receiving.request(place)).collect();
        for request in requests {
            self.say(from, request, output);
        }
        Ok(())
    }

    /// All is here, and the log has to be idle.
    pub(crate) fn wait_for_log(&mut self) {
        if let Some(receiving) = &mut self.receiver.current {
            (receiving.waits_for_log, receiving.ticks) = (true, 0);
        }
    }

    /// Takes over one more table; tells the consensus when all are.
    fn adopt_more(&mut self, output: &mut Output) -> Result<()> {
        let Some(receiving) = &mut self.receiver.current else { return Ok(()) };
        let Some(adoption) = &mut receiving.adoption else { return Ok(()) };
        if receiving.is_complete {
            // The consensus had no use for it: the log went on meanwhile.
            return self.receiver.clear();
        }
        match self.consensus.log().db().adopt_slice(adoption) {
            Ok(Adopted::Part) => {
                receiving.ticks = 0;
                return Ok(());
            }
            Ok(Adopted::All) => {}
            Ok(Adopted::Damaged { name, .. }) => {
                if !receiving.staging.reject(&name)? {
                    return self.give_up(output);
                }
                receiving.ticks = 0;
                receiving.fetch_anew();
                self.fetch_more(output);
                return Ok(());
            }
            // An error of this disk would be met again elsewhere.
            Err(_) => return self.give_up(output),
        }
        let point = Point::of(adoption.index(), adoption.machine_state());
        let Ok(point) = point else { return self.give_up(output) };
        if self.replaces_under_log(&point) {
            return self.replace_under_log(point.index, output);
        }
        let Some(receiving) = &mut self.receiver.current else { return Ok(()) };
        // Whoever leads now has everything that is in it: it was committed.
        match self.consensus.leader() {
            Some(leader) if !self.consensus.is_leader() && self.stalled.is_none() => {
                receiving.is_complete = true;
                self.consensus.snapshot(leader, &point)
            }
            _ => Ok(()),
        }
    }

    /// The consensus takes the snapshot that is complete here: it becomes the state.
    pub(crate) fn install_snapshot(&mut self, index: Index, output: &mut Output) -> Result<()> {
        let receiving = self.receiver.current.take();
        let receiving = receiving.filter(|receiving| receiving.is_complete);
        let Some((receiving, adoption)) =
            receiving.and_then(|mut r| r.adoption.take().map(|adoption| (r, adoption)))
        else {
            let reason = format!("a snapshot at {index} was taken that is not here");
            return Err(Error::Stopped { reason });
        };
        assert!(adoption.index() == index && receiving.index <= index, "the one that was told of");
        self.db().install(&adoption)?;
        let terms = self.shared.lock().terms.clone();
        self.consensus.log_mut().restart(terms);
        self.receiver.clear()?;
        self.replacement.done();
        let done = SnapshotBody::Done { id: receiving.id, installed: true };
        self.say(receiving.from, done, output);
        Ok(())
    }
}
