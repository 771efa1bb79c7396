#![doc = include_str!("../README.md")]

pub use strandline_engine as engine;
pub use strandline_engine::{
    Batch, Db, DbOptions, Direction, Durability, Error, Index, KeyspaceId, Range, Read, Result,
    Value, View,
};
pub use strandline_wal as wal;
