//! The only place that knows the engine's `Db`: opening it, proposing runs, taking views, closing.
//!
//! A store stands alone, or is a replica of a cluster: then what is proposed goes to the replica's thread
//! (see [`crate::cluster`]), and reads ask there whether they may be answered.
//!
//! A store that stands alone is driven by the threads of sessions themselves (see [`crate::driving`]), which
//! never wait for the disk. In a cluster two threads lead the log, so that one group fills while another
//! is written, and tell the replica's thread (D11).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use strandline_engine::{
    Db, DbOptions, Durability, EntryHeader, EntryKind, Error, Index, Result, View,
};
use strandline_replication::Replica;
use strandline_wal::disk::{Disk, RealDisk, Rung};

use crate::apply::{DATA, KEYSPACES, keyspaces_missing};
use crate::backup::standing_file::StandingFile;
use crate::backup::{Standing, copy, standing};
use crate::cache::Found;
use crate::cluster::group::{Group, Input, Proposal};
use crate::cluster::nodes::Nodes;
use crate::driving::Driving;
use crate::machine::{Machine, Shared};
use crate::submission::{Answers, Run, Submissions};
use crate::value::Stored;
use crate::{clock, entry};

/// How many threads write to the log of a replica: one fills the disk while the other applies.
const COMMIT_THREADS: usize = 2;

/// A run that was refused before it was proposed, and why.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub error: Error,
    /// The run, untouched; none if the refusal came after it was registered, and it was answered.
    pub run: Option<Run>,
}

/// The store of a server.
pub struct Store {
    db: Db,
    /// The replica, if the store has others.
    group: Option<Arc<Group>>,
    /// Drives the log, if the store stands alone.
    driving: Option<Driving>,
    shared: Arc<Shared>,
    submissions: Arc<Submissions>,
    /// Whether writes are acknowledged from memory.
    memory: AtomicBool,
    rung: Rung,
    /// Whom this node follows, and what clients may do meanwhile.
    standing: Standing,
    /// Whether what every server's state needs is in the log.
    prepared: AtomicBool,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Store").field("db", &self.db).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `dir` of the real disk and starts its thread.
    ///
    /// # Errors
    ///
    /// If the directory is in use, damaged, foreign or newer than this program, or cannot be read.
    pub fn open(dir: &Path, options: DbOptions) -> Result<(Store, Vec<JoinHandle<()>>)> {
        let disk = RealDisk::open(dir, options.rung)?;
        Store::open_on(Arc::new(disk), dir, options)
    }

