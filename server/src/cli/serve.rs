//! `strandline serve`: runs a node until it is told to stop.

use std::io::Write;
use std::path::PathBuf;

use super::{ConfigArguments, Outcome, Trouble};
use crate::config::Origin;
use crate::{shutdown, start};

/// Flags of `serve`. They go over the environment, which goes over the file.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Directory of the data; created if it is missing.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to listen; port 0 takes any.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Password that clients must give.
    #[arg(long, value_name = "PASSWORD")]
    requirepass: Option<String>,
    /// Primary to follow: as 'HOST PORT', or as two words.
    #[arg(long, alias = "slaveof", value_names = ["HOST", "PORT"], num_args = 1..=2)]
    replicaof: Option<Vec<String>>,
    /// The primary's password.
    #[arg(long, value_name = "PASSWORD")]
    masterauth: Option<String>,
    /// Listen beyond loopback without a password.
    #[arg(long)]
    insecure: bool,
    /// This node's number in the cluster.
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// All nodes of the cluster, the same list on each: 1=HOST:PORT@PEERPORT,2=...,3=...+witness.
    #[arg(long, value_name = "NODES")]
    cluster: Option<String>,
    /// Which cluster that is, as `cluster init` has numbered it; 1 if nobody has.
    #[arg(long, value_name = "NUMBER")]
    cluster_id: Option<String>,
    /// A new node that waits until `cluster add` takes it in; --cluster names this node alone.
    #[arg(long)]
    join: bool,
    /// File with the secret that the nodes have in common; needed beyond loopback.
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: Option<String>,
    /// This node's certificate, PEM; links to the others then go over TLS. Together with the next two.
    #[arg(long, value_name = "FILE")]
    cluster_tls_cert: Option<String>,
    /// The key of that certificate, PEM.
    #[arg(long, value_name = "FILE")]
    cluster_tls_key: Option<String>,
    /// The certificate of the authority that has signed those of all nodes, PEM.
    #[arg(long, value_name = "FILE")]
    cluster_tls_ca: Option<String>,
    /// How durable writes are made: auto, io_uring, pwritev2, direct-fdatasync, buffered-fdatasync,
    /// fsync.
    #[arg(long, value_name = "RUNG")]
    rung: Option<String>,
    /// When writes are acknowledged: disk (default) or memory.
    #[arg(long, value_name = "LEVEL")]
    durability: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    // A second subscriber in one process is a test's; it keeps the first.
    let _ = log.with_max_level(log_level()).try_init();

    let mut config = arguments.config.load()?;
    let dir = match &arguments.dir {
        Some(dir) => Some(dir.to_str().ok_or_else(|| {
            Trouble::Usage("--dir is not valid UTF-8: choose another name".into())
        })?),
        None => None,
    };
    let replicaof = arguments.replicaof.as_ref().map(|words| words.join(" "));
    let flags = [
        ("--replicaof", "replicaof", replicaof.as_deref()),
        ("--masterauth", "masterauth", arguments.masterauth.as_deref()),
        ("--dir", "dir", dir),
        ("--listen", "listen", arguments.listen.as_deref()),
        ("--requirepass", "requirepass", arguments.requirepass.as_deref()),
        ("--insecure", "insecure", arguments.insecure.then_some("yes")),
        ("--node-id", "node-id", arguments.node_id.as_deref()),
        ("--cluster", "cluster", arguments.cluster.as_deref()),
        ("--cluster-id", "cluster-id", arguments.cluster_id.as_deref()),
        ("--join", "join", arguments.join.then_some("yes")),
        ("--cluster-secret-file", "cluster-secret-file", arguments.cluster_secret_file.as_deref()),
        ("--cluster-tls-cert", "cluster-tls-cert", arguments.cluster_tls_cert.as_deref()),
        ("--cluster-tls-key", "cluster-tls-key", arguments.cluster_tls_key.as_deref()),
        ("--cluster-tls-ca", "cluster-tls-ca", arguments.cluster_tls_ca.as_deref()),
        ("--rung", "rung", arguments.rung.as_deref()),
        ("--durability", "durability", arguments.durability.as_deref()),
    ];
    for (flag, name, value) in flags {
        if let Some(value) = value {
            config.set(name, value, Origin::Flag(flag))?;
        }
    }

    let cannot_run = |error: start::Error| match error {
        start::Error::Public(_)
        | start::Error::Config(_)
        | start::Error::Cluster(_)
        | start::Error::Tls(_) => Trouble::Usage(error.to_string()),
        error => Trouble::CannotRun(error.to_string()),
    };
    let node = start::start(config).map_err(cannot_run)?;
    for address in node.addresses() {
        println!("ready on {address}");
    }
    // Whoever waits for the line reads a pipe: it must not stay in the buffer.
    let _ = std::io::stdout().flush();
    let mut node = node;
    loop {
        wait_for_signals(&node)?;
        if !node.server().shutdown.is_restart() {
            return node.finish().map_err(cannot_run);
        }
        node = node.restart().map_err(cannot_run)?;
    }
}

fn log_level() -> tracing::Level {
    let wanted = std::env::var("STRANDLINE_LOG").ok();
    wanted.and_then(|level| level.parse().ok()).unwrap_or(tracing::Level::INFO)
}

/// Asks the node to stop at SIGTERM or SIGINT; returns when anybody has asked.
fn wait_for_signals(node: &start::Node) -> Outcome {
    let trouble = |error: std::io::Error| Trouble::CannotRun(format!("no signals: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(trouble)?;
    let server = node.server();
    runtime.block_on(async {
        tokio::select! {
            signalled = shutdown::signalled() => {
                signalled.map_err(trouble)?;
                tracing::info!("stopping: finishing what was received");
                server.shutdown.ask();
                Ok(())
            }
            () = server.shutdown.asked() => Ok(()),
        }
    })
}
