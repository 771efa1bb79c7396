//! Opening a replica: whose directory it is, what it promised, and where its log and state are.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use strandline_engine::{Commit, Db, Index, Machine, group_dir};
use strandline_wal::disk::Disk;
use strandline_wal::{Tail, canary};

use crate::consensus::Consensus;
use crate::hard_state::{HardState, HardStateFile};
use crate::lag::Lag;
use crate::log::Log;
use crate::machine::{ReplicatedMachine, Shared};
use crate::mend::Mend;
use crate::read::Reads;
use crate::rejoin::Rejoin;
use crate::snapshot::receive::Receiver;
use crate::snapshot::send::Sender;
use crate::validate::Refusals;
use crate::watermark::Watermarks;
use crate::{Doubt, Error, Membership, Options, Replica, Result, Term};

impl Replica {
    /// Opens the replica in `dir`, or creates it.
    ///
    /// # Errors
    ///
    /// If the directory is in use, damaged, or another replica's; [`Error::InvalidOption`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        mut options: Options,
        machine: Box<dyn Machine>,
    ) -> Result<Replica> {
        options.validate()?;
        options.db.commit = match options.is_witness {
            true => Commit::WithoutState,
            false => Commit::WhenTold,
        };
        let group_dir = group_dir(dir);
        disk.create_dir_all(&group_dir)?;
        let hard = HardStateFile::open(&*disk, &group_dir)?;
        let shared = Shared::default();
        shared.lock().membership = Membership::new(&options.members);
        let machine = ReplicatedMachine::new(machine, shared.clone(), options.is_witness);
        let has_threads = options.db.background;
        let db = Db::open_with(disk.clone(), dir, options.db.clone(), Box::new(machine))?;
        let hard = open_hard_state(&*disk, &group_dir, hard, &db, &options)?;
        let terms = shared.lock().terms.clone();
        let log = Log::open(db, terms, has_threads)?;
        let state = hard.get();
        let membership = shared.lock().membership.clone();
        let committed = log.db().applied();
        let mend = Mend::new(log.has_holes());
        let consensus = Consensus::open(&options, log, (state.term, state.vote), &membership)?;
        Ok(Self {
            reads: Reads::new(options.id, state.openings),
            watermarks: Watermarks::new(committed),
            lag: Lag::default(),
            mend,
            refusals: Refusals::default(),
            rejoin: Rejoin::new(options.seed, state.openings),
            sender: Sender::default(),
            receiver: Receiver::new(disk, &group_dir),
            consensus,
            hard,
            shared,
            options,
            stalled: None,
            unpersisted: VecDeque::new(),
            committed,
            founded_in: Term(0),
            unsaved: None,
            failure: None,
        })
    }
}

/// The hard state of the directory, or a new one where everything is new.
fn open_hard_state(
    disk: &dyn Disk,
    dir: &Path,
    found: Option<HardStateFile>,
    db: &Db,
    options: &Options,
) -> Result<HardStateFile> {
    let Some(hard) = found else {
        let is_empty = db.applied() == Index(0) && db.log().last().0 == 0;
        if !is_empty || !options.may_create {
            let reason = match is_empty {
                false => "it holds a log, and no file says whose".to_owned(),
                true => format!("it is empty, and replica {} exists", options.id),
            };
            return Err(Error::Identity { reason });
        }
        let (group, id) = (options.group, options.id);
        // Nobody can tell a new replica from one whose disk was replaced.
        let doubt = match canary::is_on(canary::EMPTY_DISK_VOTES) {
            true => Doubt::Nothing,
            false => Doubt::Everything,
        };
        let state = HardState { group, id, doubt, openings: 1, ..HardState::default() };
        return HardStateFile::create(disk, dir, state);
    };
    let state = hard.get();
    if (state.group, state.id) != (options.group, options.id) {
        let reason = format!(
            "{} says replica {} of group {}, and this is to be replica {} of group {}",
            hard.path().display(),
            state.id,
            state.group,
            options.id,
            options.group
        );
        return Err(Error::Identity { reason });
    }
    if state.doubt == Doubt::Nothing && matches!(db.recovery().tail, Tail::Suspect { .. }) {
        let mut hard = hard;
        hard.save(HardState { doubt: Doubt::Tail, ..state })?;
        return Ok(hard);
    }
    Ok(hard)
}
