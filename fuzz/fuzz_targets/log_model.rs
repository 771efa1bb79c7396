//! See `fuzz/src/log_model.rs`.
#![cfg_attr(fuzzing, no_main)]

strandline_fuzz::program!("log_model");
