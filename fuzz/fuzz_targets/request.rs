//! See `fuzz/src/request.rs`.
#![cfg_attr(fuzzing, no_main)]

strandline_fuzz::program!("request");
