//! A primary and its backups: `REPLICAOF host port`, without an election.
//!
//! A backup's log is its primary's: the same entries at the same indexes, sent when they are durable
//! there, acknowledged when they are durable here. The primary waits for nobody unless a client asks it
//! to (`WAIT`), and it does not move by itself when the primary dies: for that there is the
//! [cluster](crate::cluster).
//!
//! ```text
//!   backup                                        primary
//!   follower ---- FOLLOW HELLO ------------------> a session like any other
//!            <--- its log's first, last, lineage
//!   decides: may it follow without discarding?
//!            ---- FOLLOW FROM index -------------> the session becomes a feed
//!            <--- generations, entries, beats
//!            ---- acknowledgements --------------> feeds: WAIT, INFO, how much log is kept
//! ```
//!
//! Everything rests on the [`lineage`]: which generation wrote which part of a log. A generation is one
//! life of one primary, named at random, so equal generation and index mean equal entries, and a node
//! that comes back empty, from a copy, or short of a torn tail has a lineage that says so. A node whose
//! own log is no prefix of the other's does not follow: it stays readable and says why. Only
//! `REPLICAOF host port DISCARD` gives it leave.
//!
//! [`standing_file`] is what a node must not forget of this: its lineage, whom it follows. [`standing`] is
//! the same in a running node, with what sessions ask before each command. [`follower`] is the backup's
//! thread, [`order`] what is typed, [`upstream`] its connection, [`copy`] how it takes over a whole state when the primary's log
//! does not go back far enough. [`feeds`] is who follows this node; [`frame`] is what goes over the wire.
//!
//! Left out: choosing a new primary (see above), and secrecy of the link, which is a client's connection.

pub mod copy;
pub mod feeds;
pub mod follower;
pub mod frame;
pub mod lineage;
pub mod link;
#[cfg(test)]
mod model_tests;
pub mod order;
pub mod standing;
pub mod standing_file;
pub mod upstream;

pub use lineage::{Lineage, Relation};
pub use standing::Standing;