    /// Opens the store in `dir` of `disk` and starts its thread.
    ///
    /// # Errors
    ///
    /// As for [`open`](Store::open).
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        mut options: DbOptions,
    ) -> Result<(Store, Vec<JoinHandle<()>>)> {
        options.wal.events = true;
        let rung = disk.profile().rung;
        let shared = Arc::new(Shared::default());
        let submissions = Arc::new(Submissions::default());
        let machine = Machine::new(Answers::new(submissions.clone()), shared.clone());
        refuse_replicas(&*disk, dir)?;
        let mut file = StandingFile::open(disk.clone(), dir, standing::draw_node())?;
        copy::make_room(&file, dir, options.wal.spare.as_ref())?;
        let db = Db::open_with(disk.clone(), dir, options, Box::new(machine))?;
        copy::take_over(&mut file, &db)?;
        // The first entry of every server's log creates it.
        let is_ours = |(name, id): &(&str, _)| db.keyspace(name).is_none_or(|found| found == *id);
        let is_new = db.log().last().0 == 0;
        if !KEYSPACES.iter().all(is_ours) || !is_new && db.keyspace(KEYSPACES[0].0).is_none() {
            return Err(Error::Malformed {
                what: "directory",
                offset: 0,
                reason: "it holds keyspaces of another program: a server needs one of its own"
                    .into(),
            });
        }
        let (driving, thread) = Driving::start(&db);
        let memory = AtomicBool::new(false);
        let store = Store {
            db,
            group: None,
            driving: Some(driving),
            shared,
            submissions,
            memory,
            rung,
            standing: Standing::new(Some(file)),
            prepared: AtomicBool::new(false),
            disk,
            dir: dir.to_path_buf(),
        };
        Ok((store, vec![thread]))
    }

    /// Opens a replica in `dir` of `disk`, with its commit threads, and what drives it.
    ///
    /// # Errors
    ///
    /// As for [`open`](Store::open), and if the directory is another replica's.
    pub fn open_replica(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: strandline_replication::Options,
        nodes: Nodes,
    ) -> std::result::Result<(Store, Vec<JoinHandle<()>>, Undriven), strandline_replication::Error>
    {
        let rung = disk.profile().rung;
        let shared = Arc::new(Shared::default());
        let submissions = Arc::new(Submissions::default());
        let machine = Machine::new(Answers::new(submissions.clone()), shared.clone());
        let replica = Replica::open(disk.clone(), dir, options, Box::new(machine))?;
        let db = replica.db().clone();
        let (group, inputs) = Group::new(nodes);
        let told = Arc::downgrade(&group);
        db.log().set_hook(Box::new(move |_| {
            if let Some(group) = told.upgrade() {
                group.send(Input::LogMoved);
            }
        }));
        let threads = (0..COMMIT_THREADS).map(|number| spawn_leader(&db, number)).collect();
        let undriven = Undriven {
            replica,
            group: group.clone(),
            inputs,
            submissions: submissions.clone(),
            machine: shared.clone(),
        };
        let memory = AtomicBool::new(false);
        let store = Store {
            db,
            group: Some(group),
            driving: None,
            shared,
            submissions,
            memory,
            rung,
            standing: Standing::new(None),
            prepared: AtomicBool::new(true),
            disk,
            dir: dir.to_path_buf(),
        };
        Ok((store, threads, undriven))
    }

    /// The replica, if the store has others.
    pub fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref()
    }

    /// Whom this node follows, and what clients may do meanwhile.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The disk and the directory of the store.
    pub fn place(&self) -> (&Arc<dyn Disk>, &Path) {
        (&self.disk, &self.dir)
    }

    /// Before the first write: what every server's state needs goes into the log ahead of it. Not when
    /// the store is opened: an empty log can begin as a copy of another one.
    fn prepare(&self) -> Result<()> {
        let _appending = self.standing.appending();
        let is_prepared = self.prepared.load(Ordering::Acquire);
        let entries = if is_prepared { Vec::new() } else { keyspaces_missing(&self.db) };
        if !entries.is_empty() {
            let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
            self.db.append(&entries, self.durability())?;
        }
        self.prepared.store(true, Ordering::Release);
        Ok(())
    }

    /// How the log is driven, if the store stands alone.
    pub fn driving(&self) -> Option<&Driving> {
        self.driving.as_ref()
    }

    /// Proposes a run: its entries are `payloads`, its session will be told. They are submitted when the
    /// session's thread has given all sessions their turn (see [`crate::event_loop`]), or there are many.
    ///
    /// # Errors
    ///
    /// If nothing was proposed: a full disk, a log that has stopped, an entry that is too large.
    pub fn submit(&self, payloads: &[&[u8]], run: Run) -> std::result::Result<(), Box<Refused>> {
        let count = run.count;
        debug_assert_eq!(u64::try_from(payloads.len()), Ok(count), "an entry for each write");
        if let Some(group) = &self.group {
            let payloads = payloads.iter().map(|payload| payload.to_vec()).collect();
            group.send(Input::Propose(Proposal { payloads, run: Some(run) }));
            return Ok(());
        }
        if !self.prepared.load(Ordering::Acquire)
            && let Err(error) = self.prepare()
        {
            return Err(Box::new(Refused { error, run: Some(run) }));
        }
        let durability = self.durability();
        let mailbox = Arc::clone(&run.mailbox);
        let mut run = Some(run);
        let registered = self.db.append_then(payloads, durability, |last| {
            if let Some(mut run) = run.take() {
                run.first = Index(last.0 + 1 - count);
                self.submissions.lock().push_back(run);
            }
        });
        match registered {
            Ok(_) => {
                if let Some(driving) =
                    self.driving.as_ref().filter(|_| durability == Durability::Disk)
                {
                    driving.appended(count, &mailbox);
                }
                Ok(())
            }
            Err(error) => Err(Box::new(Refused { error, run })),
        }
    }

    /// Has everything up to `index` made durable, without waiting: for threads that append themselves.
    pub fn request(&self, index: Index) {
        match &self.driving {
            Some(driving) => driving.request(),
            None => self.db.request(index),
        }
    }

    /// Waits until `index` is durable and applied.
    ///
    /// # Errors
    ///
    /// If it cannot be made durable or applied any more.
    pub fn wait(&self, index: Index) -> Result<()> {
        match &self.driving {
            Some(driving) => driving.wait(index),
            None => self.db.wait(index),
        }
    }

    /// Proposes a command of the server's own and waits until it is applied.
    ///
    /// # Errors
    ///
    /// If it is refused, or the log stops.
    pub fn keep_house(&self, opcode: u16, from: &[u8]) -> Result<()> {
        let header =
            EntryHeader { time_ms: clock::now_ms(), ..EntryHeader::of_kind(EntryKind::COMMAND) };
        let mut payload = Vec::new();
        entry::encode(&mut payload, &header, opcode, [from].into_iter());
        if let Some(group) = &self.group {
            // The leader keeps house for all. It looks again if nothing came of it.
            if group.is_leader() {
                group.send(Input::Propose(Proposal { payloads: vec![payload], run: None }));
            }
            return Ok(());
        }
        let index = {
            let _appending = self.standing.appending();
            // A backup takes deletions from its primary.
            if self.standing.gate() & standing::gate::READ_ONLY != 0 {
                return Ok(());
            }
            self.db.append(&[&payload], self.durability())?
        };
        if self.durability() == Durability::Disk {
            self.wait(index)?;
        }
        Ok(())
    }

    /// When writes are acknowledged.
    pub fn durability(&self) -> Durability {
        if self.memory.load(Ordering::Relaxed) { Durability::Memory } else { Durability::Disk }
    }

    /// Changes when later writes are acknowledged.
    pub fn set_durability(&self, durability: Durability) {
        self.memory.store(durability == Durability::Memory, Ordering::Relaxed);
    }

    /// A consistent view of everything acknowledged so far.
    pub fn view(&self) -> View {
        self.db.view()
    }

    /// The newest value of a key.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn find(&self, data_key: &[u8]) -> Result<Option<Stored>> {
        let ticket = match self.shared.cache.find(data_key) {
            Found::Hit(stored) => return Ok(stored),
            Found::Miss(ticket) => ticket,
        };
        let stored = self.db.get(DATA, data_key)?.map(Stored::decode).transpose()?;
        self.shared.cache.fill(data_key, ticket, stored.as_ref());
        Ok(stored)
    }

    /// What the machine shares.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// How durable writes are made.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// The store below, for counters and verification.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Has everything that was appended made durable, without waiting.
    pub fn request_sync(&self) {
        self.request(self.db.applied());
    }

    /// Whether everything applied is on disk.
    pub fn is_synced(&self) -> bool {
        self.db.durable() >= self.db.applied()
    }

    /// Makes everything durable and gives the directory free; the store's threads end.
    ///
    /// # Errors
    ///
    /// If not everything could be made durable.
    pub fn close(&self) -> Result<()> {
        let closed = self.db.close();
        if let Some(driving) = &self.driving {
            driving.end();
        }
        closed
    }
}

