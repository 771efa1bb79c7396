//! What the fuzz targets do, as plain functions of bytes.
//!
//! Each target is a function that takes the fuzzer's input and panics if Strandline did something
//! that it must not: panicked itself, lost or changed what was acknowledged, or let damage pass. The
//! programs in `fuzz_targets/` hand these functions to libFuzzer, or, built without it, run them over
//! the files they are given. `tests/corpora.rs` runs them all on a stable toolchain.
//!
//! An input is either the bytes of a file, as a decoder meets them, or a program: a few
//! choices, read front to back by [`Choices`], that describe a good file and what is done to it, or what
//! is asked of a log or a store. Every input is a valid one, so that no mutation is wasted; when it
//! is used up, the remaining choices are all 0.

mod choices;
mod cipher;
mod damage;
mod entry;
mod log_model;
mod manifest;
mod record;
mod request;
mod seal;
mod seeds;
mod segment;
mod store;
mod store_model;
mod table;

pub use choices::Choices;
pub use seeds::seeds;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its program and of its corpus.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
    /// About how many inputs a debug build runs in a second, in tens: decides how many random ones
    /// the tests try.
    pub pace: usize,
}

/// All targets. `fuzz_targets/` has a program for each.
pub const TARGETS: &[Target] = &[
    Target { name: "record", run: record::run, pace: 1000 },
    Target { name: "request", run: request::run, pace: 300 },
    Target { name: "entry", run: entry::run, pace: 100 },
    Target { name: "segment", run: segment::run, pace: 250 },
    Target { name: "table", run: table::run, pace: 100 },
    Target { name: "manifest", run: manifest::run, pace: 50 },
    Target { name: "log_model", run: log_model::run, pace: 50 },
    Target { name: "store_model", run: store_model::run, pace: 20 },
];

/// The target of this name.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    *found.unwrap_or_else(|| panic!("no target {name}"))
}

/// Runs a target over the files named on the command line: a find, without libFuzzer.
///
/// # Errors
///
/// If a file cannot be read.
pub fn replay(name: &str) -> std::io::Result<()> {
    let target = target(name);
    for path in std::env::args_os().skip(1) {
        println!("{name}: {}", path.display());
        (target.run)(&std::fs::read(path)?);
    }
    Ok(())
}

/// The program of a target: libFuzzer's under cargo-fuzz, else one that replays files.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| ($crate::target($name).run)(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::replay($name)
        }
    };
}
