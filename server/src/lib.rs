//! The server: sockets, time, threads, and the person at the terminal.
//!
//! A request is read and parsed by a [`session`] on one of the threads of an [`event_loop`], found
//! in the [`command`] table, and answered at once from a view if it reads. If it writes, it becomes an
//! [`entry`] and goes into the log through the [`store`]; when it is durable the [`machine`] executes
//! and answers it ([`apply`]), and the answer returns to the session's thread ([`submission`]).
//!
//! The binary is a thin shell around [`cli::run`]. As a library it can be started in a process of
//! tests and benches: see [`start::start`].

const _: () = assert!(
    cfg!(debug_assertions) || !strandline_wal::canary::COMPILED,
    "a release build of the server has no canaries"
);

pub mod apply;
pub mod auth;
pub mod backup;
pub mod cache;
pub mod cli;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod config;
pub mod databases;
pub mod driving;
pub mod entry;
pub mod event_loop;
pub mod first_answer;
pub mod housekeeping;
pub mod key;
pub mod listener;
pub mod machine;
pub mod reader;
pub mod refusal;
pub mod resp;
pub mod server;
pub mod session;
pub mod shutdown;
pub mod slot;
pub mod start;
pub mod stats;
pub mod store;
pub mod submission;
pub mod value;
