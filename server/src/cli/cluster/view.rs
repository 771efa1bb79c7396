//! A cluster as its nodes describe it to whoever asks.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::Target;
use crate::cli::client::{Connection, Reply};
use crate::cli::error::{Error, Result};

/// How long a connection attempt may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The fields of `INFO replication`.
pub(super) type Fields = BTreeMap<String, String>;

/// One node, as `MEMBER LIST` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member(BTreeMap<String, String>);

impl Member {
    /// Reads a line of `MEMBER LIST`.
    pub(super) fn read(line: &str) -> Member {
        Member(parts(line))
    }

    /// One of its fields; empty if the node that was asked does not know it.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// One of its numbers.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.parse().ok()
    }

    /// All that is known: numbers as numbers.
    pub(super) fn json(&self) -> serde_json::Value {
        let value = |(name, text): (&String, &String)| {
            let value = match text.parse::<u64>() {
                Ok(number) => number.into(),
                Err(_) => text.as_str().into(),
            };
            (name.clone(), value)
        };
        serde_json::Value::Object(self.0.iter().map(value).collect())
    }
}

impl fmt::Display for Member {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match (self.get("leads"), self.get("role")) {
            ("1", _) => "leader",
            (_, "none") => "no member",
            (_, role) => role,
        };
        write!(out, "node {:<6} {:<10} {}", self.get("id"), role, self.get("address"))?;
        if let Some(entries) = self.number("lag_entries") {
            let (bytes, ms) = (self.get("lag_bytes"), self.get("lag_ms"));
            write!(
                out,
                " {}, {entries} entries, {bytes} bytes, {ms} ms behind",
                self.get("state")
            )?;
        }
        if let (Some(sent), Some(all)) =
            (self.number("snapshot_sent"), self.number("snapshot_bytes"))
        {
            write!(out, ", snapshot {}%", sent * 100 / all.max(1))?;
        }
        if self.get("state_damaged") == "1" {
            write!(out, ", its state is damaged")?;
        }
        match self.get("doubt") {
            "" | "nothing" => Ok(()),
            doubt => write!(out, ", in doubt of {doubt}"),
        }
    }
}

/// The nodes of the cluster, as the leader sees them; as the asked node does if it knows no leader.
pub(super) fn members(target: &Target) -> Result<Vec<Member>> {
    let own = fields(&target.node, target.password.as_deref())?;
    let address = leader_address(&own).unwrap_or_else(|| target.node.clone());
    let mut connection = connect(&address, target.password.as_deref())?;
    let reply = connection
        .ask(&[b"MEMBER", b"LIST"])
        .map_err(|source| Error::Connection { address, source })?;
    let Reply::Array(lines) = reply else {
        return Err(Error::Answer { asked: "MEMBER LIST", found: format!("{reply:?}") });
    };
    let member = |line: &Reply| match line {
        Reply::Bulk(text) => Some(Member::read(&String::from_utf8_lossy(text))),
        _ => None,
    };
    Ok(lines.iter().filter_map(member).collect())
}

/// What the leader says of itself and of the others; what the asked node says if it knows no leader.
pub(super) fn leader_fields(target: &Target) -> Result<Fields> {
    let password = target.password.as_deref();
    let own = fields(&target.node, password)?;
    match leader_address(&own) {
        Some(address) => fields(&address, password),
        None => Ok(own),
    }
}

/// Where the leader is, according to a follower.
pub(super) fn leader_address(fields: &Fields) -> Option<String> {
    let (host, port) = (fields.get("master_host")?, fields.get("master_port")?);
    (!host.is_empty()).then(|| format!("{host}:{port}"))
}

pub(super) fn fields(address: &str, password: Option<&str>) -> Result<Fields> {
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

pub(super) fn connect(address: &str, password: Option<&str>) -> Result<Connection> {
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

/// The parts of one line about a node.
fn parts(line: &str) -> BTreeMap<String, String> {
    let pairs = line.split(',').filter_map(|part| part.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_about_a_node_falls_into_parts() {
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
