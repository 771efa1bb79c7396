//! What Strandline costs, alone and beside its peers.
//!
//! The program `compare` lets Strandline and other stores take turns on this machine and prints the
//! ratios:
//!
//! ```text
//! cargo run --release -p strandline-benches --bin compare -- wal --rounds 5 --seconds 2
//! ```
//!
//! A reader starts with [`rounds`] (the protocol), then [`workload`] (what the threads do) and
//! [`peers`] (how each store is opened); [`probe`] asks the bare disk, [`report`] prints the rows, [`page`] draws them.
//! [`floors`] says what was promised. [`held`] and [`holder`] are for what only a process of its own can tell: opening a log after a kill,
//! and its memory.
//! `benches/` holds criterion benches of Strandline alone, for before and after a change.
//!
//! The program `corruption` damages a small log byte by byte, ours and raft-engine's: see [`corruption`].
//!
//! Only equal durability is compared. A store that acknowledges what a power cut would take back is
//! listed apart. Nothing here asserts a time.

pub mod comparison;
pub mod corruption;
pub mod corruption_page;
mod crowd;
pub mod device;
mod error;
pub mod floors;
pub mod held;
pub mod holder;
pub mod page;
pub mod peers;
pub mod probe;
pub mod process;
pub mod random;
pub mod report;
pub mod rounds;
pub mod workload;

pub use error::{Error, Result};
