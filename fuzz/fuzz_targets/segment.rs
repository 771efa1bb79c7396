//! See `fuzz/src/segment.rs`.
#![cfg_attr(fuzzing, no_main)]

strandline_fuzz::program!("segment");
