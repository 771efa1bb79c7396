//! See `fuzz/src/entry.rs`.
#![cfg_attr(fuzzing, no_main)]

strandline_fuzz::program!("entry");
