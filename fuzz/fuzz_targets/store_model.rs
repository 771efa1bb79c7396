//! See `fuzz/src/store_model.rs`.
#![cfg_attr(fuzzing, no_main)]

strandline_fuzz::program!("store_model");
