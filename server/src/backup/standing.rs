//! Whom this node follows, in a running node; and what sessions ask before each command.
//!
//! Sessions look at the [`gate`](Standing::gate), one byte, before they take a write, and again when the
//! write holds its permits (see [`crate::session`]): so whoever shuts the gate and has had all permits
//! in his hand knows that no write of a client is on its way. Entries are appended by the backup's
//! thread alone then, in the [`epoch`](Order::epoch) in which it was told to; the epoch ends, under the
//! same lock as it appends, when the node is told otherwise.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use strandline_engine::{Error, Index, Result};

use super::lineage::{Generation, Lineage};
use super::link::Link;
use super::standing_file::{Content, StandingFile, Target};

/// Bits of the gate.
pub mod gate {
    /// A backup: clients' writes are refused.
    pub const READ_ONLY: u8 = 1;
    /// Too few backups are near: writes are refused.
    pub const NO_REPLICAS: u8 = 2;
    /// A backup without its primary that is not to serve what may be old: reads are refused.
    pub const STALE: u8 = 4;
}

/// What the backup's thread is to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// Names the order: another one has another epoch.
    pub epoch: u64,
    /// Whom to follow.
    pub target: Target,
    /// With which password; empty for none.
    pub password: String,
    /// Whether it may discard.
    pub may_discard: bool,
}

