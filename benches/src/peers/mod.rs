//! The stores that Strandline is measured against, and Strandline itself, behind one face.
//!
//! Each file opens one store in the way that is best for it *and* acknowledges no write before it
//! is durable. Why these settings, and which system call was seen under `strace`, is written down in
//! `docs/decisions/0010-benchmark-peers.md`. sled is the exception: its `flush` does not reach the
//! platter, so it is listed apart.

pub mod cluster;
mod counted_files;
pub mod disk;
mod fjall;
mod grpc;
mod heed;
pub(crate) mod raft_engine;
mod redb;
pub mod redis;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sled;
pub mod strandline;

use crate::workload::Opener;

/// A store to be compared with.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The name in the report.
    pub name: &'static str,
    /// Whether what it acknowledges is durable; one that is not is listed apart.
    pub durable: bool,
    /// How to open it, or why it is not there.
    pub opener: Result<Opener, &'static str>,
}

impl Peer {
    const fn durable(opener: Opener) -> Peer {
        Peer { name: opener.name, durable: true, opener: Ok(opener) }
    }
}

/// Those that are a log, and the disk below them.
pub fn logs() -> Vec<Peer> {
    vec![Peer::durable(raft_engine::OPENER), disk()]
}

/// The bare disk.
pub fn disk() -> Peer {
    Peer::durable(disk::OPENER)
}

/// Those that replicate, and ourselves without.
pub fn replicated() -> Vec<Peer> {
    let etcd = match redis::installed("etcd") {
        true => Ok(cluster::ETCD),
        false => Err("etcd is not installed: apt-get install etcd-server"),
    };
    vec![
        Peer { name: cluster::ETCD.name, durable: true, opener: etcd },
        Peer::durable(cluster::ALONE),
    ]
}

/// Our own log on each rung, to see whether the probe chooses well.
pub fn rungs() -> Vec<Peer> {
    strandline::LOG_BY_RUNG.map(Peer::durable).to_vec()
}

/// Those that are an ordered map.
pub fn engines() -> Vec<Peer> {
    vec![
        Peer::durable(fjall::OPENER),
        Peer::durable(redb::OPENER),
        Peer::durable(heed::OPENER),
        rocksdb(),
        Peer { durable: false, ..Peer::durable(sled::OPENER) },
    ]
}

#[cfg(feature = "rocksdb")]
fn rocksdb() -> Peer {
    Peer::durable(rocksdb::OPENER)
}

#[cfg(not(feature = "rocksdb"))]
fn rocksdb() -> Peer {
    let reason = "not built in: add `--features rocksdb` (needs libclang and a C++ compiler)";
    Peer { name: "rocksdb", durable: true, opener: Err(reason) }
}
