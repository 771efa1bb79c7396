//! What can be made to go wrong, which operations meet it, and what is counted.

use std::io;

use super::random::{PER_MILLE, Random};

/// What goes wrong at an operation chosen with [`fail_at`](super::SimulatedDisk::fail_at).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The power fails during the operation: it was issued, it did not complete, and the disk is
    /// down until [`restart`](super::SimulatedDisk::restart).
    PowerCut,
    /// The process is killed during the operation, which takes place wholly, in part or not at all.
    /// The disk is down until [`restart`](super::SimulatedDisk::restart).
    Kill,
    /// The operation fails with `EIO`. Of a sync or a durable write, a random subset of the sectors
    /// reaches the disk and the rest never will, however often a later sync says `Ok`.
    Eio,
    /// The operation fails with `ENOSPC`. At a write a prefix took place; at a sync it is the late
    /// refusal of delayed allocation, which loses sectors as [`Fault::Eio`] does.
    Enospc,
    /// A write performs a prefix of its bytes and fails.
    ShortWrite,
}

impl Fault {
    /// All of them, for tests that try each at every operation.
    pub const ALL: [Fault; 5] =
        [Fault::PowerCut, Fault::Kill, Fault::Eio, Fault::Enospc, Fault::ShortWrite];

    /// Whether the disk is down afterwards.
    pub fn is_crash(self) -> bool {
        matches!(self, Fault::PowerCut | Fault::Kill)
    }

    /// The error that the caller sees.
    pub(super) fn error(self) -> io::Error {
        match self {
            Fault::PowerCut | Fault::Kill => down(),
            Fault::Eio => io::Error::from_raw_os_error(EIO),
            Fault::Enospc => no_space(),
            Fault::ShortWrite => {
                io::Error::new(io::ErrorKind::WriteZero, "the simulated disk wrote a part only")
            }
        }
    }
}

/// The system's number of an input or output error.
const EIO: i32 = 5;
/// The system's number of a full disk.
const ENOSPC: i32 = 28;

/// A sector that cannot be read.
pub(super) fn unreadable() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

/// No room.
pub(super) fn no_space() -> io::Error {
    io::Error::from_raw_os_error(ENOSPC)
}

/// The disk is down.
pub(super) fn down() -> io::Error {
    io::Error::other("the simulated disk is down")
}

/// The handle was made before the last crash.
pub(super) fn outlived() -> io::Error {
    io::Error::other("this handle belongs to a process that ended in a simulated crash")
}

/// How likely unsynced things outlive a power cut, in parts of a thousand; each of them is drawn by
/// itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survival {
    /// Each 512-byte sector of each unsynced write.
    pub sectors: u32,
    /// Each unsynced change of a file's length.
    pub lengths: u32,
    /// Each unsynced change of names in a directory.
    pub names: u32,
}

impl Survival {
    /// Nothing unsynced survives.
    pub const NOTHING: Survival = Survival::of(0);
    /// Everything survives, synced or not.
    pub const EVERYTHING: Survival = Survival::of(PER_MILLE);

    /// The same chance for everything.
    pub const fn of(per_mille: u32) -> Survival {
        Survival { sectors: per_mille, lengths: per_mille, names: per_mille }
    }

    /// The chance of a run: one of 0, 0.1, 0.5, 0.9 and 1 for everything. The extremes are there
    /// because faults that need "all" or "nothing" are hardly ever met by drawing in between.
    pub fn draw(random: &mut Random) -> Survival {
        let chances = [0, 100, 500, 900, PER_MILLE];
        Survival::of(chances[random.index(chances.len())])
    }
}

/// How often the disk did what, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations of all kinds that were numbered.
    pub operations: u64,
    /// Reads, maps included.
    pub reads: u64,
    /// Bytes that reads returned, without those of maps, which are read as they are looked at.
    pub bytes_read: u64,
    /// Buffered writes.
    pub writes: u64,
    /// Bytes handed to buffered writes.
    pub bytes_written: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub directory_syncs: u64,
    /// Durable writes submitted.
    pub durable_writes: u64,
    /// Bytes handed to durable writes.
    pub bytes_written_durably: u64,
    /// Changes of names: created, renamed, removed and linked.
    pub name_changes: u64,
    /// Faults of the plan that were met.
    pub faults: u64,
    /// Power cuts and kills.
    pub crashes: u64,
}

/// What is numbered, and can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    CreateDirectory,
    List,
    Open,
    Create,
    Exists,
    Rename,
    Remove,
    Link,
    SyncDirectory,
    Map,
    Lock,
    Read,
    Write,
    Sync,
    Allocate,
    DurableWrite,
}

impl Operation {
    /// As errors call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::CreateDirectory => "create directory",
            Operation::List => "list",
            Operation::Open => "open",
            Operation::Create => "create",
            Operation::Exists => "stat",
            Operation::Rename => "rename",
            Operation::Remove => "remove",
            Operation::Link => "link",
            Operation::SyncDirectory => "sync directory",
            Operation::Map => "map",
            Operation::Lock => "lock",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Sync => "sync",
            Operation::Allocate => "allocate",
            Operation::DurableWrite => "durable write",
        }
    }

    /// Whether the operation can fail in this way. A fault planned for one that cannot is dropped:
    /// no disk runs out of room by reading.
    pub(super) fn meets(self, fault: Fault) -> bool {
        match fault {
            Fault::PowerCut | Fault::Kill | Fault::Eio => true,
            Fault::ShortWrite => matches!(self, Operation::Write | Operation::DurableWrite),
            Fault::Enospc => !matches!(
                self,
                Operation::List
                    | Operation::Open
                    | Operation::Exists
                    | Operation::Remove
                    | Operation::Map
                    | Operation::Read
            ),
        }
    }

    /// Counts one operation that was handed `len` bytes.
    pub(super) fn count(self, counters: &mut Counters, len: u64) {
        counters.operations += 1;
        match self {
            Operation::Read | Operation::Map => counters.reads += 1,
            Operation::Write => {
                counters.writes += 1;
                counters.bytes_written += len;
            }
            Operation::Sync => counters.syncs += 1,
            Operation::SyncDirectory => counters.directory_syncs += 1,
            Operation::DurableWrite => {
                counters.durable_writes += 1;
                counters.bytes_written_durably += len;
            }
            Operation::Create | Operation::Rename | Operation::Remove | Operation::Link => {
                counters.name_changes += 1;
            }
            Operation::CreateDirectory
            | Operation::List
            | Operation::Open
            | Operation::Exists
            | Operation::Lock
            | Operation::Allocate => {}
        }
    }
}