/// A replica that nobody drives yet.
pub struct Undriven {
    /// The replica.
    pub replica: Replica,
    /// How it is reached.
    pub group: Arc<Group>,
    /// What has been asked of it.
    pub inputs: Receiver<Input>,
    /// Where accepted runs are registered.
    pub submissions: Arc<Submissions>,
    /// What the machine shares.
    pub machine: Arc<Shared>,
}

/// A replica's directory is never opened alone: what it would acknowledge, the others would not have.
fn refuse_replicas(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let refused = |reason: String| Error::Malformed { what: "directory", offset: 0, reason };
    match strandline_replication::identity(disk, dir) {
        Ok(None) => Ok(()),
        Ok(Some((cluster, node))) => Err(refused(format!(
            "it is of node {node} of cluster {cluster}: start it with --node-id, --cluster and --cluster-id, \
             or the file of settings that has them"
        ))),
        Err(error) => Err(refused(error.to_string())),
    }
}

fn spawn_leader(db: &Db, number: usize) -> JoinHandle<()> {
    let db = db.clone();
    let thread = std::thread::Builder::new().name(format!("commit-{number}"));
    let spawned = thread.spawn(move || {
        // The machine is told of an error, and tells.
        let _ = db.lead();
    });
    spawned.expect("a thread can be started when the server starts")
}

/// The answer to a write that was refused before it was proposed. It says when trying again helps.
pub fn refusal_text(error: &Error) -> String {
    match error {
        error if error.is_full() => {
            "MISCONF the disk is full: nothing was written; writes resume by themselves when there \
             is room"
                .into()
        }
        Error::Stalled { reason } => format!(
            "MISCONF tables cannot be written ({reason}): nothing was written; writes resume when \
             that is mended"
        ),
        Error::Wal(strandline_wal::Error::TooLarge { size, size_max }) => {
            format!("ERR a write of {size} bytes is over the limit of {size_max} bytes")
        }
        Error::Closed | Error::Wal(strandline_wal::Error::Closed) => {
            "MISCONF the server is stopping: nothing was written".into()
        }
        error => format!(
            "MISCONF writes are refused, reads are served: {error}; nothing was written; restart \
             the server when the disk is mended"
        ),
    }
}
