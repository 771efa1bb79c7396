//! `cluster certificates`: an authority and a certificate for each node, in one directory.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::error::{Error, Result};

/// Make certificates for TLS between nodes, for trying it out.
#[derive(Debug, Args)]
pub(crate) struct CertificatesArgs {
    /// Where to put them; an authority that is there is used again.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The numbers of the nodes.
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', required = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    nodes: Vec<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn make(args: &CertificatesArgs) -> Result<bool> {
    let made = make_in(&args.dir, &args.nodes)?;
    let names: Vec<String> = made.iter().map(|path| path.display().to_string()).collect();
    if args.json {
        println!("{}", serde_json::json!({ "files": names }));
        return Ok(true);
    }
    names.iter().for_each(|name| println!("{name}"));
    let dir = args.dir.display();
    println!(
        "start node N with: --cluster-tls-cert {dir}/node-N.pem --cluster-tls-key {dir}/node-N.key \
         --cluster-tls-ca {dir}/authority.pem"
    );
    println!("keep {dir}/authority.key to yourself: who has it can be any node");
    Ok(true)
}

/// Makes certificates for these nodes in `dir`; returns the files.
#[cfg(feature = "tls")]
pub(super) fn make_in(dir: &Path, nodes: &[u64]) -> Result<Vec<PathBuf>> {
    let refused =
        |source| Error::Path { operation: "create directory", path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(refused)?;
    let now_s = crate::clock::now_ms() / 1000;
    let made = crate::cluster::tls::make_certificates(dir, nodes, now_s);
    made.map_err(|error| Error::Refused { reason: error.to_string() })
}

/// There is no TLS in this program.
#[cfg(not(feature = "tls"))]
pub(super) fn make_in(_: &Path, _: &[u64]) -> Result<Vec<PathBuf>> {
    Err(Error::Refused { reason: "this program was built without TLS".into() })
}
