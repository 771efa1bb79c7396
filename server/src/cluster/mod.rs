//! A node as one of several: who the others are, the links to them, and the replica that they share.
//!
//! [`nodes`] is the list that every node is started with, [`book`] what the log says of it later. [`peers`] keeps a link to each of the others
//! and carries frames: messages of the replica, and requests that another node must answer. [`link`]
//! is one such connection: who is at the other end, and that nobody changed what it says. [`secret`]
//! is what they prove to each other.
//!
//! [`driver`] is the thread on which the replica lives; [`group`] is how the rest of the process reaches
//! it; [`members`] is how nodes come and go.

mod answer;
pub mod book;
pub mod driver;
mod forward;
pub mod group;
mod hand_over;
pub mod health;
pub mod link;
pub mod members;
pub mod nodes;
pub mod peers;
pub mod question;
pub mod secret;
#[cfg(feature = "tls")]
pub mod tls;

pub use book::Book;
pub use link::Frame;
pub use nodes::{Node, Nodes};
pub use peers::{Inbox, Peers, Security};
pub use secret::Secret;
