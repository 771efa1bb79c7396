//! See `fuzz/src/manifest.rs`.
#![cfg_attr(fuzzing, no_main)]

strandline_fuzz::program!("manifest");
