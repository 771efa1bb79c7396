//! Clusters of real nodes on loopback: formed, asked, and killed under their clients.

#![allow(clippy::unwrap_used)]

mod compression;
mod forming;
mod harness;
mod sessions;
mod stale_reads;
mod waiting;
