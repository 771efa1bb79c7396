//! The binary `strandline`: see [`strandline_server::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    strandline_server::cli::run(std::env::args_os())
}
