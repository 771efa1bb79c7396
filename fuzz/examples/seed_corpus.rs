//! Makes the inputs that every corpus begins with, from valid files and protocol text.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --example seed_corpus` writes them to `fuzz/corpus/`, as
//! `seed-NN`; another directory can be given. What fuzzing has found lies beside them, under other names.

use std::path::{Path, PathBuf};

use strandline_fuzz::{TARGETS, seeds};

fn main() -> std::io::Result<()> {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let root = given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus"));
    for target in TARGETS {
        let dir = root.join(target.name);
        std::fs::create_dir_all(&dir)?;
        let inputs = seeds(target.name);
        for (number, input) in inputs.iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number:02}")), input)?;
        }
        println!("{}: {} inputs", target.name, inputs.len());
    }
    Ok(())
}
