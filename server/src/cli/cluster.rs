//! `cluster`: a new cluster made, a running one seen and steered from outside, through any of its nodes.

mod certificates;
mod change;
mod init;
mod view;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::error::{self, Error, Result};
pub(crate) use init::{Form, form};
use view::{connect, leader_address, leader_fields, members};

/// How long a hand-over may take.
const TRANSFER_MAX: Duration = Duration::from_secs(10);

/// See and steer a running cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Take a new node in: it is filled, and then it votes.
    Add(change::AddArgs),
    /// Make a new cluster: a directory and a file of settings for each node.
    Init(init::InitArgs),
    /// Let a node go; the leader hands over first.
    Remove(change::RemoveArgs),
    /// Make certificates for TLS between nodes, for trying it out.
    Certificates(certificates::CertificatesArgs),
    /// Who leads, who follows, and how far behind.
    Status(StatusArgs),
    /// Hand the lead over, without losing a write.
    Transfer(TransferArgs),
}

/// Which cluster is meant.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Address of any of its nodes.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    node: String,
    /// The password that its clients give.
    #[arg(long, value_name = "PASSWORD", env = "STRANDLINE_REQUIREPASS", hide_env_values = true)]
    password: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Who leads, who follows, and how far behind.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: Target,
}

/// Hand the lead over, without losing a write.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    #[command(flatten)]
    target: Target,
    /// To the node at this address; without it, to the one that lacks least.
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
}

/// Runs the verb: exit code 0 if it did what was asked, 1 if the cluster has no leader.
pub(crate) fn run(verb: &Verb) -> ExitCode {
    match verb {
        Verb::Add(args) => error::exit("cluster add", change::add(args)),
        Verb::Certificates(args) => error::exit("cluster certificates", certificates::make(args)),
        Verb::Init(args) => error::exit("cluster init", init::init(args)),
        Verb::Remove(args) => error::exit("cluster remove", change::remove(args)),
        Verb::Status(args) => error::exit("cluster status", status(args)),
        Verb::Transfer(args) => error::exit("cluster transfer", transfer(args)),
    }
}

fn status(args: &StatusArgs) -> Result<bool> {
    let fields = leader_fields(&args.target)?;
    let get = |name: &str| fields.get(name).map_or("", String::as_str);
    let leads = get("role") == "master";
    let members = members(&args.target)?;
    if args.target.json {
        let number = |name: &str| get(name).parse::<u64>().ok();
        let object = serde_json::json!({
            "has_leader": leads,
            "cluster_id": number("cluster_id"),
            "leader_id": number("leader_id"),
            "term": number("term"),
            "committed": number("committed"),
            "everywhere": number("everywhere"),
            "nodes": members.iter().map(view::Member::json).collect::<Vec<_>>(),
        });
        println!("{object}");
        return Ok(leads);
    }
    if !leads {
        println!("no leader is known to {}: is a majority of the nodes running?", args.target.node);
        return Ok(false);
    }
    println!("cluster     {}", get("cluster_id"));
    println!("leader      node {} in term {}", get("leader_id"), get("term"));
    println!("committed   {}", get("committed"));
    println!("everywhere  {}", get("everywhere"));
    for member in &members {
        println!("{member}");
    }
    Ok(true)
}

fn transfer(args: &TransferArgs) -> Result<bool> {
    let before = leader_fields(&args.target)?;
    let address = leader_address(&before).unwrap_or_else(|| args.target.node.clone());
    let mut connection = connect(&address, args.target.password.as_deref())?;
    let reply = match &args.to {
        Some(to) => {
            let (host, port) = to.rsplit_once(':').ok_or_else(|| Error::Usage {
                reason: format!("--to {to}: an address is HOST:PORT"),
            })?;
            connection.ask(&[b"FAILOVER", b"TO", host.as_bytes(), port.as_bytes()])
        }
        None => connection.ask(&[b"FAILOVER"]),
    };
    let reply = reply.map_err(|source| Error::Connection { address, source })?;
    if !reply.is_ok() {
        return Err(Error::Answer { asked: "FAILOVER", found: format!("{reply:?}") });
    }
    let began = Instant::now();
    while began.elapsed() < TRANSFER_MAX {
        let now = leader_fields(&args.target)?;
        let leads = now.get("role").is_some_and(|role| role == "master");
        if leads && now.get("leader_id") != before.get("leader_id") {
            let leader = now.get("leader_id").map_or("?", String::as_str);
            match args.target.json {
                true => println!("{}", serde_json::json!({ "leader_id": leader })),
                false => println!("node {leader} leads"),
            }
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("the lead was not taken within {} s", TRANSFER_MAX.as_secs());
    Ok(false)
}
