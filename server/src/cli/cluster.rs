//! `cluster`: a running cluster, seen and steered from outside, through any of its nodes.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::client::{Connection, Reply};
use super::error::{self, Error, Result};

/// How long a connection attempt may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a hand-over may take.
const TRANSFER_MAX: Duration = Duration::from_secs(10);

/// See and steer a running cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
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
        Verb::Status(args) => error::exit("cluster status", status(args)),
        Verb::Transfer(args) => error::exit("cluster transfer", transfer(args)),
    }
}

/// The fields of `INFO replication`.
type Fields = BTreeMap<String, String>;

fn status(args: &StatusArgs) -> Result<bool> {
    let fields = leader_fields(&args.target)?;
    let get = |name: &str| fields.get(name).map_or("", String::as_str);
    let leads = get("role") == "master";
    let replicas = (0..).map_while(|number| fields.get(&format!("slave{number}")));
    if args.target.json {
        let replicas: Vec<_> = replicas.map(|line| serde_json::json!(parts(line))).collect();
        let object = serde_json::json!({
            "has_leader": leads,
            "leader_id": get("leader_id"),
            "term": get("term"),
            "committed": get("committed"),
            "everywhere": get("everywhere"),
            "replicas": replicas,
        });
        println!("{object}");
        return Ok(leads);
    }
    if !leads {
        println!("no leader is known to {}: is a majority of the nodes running?", args.target.node);
        return Ok(false);
    }
    println!("leader      node {} in term {}", get("leader_id"), get("term"));
    println!("committed   {}", get("committed"));
    println!("everywhere  {}", get("everywhere"));
    for line in replicas {
        let part = parts(line);
        let get = |name: &str| part.get(name).map_or("?", String::as_str);
        println!(
            "replica     {}:{} {}, {} entries, {} bytes, {} ms behind",
            get("ip"),
            get("port"),
            get("state"),
            get("lag_entries"),
            get("lag_bytes"),
            get("lag_ms")
        );
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

/// What the leader says of itself and of the others; what the asked node says if it knows no leader.
fn leader_fields(target: &Target) -> Result<Fields> {
    let password = target.password.as_deref();
    let own = fields(&target.node, password)?;
    match leader_address(&own) {
        Some(address) => fields(&address, password),
        None => Ok(own),
    }
}

/// Where the leader is, according to a follower.
fn leader_address(fields: &Fields) -> Option<String> {
    let (host, port) = (fields.get("master_host")?, fields.get("master_port")?);
    (!host.is_empty()).then(|| format!("{host}:{port}"))
}

fn fields(address: &str, password: Option<&str>) -> Result<Fields> {
    let mut connection = connect(address, password)?;
    let reply = connection
        .ask(&[b"INFO", b"replication"])
        .map_err(|source| Error::Connection { address: address.into(), source })?;
    let Reply::Bulk(text) = reply else {
        return Err(Error::Answer { asked: "INFO replication", found: format!("{reply:?}") });
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

fn connect(address: &str, password: Option<&str>) -> Result<Connection> {
    let broken = |source| Error::Connection { address: address.into(), source };
    let resolved: Vec<SocketAddr> = address.to_socket_addrs().map_err(broken)?.collect();
    let first = resolved.first().ok_or_else(|| broken(std::io::ErrorKind::NotFound.into()))?;
    let mut connection = Connection::open(*first, CONNECT_MAX).map_err(broken)?;
    if let Some(password) = password {
        let reply = connection.ask(&[b"AUTH", password.as_bytes()]).map_err(broken)?;
        if !reply.is_ok() {
            return Err(Error::Answer { asked: "AUTH", found: format!("{reply:?}") });
        }
    }
    Ok(connection)
}

/// The parts of one line about a replica.
fn parts(line: &str) -> BTreeMap<String, String> {
    let pairs = line.split(',').filter_map(|part| part.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_about_a_replica_falls_into_parts() {
        let parts = parts("ip=127.0.0.1,port=7002,state=online,offset=5,lag=0,lag_ms=20");
        assert_eq!(parts["port"], "7002");
        assert_eq!(parts["lag_ms"], "20");
    }

    #[test]
    fn a_follower_names_the_leader_and_a_leader_does_not() {
        let follower = [("master_host", "h"), ("master_port", "1")];
        let fields = |pairs: &[(&str, &str)]| -> Fields {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        assert_eq!(leader_address(&fields(&follower)).as_deref(), Some("h:1"));
        assert_eq!(leader_address(&fields(&[("role", "master")])), None);
        assert_eq!(leader_address(&fields(&[("master_host", ""), ("master_port", "0")])), None);
    }
}
