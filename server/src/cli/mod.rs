//! The command line: one file for each verb.
//!
//! Exit codes: 0 done and good, 1 the answer is bad, 2 wrong usage, 3 could not run; with one line on
//! standard error that says what to do.

mod at_rest;
mod bench;
mod client;
mod cluster;
mod config;
mod demo;
mod doctor;
mod error;
mod fleet;
mod inspect;
mod node;
mod repair;
mod scratch;
mod serve;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};

/// Why a verb did not end well.
#[derive(Debug)]
pub enum Trouble {
    /// The answer is bad: something was lost, damaged, or over its bound.
    Bad(String),
    /// The verb was used wrongly.
    Usage(String),
    /// It could not run.
    CannotRun(String),
}

impl From<ConfigError> for Trouble {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Unreadable { .. } => Trouble::CannotRun(error.to_string()),
            error => Trouble::Usage(error.to_string()),
        }
    }
}

/// What a verb ends with.
pub type Outcome = Result<(), Trouble>;

/// Strandline: a persistent key-value server that does not lose acknowledged writes.
#[derive(Debug, Parser)]
#[command(name = "strandline", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a node.
    Serve(Box<serve::Arguments>),
    /// See and steer a running cluster.
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// Look at settings.
    #[command(subcommand)]
    Config(config::Verb),
    /// Write at full speed, kill the server, restart it, and read everything back.
    Demo(demo::DemoArgs),
    /// Measure the log, the store or the server.
    Bench(bench::BenchArgs),
    /// Say what this disk and system can do.
    Doctor(doctor::DoctorArgs),
    /// Describe a file of the store.
    Inspect(inspect::InspectArgs),
    /// Check every checksum of a store that is not running.
    Verify(verify::VerifyArgs),
    /// Say what is wrong with a store that is not running, and mend its log.
    Repair(repair::RepairArgs),
}

/// Settings from a file and the environment: for every verb that needs them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ConfigArguments {
    /// File with settings: TOML, or a subset of redis.conf.
    #[arg(long, value_name = "FILE", env = "STRANDLINE_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArguments {
    fn load(&self) -> Result<Config, ConfigError> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Config::load(self.config.as_deref(), environment)
    }
}

/// Runs the verb of these arguments, the program's name included.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody to tell if even that cannot be printed. Clap's code is 0 for help, 2 for errors.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match arguments.verb {
        Verb::Serve(arguments) => serve::run(&arguments),
        Verb::Cluster(verb) => return cluster::run(&verb),
        Verb::Config(verb) => config::run(&verb),
        Verb::Demo(arguments) => return demo::run(arguments),
        Verb::Bench(arguments) => return bench::run(arguments),
        Verb::Doctor(arguments) => return doctor::run(arguments),
        Verb::Inspect(arguments) => return inspect::run(arguments),
        Verb::Verify(arguments) => return verify::run(arguments),
        Verb::Repair(arguments) => return repair::run(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            let (text, code) = match trouble {
                Trouble::Bad(text) => (text, 1),
                Trouble::Usage(text) => (text, 2),
                Trouble::CannotRun(text) => (text, 3),
            };
            eprintln!("strandline: {}", text.replace('\n', " "));
            ExitCode::from(code)
        }
    }
}
