//! Strandline: a persistent, log-structured storage engine.
pub use strandline_engine as engine;
pub use strandline_wal as wal;