#[derive(Debug)]
struct Inner {
    /// None in a cluster, which decides by itself who leads.
    file: Option<StandingFile>,
    lineage: Arc<Lineage>,
    epoch: u64,
    link: Link,
    /// The processes from the primary upwards, as it said.
    path: Vec<String>,
    /// The backup's connection.
    stream: Option<TcpStream>,
    is_stopping: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Standing {
    gate: AtomicU8,
    inner: Mutex<Inner>,
    /// Wakes the backup's thread.
    changed: Condvar,
    /// Held while the server itself appends: as a backup, or to keep house.
    appending: Mutex<()>,
    /// Held while an order is obeyed: two at once would open the gate for each other.
    pub orders: tokio::sync::Mutex<()>,
}

/// A name that nothing else has.
fn draw() -> u128 {
    let mut bytes = [0; 16];
    let mut drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    while drawn != Ok(bytes.len()) {
        // Interrupted by a signal; the system has randomness since it started.
        drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    }
    u128::from_le_bytes(bytes).max(1)
}

/// A name for a node.
pub fn draw_node() -> u128 {
    draw()
}

impl Standing {
    /// As this file says; none in a cluster.
    pub fn new(file: Option<StandingFile>) -> Self {
        let lineage = file.as_ref().map_or(Lineage::default(), |file| file.get().lineage.clone());
        let inner = Inner {
            file,
            lineage: Arc::new(lineage),
            epoch: 0,
            link: Link::down("not tried yet", false),
            path: Vec::new(),
            stream: None,
            is_stopping: false,
        };
        Self {
            gate: AtomicU8::new(0),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            appending: Mutex::default(),
            orders: tokio::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What this lock guards is whole at every step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock under which the server itself appends.
    pub fn appending(&self) -> MutexGuard<'_, ()> {
        self.appending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with a log that ends at `last`: a primary begins a generation. `setting` is what
    /// `replicaof` says in the settings; it counts if it has changed since it was last looked at, else
    /// what was typed last does.
    ///
    /// # Errors
    ///
    /// If that cannot be kept.
    pub fn begin(&self, last: Index, setting: &str, password: &str) -> Result<()> {
        let mut inner = self.lock();
        let Some(file) = &inner.file else { return Ok(()) };
        let mut content = file.get().clone();
        if content.setting != setting && !setting.is_empty() {
            content.follows = Target::parse(setting);
            content.may_discard = false;
        }
        setting.clone_into(&mut content.setting);
        if !password.is_empty() {
            password.clone_into(&mut content.password);
        }
        content.lineage.keep_until(last);
        if content.follows.is_none() {
            content.lineage.begin(Generation { id: draw(), first: Index(last.0 + 1) });
        }
        inner.save(content)?;
        self.set(gate::READ_ONLY, inner.follows().is_some());
        if let Some(target) = inner.follows() {
            tracing::info!(primary = %target, "this node is a backup");
        }
        Ok(())
    }

    /// What is refused now; see [`gate`].
    pub fn gate(&self) -> u8 {
        self.gate.load(Ordering::Acquire)
    }

    /// Refuses something, or does not.
    pub fn set(&self, bit: u8, is_on: bool) {
        if is_on {
            self.gate.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.gate.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Whom this node follows; a primary follows nobody.
    pub fn follows(&self) -> Option<Target> {
        self.lock().follows().cloned()
    }

    /// Names the node; none in a cluster.
    pub fn node(&self) -> Option<u128> {
        self.lock().file.as_ref().map(|file| file.get().node)
    }

    /// The primary's password, as it was given last.
    pub fn password(&self) -> String {
        self.lock().file.as_ref().map_or(String::new(), |file| file.get().password.clone())
    }

    /// Who wrote the log.
    pub fn lineage(&self) -> Arc<Lineage> {
        self.lock().lineage.clone()
    }

    /// How the link to the primary is.
    pub fn link(&self) -> Link {
        self.lock().link.clone()
    }

    /// The processes from the primary upwards, as far as it is known.
    pub fn path(&self) -> Vec<String> {
        self.lock().path.clone()
    }

    /// Follows `target` from now on, durably. The gate is shut before, by who has seen to it that no
    /// write is on its way.
    ///
    /// # Errors
    ///
    /// If that cannot be kept: then nothing has changed.
    pub fn follow(&self, target: Target, password: &str, may_discard: bool) -> Result<()> {
        let _appending = self.appending();
        let mut inner = self.lock();
        inner.check()?;
        let Some(file) = &inner.file else { return Ok(()) };
        let mut content = file.get().clone();
        if !password.is_empty() {
            password.clone_into(&mut content.password);
        }
        content.follows = Some(target);
        content.may_discard = may_discard;
        inner.save(content)?;
        inner.end_epoch("not tried yet");
        self.set(gate::READ_ONLY, true);
        self.changed.notify_all();
        Ok(())
    }

    /// Follows nobody from now on, durably: a generation of its own begins after `last()`, which is asked
    /// when nothing more is appended.
    ///
    /// # Errors
    ///
    /// If that cannot be kept: then nothing has changed.
    pub fn lead(&self, last: impl FnOnce() -> Result<Index>) -> Result<()> {
        let _appending = self.appending();
        let last = last()?;
        let mut inner = self.lock();
        inner.check()?;
        let Some(file) = &inner.file else { return Ok(()) };
        let mut content = Content { follows: None, may_discard: false, ..file.get().clone() };
        content.lineage.keep_until(last);
        content.lineage.begin(Generation { id: draw(), first: Index(last.0 + 1) });
        inner.save(content)?;
        inner.end_epoch("this node follows nobody");
        self.set(gate::READ_ONLY | gate::STALE, false);
        self.changed.notify_all();
        Ok(())
    }

    /// Uses another password from now on, and tries it at once.
    ///
    /// # Errors
    ///
    /// If that cannot be kept.
    pub fn set_password(&self, password: &str) -> Result<()> {
        let mut inner = self.lock();
        let Some(file) = &inner.file else { return Ok(()) };
        if file.get().follows.is_none() || file.get().password == password {
            return Ok(());
        }
        let content = Content { password: password.to_owned(), ..file.get().clone() };
        inner.save(content)?;
        self.changed.notify_all();
        Ok(())
    }

    /// For the backup's thread: waits for an order; none when the node stops.
    pub fn wait_for_order(&self) -> Option<Order> {
        let mut inner = self.lock();
        loop {
            if inner.is_stopping || inner.is_staged() {
                return None;
            }
            if let Some(file) = &inner.file
                && let Some(target) = &file.get().follows
            {
                return Some(Order {
                    epoch: inner.epoch,
                    target: target.clone(),
                    password: file.get().password.clone(),
                    may_discard: file.get().may_discard,
                });
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits a while, less if there is news.
    pub fn pause(&self, time: Duration) {
        let inner = self.lock();
        if !inner.is_stopping {
            let _ = self.changed.wait_timeout(inner, time);
        }
    }

    /// Whether this is still what to do.
    pub fn is_current(&self, epoch: u64) -> bool {
        let inner = self.lock();
        inner.epoch == epoch && !inner.is_stopping
    }

    /// The backup's thread has connected; false if that is not wanted any more.
    pub fn connected(&self, epoch: u64, stream: TcpStream, path: &[String]) -> bool {
        let mut inner = self.lock();
        if inner.epoch != epoch || inner.is_stopping {
            return false;
        }
        inner.stream = Some(stream);
        inner.path = path.to_vec();
        true
    }

    /// Says how the link is.
    pub fn set_link(&self, epoch: u64, link: Link) {
        let mut inner = self.lock();
        if inner.epoch == epoch {
            inner.link = link;
        }
    }

    /// The primary was heard: everything up to `durable` is durable there.
    pub fn heard(&self, epoch: u64, durable: Index) {
        let mut inner = self.lock();
        let known = match inner.link {
            Link::Up { durable, .. } => durable,
            _ => Index(0),
        };
        let link = Link::Up { heard: Instant::now(), durable: known.max(durable) };
        if inner.epoch == epoch {
            inner.link = link;
        }
    }

    /// Says that the link has ended, and why; returns whether that is news.
    pub fn set_down(&self, epoch: u64, reason: &str, is_refused: bool) -> bool {
        let mut inner = self.lock();
        if inner.epoch != epoch || inner.is_stopping {
            return false;
        }
        inner.stream = None;
        if let Link::Down { reason: old, is_refused: was_refused, .. } = &mut inner.link {
            let is_news = old != reason;
            reason.clone_into(old);
            *was_refused = is_refused;
            return is_news;
        }
        inner.link = Link::down(reason, is_refused);
        true
    }

    /// For the backup's thread: writes down that a generation begins, before its first entry is appended.
    ///
    /// # Errors
    ///
    /// If that cannot be kept.
    pub fn begin_generation(&self, generation: Generation) -> Result<()> {
        let mut inner = self.lock();
        let Some(file) = &inner.file else { return Ok(()) };
        let mut content = file.get().clone();
        content.lineage.begin(generation);
        inner.save(content)
    }

    /// For the backup's thread: a whole state lies beside, and takes the place of all there is when the
    /// node opens again. False if that is not wanted any more.
    ///
    /// # Errors
    ///
    /// If that cannot be kept.
    pub fn stage(&self, epoch: u64, index: Index, lineage: Lineage) -> Result<bool> {
        let _appending = self.appending();
        let mut inner = self.lock();
        let is_current = inner.epoch == epoch && !inner.is_stopping;
        let Some(file) = inner.file.as_ref().filter(|_| is_current) else { return Ok(false) };
        let copy = Some(index);
        let content = Content { copy, lineage, may_discard: false, ..file.get().clone() };
        inner.save(content)?;
        inner.end_epoch("a whole state is being taken over");
        Ok(true)
    }

    /// Ends the backup's thread.
    pub fn stop(&self) {
        let mut inner = self.lock();
        inner.is_stopping = true;
        inner.end_epoch("this node is stopping");
        self.changed.notify_all();
    }
}

impl Inner {
    fn save(&mut self, content: Content) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if *file.get() == content {
            return Ok(());
        }
        file.save(content)?;
        if *self.lineage != file.get().lineage {
            self.lineage = Arc::new(file.get().lineage.clone());
        }
        Ok(())
    }

    /// Whether a whole state waits to be taken over when the node opens again.
    fn is_staged(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.get().copy.is_some())
    }

    /// The node is about to open again: what it is told now would be lost.
    fn check(&self) -> Result<()> {
        if self.is_staged() { Err(Error::Closed) } else { Ok(()) }
    }

    fn follows(&self) -> Option<&Target> {
        self.file.as_ref()?.get().follows.as_ref()
    }

    /// What was ordered counts no more.
    fn end_epoch(&mut self, reason: &str) {
        self.epoch += 1;
        self.link = Link::down(reason, false);
        self.path.clear();
        if let Some(stream) = self.stream.take() {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use strandline_wal::disk::SimulatedDisk;

    use super::*;

    fn open(disk: &Arc<SimulatedDisk>, last: u64, setting: &str) -> Standing {
        let file = StandingFile::open(disk.clone(), Path::new("/node"), 7).unwrap();
        let standing = Standing::new(Some(file));
        standing.begin(Index(last), setting, "").unwrap();
        standing
    }

    fn target(text: &str) -> Target {
        Target::parse(text).unwrap()
    }

    #[test]
    fn every_opening_of_a_primary_is_a_generation_of_its_own() {
        let disk = SimulatedDisk::new(1);
        let first = open(&disk, 0, "").lineage().newest().unwrap();
        let lineage = open(&disk, 10, "").lineage();
        assert_eq!(lineage.list().len(), 2);
        assert_eq!(lineage.at(Index(10)), Some(first));
        // Entries of the second that were lost were perhaps seen by others: the name is not used again.
        let again = open(&disk, 10, "").lineage();
        assert_ne!(again.newest(), lineage.newest());
        assert_eq!(again.list().len(), 2);
    }

    #[test]
    fn what_was_typed_last_counts_until_the_setting_changes() {
        let disk = SimulatedDisk::new(1);
        let standing = open(&disk, 0, "a 1");
        assert_eq!(standing.follows(), Some(target("a 1")));
        assert_eq!(standing.gate(), gate::READ_ONLY);
        assert!(standing.lineage().list().is_empty(), "a backup begins no generation");
        standing.lead(|| Ok(Index(5))).unwrap();
        assert_eq!((standing.follows(), standing.gate()), (None, 0));
        assert_eq!(open(&disk, 5, "a 1").follows(), None);
        assert_eq!(open(&disk, 5, "").follows(), None);
        assert_eq!(open(&disk, 5, "b 2").follows(), Some(target("b 2")));
        let standing = open(&disk, 5, "b 2");
        standing.follow(target("c 3"), "tide", true).unwrap();
        let standing = open(&disk, 5, "b 2");
        let order = standing.wait_for_order().unwrap();
        assert_eq!((order.target, order.may_discard), (target("c 3"), true));
        assert_eq!(order.password, "tide");
    }

    #[test]
    fn an_order_ends_when_there_is_another() {
        let disk = SimulatedDisk::new(1);
        let standing = open(&disk, 0, "a 1");
        let order = standing.wait_for_order().unwrap();
        assert!(standing.is_current(order.epoch));
        standing.follow(target("b 2"), "", false).unwrap();
        assert!(!standing.is_current(order.epoch));
        assert!(!standing.stage(order.epoch, Index(4), Lineage::default()).unwrap());
        let order = standing.wait_for_order().unwrap();
        assert!(standing.stage(order.epoch, Index(4), Lineage::default()).unwrap());
        standing.stop();
        assert!(standing.wait_for_order().is_none());
    }
}
