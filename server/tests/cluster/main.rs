//! Clusters of real nodes on loopback: formed, asked, and killed under their clients.

#![allow(clippy::unwrap_used)]

mod compression;
#[path = "../common/directory.rs"]
mod directory;
mod forming;
mod harness;
#[path = "../common/process.rs"]
mod process;
mod sessions;
mod stale_reads;
mod waiting;
