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
use crate::lease::Lease;
use crate::log::Log;
use crate::machine::{ReplicatedMachine, Shared};
use crate::mend::Mend;
use crate::read::Reads;
use crate::refill::Refill;
use crate::rejoin::Rejoin;
use crate::replace::Replacement;
use crate::snapshot::receive::Receiver;
use crate::snapshot::send::Sender;
use crate::validate::Refusals;
use crate::watermark::Watermarks;
use crate::{Doubt, Error, Membership, Options, Replica, ReplicaId, Result, Term};

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
        options.db.opens_damaged = true;
        let db = Db::open_with(disk.clone(), dir, options.db.clone(), Box::new(machine))?;
        let hard = open_hard_state(&*disk, &group_dir, hard, &db, &options)?;
        let replacement = Replacement::begin(&db, &hard, &shared, &options)?;
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
            lease: Lease::new(&options),
            mend,
            refusals: Refusals::default(),
            rejoin: Rejoin::new(options.seed, state.openings),
            refill: Refill::default(),
            replacement,
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
            now_us: 0,
            failure: None,
        })
    }
}

/// Makes a directory that is empty, or is not there, that of replica `id` of `group`: it can be opened as
/// that and as no other. It is in doubt as any new one is, so it counts in the first election only
/// together with all others.
///
/// # Errors
///
/// [`Error::Formed`] if it is a replica's already; those of the disk.
pub fn prepare(disk: &dyn Disk, dir: &Path, group: u64, id: ReplicaId) -> Result<()> {
    if let Some((path, state)) = HardStateFile::read(disk, &group_dir(dir))? {
        return Err(Error::Formed { path, group: state.group, id: state.id });
    }
    let dir = group_dir(dir);
    disk.create_dir_all(&dir)?;
    HardStateFile::create(disk, &dir, new_hard_state(group, id)).map(|_| ())
}

/// The replication group and the replica that a directory belongs to; none if it belongs to none.
///
/// # Errors
///
/// [`Error::Corruption`] if that cannot be told; those of the disk.
pub fn identity(disk: &dyn Disk, dir: &Path) -> Result<Option<(u64, ReplicaId)>> {
    let found = HardStateFile::read(disk, &group_dir(dir))?;
    Ok(found.map(|(_, state)| (state.group, state.id)))
}

/// Of a replica that was never opened. Nobody can tell one that is new from one whose disk was replaced.
fn new_hard_state(group: u64, id: ReplicaId) -> HardState {
    let doubt = match canary::is_on(canary::EMPTY_DISK_VOTES) {
        true => Doubt::Nothing,
        false => Doubt::Everything,
    };
    HardState { group, id, doubt, ..HardState::default() }
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
        let state = HardState { openings: 1, ..new_hard_state(options.group, options.id) };
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

#[cfg(test)]
mod tests {
    use strandline_engine::{Changes, DbOptions, Entry, Error as EngineError};
    use strandline_wal::disk::SimulatedDisk;
    use strandline_wal::disk::simulated::{Fault, Survival};

    use super::*;
    use crate::{Member, MemberRole};

    struct Nothing;

    impl Machine for Nothing {
        fn apply(
            &mut self,
            _: &Entry<'_>,
            _: &mut Changes<'_>,
        ) -> std::result::Result<(), EngineError> {
            Ok(())
        }
    }

    const DIR: &str = "/node";

    fn open(disk: &Arc<SimulatedDisk>, group: u64, id: u64) -> Result<Replica> {
        let members =
            (1..=3).map(|id| Member { id: ReplicaId(id), role: MemberRole::Voter }).collect();
        let db = DbOptions { background: false, ..DbOptions::default() };
        let options = Options { id: ReplicaId(id), group, members, db, ..Options::default() };
        Replica::open(disk.clone(), Path::new(DIR), options, Box::new(Nothing))
    }

    #[test]
    fn a_prepared_directory_is_one_replicas_and_is_in_doubt() {
        let disk = SimulatedDisk::new(1);
        let dir = Path::new(DIR);
        assert_eq!(identity(&*disk, dir).unwrap(), None);
        prepare(&*disk, dir, 77, ReplicaId(2)).unwrap();
        disk.power_cut();
        assert_eq!(identity(&*disk, dir).unwrap(), Some((77, ReplicaId(2))));
        let again = prepare(&*disk, dir, 78, ReplicaId(2)).unwrap_err();
        assert!(matches!(again, Error::Formed { group: 77, id: ReplicaId(2), .. }), "{again}");
        for (group, id) in [(1, 2), (77, 1)] {
            let refused = open(&disk, group, id).unwrap_err();
            assert!(matches!(refused, Error::Identity { .. }), "{refused}");
        }
        let replica = open(&disk, 77, 2).unwrap();
        assert_eq!(replica.hard_state().doubt, Doubt::Everything);
        drop(replica);
        prepare(&*disk, dir, 77, ReplicaId(2)).unwrap_err();
    }

    #[test]
    fn whatever_fails_the_directory_is_prepared_or_nobodys() {
        let operations = {
            let disk = SimulatedDisk::new(1);
            prepare(&*disk, Path::new(DIR), 77, ReplicaId(2)).unwrap();
            disk.operations()
        };
        for fault in Fault::ALL {
            for at in 1..=operations {
                for survival in [Survival::NOTHING, Survival::of(500), Survival::EVERYTHING] {
                    let disk = SimulatedDisk::new(at);
                    disk.set_survival(survival);
                    disk.fail_at(at, fault);
                    let prepared = prepare(&*disk, Path::new(DIR), 77, ReplicaId(2));
                    disk.clear_faults();
                    if disk.restart().is_none() {
                        disk.power_cut();
                    }
                    let found = identity(&*disk, Path::new(DIR)).unwrap();
                    assert!(found.is_none_or(|found| found == (77, ReplicaId(2))));
                    assert!(prepared.is_err() || found.is_some(), "{fault:?} at {at}");
                }
            }
        }
    }
}
