//! See `fuzz/src/table.rs`.
#![cfg_attr(fuzzing, no_main)]

strandline_fuzz::program!("table");
