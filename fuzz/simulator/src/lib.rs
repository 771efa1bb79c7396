//! A whole cluster in one thread, and everything that tries to break it.
//!
//! Real `wal`, `engine` and `replication` code runs on simulated disks, a simulated network and
//! virtual time. One seed decides everything: what goes wrong, when and how much, what clients ask
//! for, how long anything takes. A failing seed is run again and again until it is understood.
//! `docs/simulator.md` says how to run it.
//!
//! ```text
//!   swarm (which faults, how strong)        clients ---> history ----+
//!     |                                     |     ^                  |
//!     v                                     v     |                  v
//!   nemesis ---> network, disks, clocks --> nodes (replica + disk)   checkers
//!                                           |                        ^
//!                                           +---> truth (executed) --+
//! ```

pub mod canaries;
pub mod checkers;
mod client;
mod coup;
mod ending;
pub mod figures;
pub mod hash;
pub mod history;
pub mod machine;
mod members;
pub mod minimise;
mod nemesis;
pub mod network;
mod node;
pub mod operation;
mod process;
pub mod profiles;
pub mod runner;
mod service;
pub mod simulation;
pub mod swarm;
pub mod time;
pub mod violation;
