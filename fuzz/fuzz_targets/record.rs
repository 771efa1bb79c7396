//! See `fuzz/src/record.rs`.
#![cfg_attr(fuzzing, no_main)]

strandline_fuzz::program!("record");
