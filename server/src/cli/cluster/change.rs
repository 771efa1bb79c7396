//! `cluster add` and `cluster remove`: steps that the leader takes one by one, until the change is made.
//!
//! Every step is read off from what the cluster says of itself, and asking for one twice is harmless. So
//! these verbs may be stopped and typed again, and do not mind if another node takes the lead.

use std::time::{Duration, Instant};

use clap::Args;

use super::view::{self, Member, members};
use super::{Target, connect, leader_address, leader_fields};
use crate::cli::client::Reply;
use crate::cli::error::{Error, Result};
use crate::cluster::Node;
use crate::cluster::members::LAG_ENTRIES_MAX;

/// How often to look how far it is.
const LOOK: Duration = Duration::from_millis(50);
/// How often to say how far it is.
const SAY: Duration = Duration::from_secs(5);
/// The longest wait: a day.
const SECONDS_MAX: u64 = 86_400;
/// Answers that a later attempt may not get.
const PASSING: [&str; 5] = ["CLUSTERDOWN", "READONLY", "TRYAGAIN", "THROTTLED", "MISCONF"];

/// Take a new node in: it is filled, and then it votes.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    target: Target,
    /// The node, which runs with the same --cluster and --join: ID=HOST:PORT@PEERPORT[+witness].
    #[arg(value_name = "ID=HOST:PORT@PEERPORT")]
    new: String,
    /// How many seconds to wait at the most; filling a node takes its time.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: u64,
}

/// Let a node go; the leader hands over first.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    target: Target,
    /// Its number.
    #[arg(value_name = "ID")]
    id: u64,
    /// Also if no majority of the others is running.
    #[arg(long)]
    force: bool,
    /// How many seconds to wait at the most.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: u64,
}

/// Where a change is.
enum Step {
    /// It is made.
    Done(String),
    /// The leader is to be asked for this.
    Ask(Vec<String>),
    /// Wait.
    Wait(String),
}

pub(super) fn add(args: &AddArgs) -> Result<bool> {
    let node =
        Node::parse(&args.new).map_err(|error| Error::Usage { reason: error.to_string() })?;
    let step = |members: &[Member]| add_step(&node, members);
    let fields = leader_fields(&args.target)?;
    let cluster = fields.get("cluster_id").map_or("1", String::as_str);
    let hint = format!(
        "is it running, as: strandline serve --node-id {} --cluster '{node}' --cluster-id {cluster} --join? \
         What was done stays; type the same again to go on",
        node.id
    );
    change(&args.target, Duration::from_secs(args.seconds), node.id.0, &hint, step)
}

fn add_step(node: &Node, members: &[Member]) -> Step {
    let id = node.id.to_string();
    let Some(member) = members.iter().find(|member| member.get("id") == id) else {
        return Step::Ask(vec!["ADD".into(), node.to_string()]);
    };
    let is_there =
        member.get("address") == node.address && member.get("peer_address") == node.peer_address;
    match member.get("role") {
        "voter" | "witness" if is_there => {
            Step::Done(format!("node {id} is a {}", member.get("role")))
        }
        "learner" if is_there => match member.number("lag_entries") {
            Some(lag) if member.get("state") == "online" && lag <= LAG_ENTRIES_MAX => {
                Step::Ask(vec!["PROMOTE".into(), id])
            }
            _ => Step::Wait(member.to_string()),
        },
        _ => Step::Ask(vec!["ADD".into(), node.to_string()]),
    }
}

pub(super) fn remove(args: &RemoveArgs) -> Result<bool> {
    let id = args.id.to_string();
    let force = args.force;
    let is_known = |members: &[Member]| members.iter().any(|member| member.get("id") == id);
    if !is_known(&members(&args.target)?) {
        return Err(Error::Usage {
            reason: format!("node {id} is not of this cluster: see strandline cluster status"),
        });
    }
    let step = |members: &[Member]| {
        let Some(member) = members.iter().find(|member| member.get("id") == id) else {
            let text =
                format!("node {id} is removed: stop it, its directory is of no use any more");
            return Step::Done(text);
        };
        if member.get("leads") == "1" {
            return Step::Ask(vec!["FAILOVER".into()]);
        }
        let mut asked = vec!["REMOVE".to_owned(), id.clone()];
        asked.extend(force.then(|| "FORCE".to_owned()));
        Step::Ask(asked)
    };
    let hint = "what was done stays; type the same again to go on";
    change(&args.target, Duration::from_secs(args.seconds), args.id, hint, step)
}

/// Asks for step after step until the change is made: true; false if time is up.
fn change(
    target: &Target,
    time_max: Duration,
    id: u64,
    hint: &str,
    step: impl Fn(&[Member]) -> Step,
) -> Result<bool> {
    let began = Instant::now();
    let mut said = Instant::now();
    let mut why = String::new();
    while began.elapsed() < time_max {
        let fields = leader_fields(target)?;
        let has_leader = fields.get("role").is_some_and(|role| role == "master");
        match has_leader.then(|| members(target)).transpose()?.map(|members| step(&members)) {
            Some(Step::Done(text)) => {
                let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                match target.json {
                    true => println!("{}", serde_json::json!({ "id": id, "done": true, "ms": ms })),
                    false => println!("{text}"),
                }
                return Ok(true);
            }
            Some(Step::Ask(asked)) => why = ask(target, &asked)?.unwrap_or_default(),
            Some(Step::Wait(text)) => why = text,
            None => why = "no node leads".into(),
        }
        if said.elapsed() > SAY && !target.json {
            said = Instant::now();
            eprintln!("{why}");
        }
        std::thread::sleep(LOOK);
    }
    match target.json {
        true => println!("{}", serde_json::json!({ "id": id, "done": false, "reason": why })),
        false => println!("not done in {} s: {why}; {hint}", time_max.as_secs()),
    }
    Ok(false)
}

/// Asks the leader; returns a reason if it is to be asked again.
fn ask(target: &Target, words: &[String]) -> Result<Option<String>> {
    let fields = view::fields(&target.node, target.password.as_deref())?;
    let address = leader_address(&fields).unwrap_or_else(|| target.node.clone());
    let mut connection = connect(&address, target.password.as_deref())?;
    let is_failover = words.first().is_some_and(|word| word == "FAILOVER");
    let mut arguments: Vec<&[u8]> = if is_failover { Vec::new() } else { vec![b"MEMBER"] };
    arguments.extend(words.iter().map(|word| word.as_bytes()));
    let reply = connection.ask(&arguments);
    match reply.map_err(|source| Error::Connection { address, source })? {
        Reply::Error(text) => {
            if PASSING.iter().any(|word| text.starts_with(word)) {
                return Ok(Some(text));
            }
            Err(match text.strip_prefix("ERR ") {
                Some(text) => Error::Usage { reason: text.to_owned() },
                None => Error::Answer { asked: "MEMBER", found: text },
            })
        }
        reply if reply.is_ok() => Ok(None),
        other => Err(Error::Answer { asked: "MEMBER", found: format!("{other:?}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node::parse("4=h:1@2").expect("a node")
    }

    fn asked(lines: &[&str]) -> String {
        let members: Vec<Member> = lines.iter().map(|line| Member::read(line)).collect();
        match add_step(&node(), &members) {
            Step::Done(text) | Step::Wait(text) => text,
            Step::Ask(words) => words.join(" "),
        }
    }

    #[test]
    fn a_node_is_added_filled_and_promoted() {
        let place = "id=4,address=h:1,peer_address=h:2";
        let online = format!("{place},role=learner,state=online");
        for (line, expected) in [
            ("id=1,address=h:3".to_owned(), "ADD 4=h:1@2"),
            (format!("{place},role=none"), "ADD 4=h:1@2"),
            (format!("{online},lag_entries=1000000,lag_bytes=1,lag_ms=1"), "behind"),
            (format!("{place},role=learner,state=snapshot,lag_entries=1"), "behind"),
            (format!("{online},lag_entries=3"), "PROMOTE 4"),
            (format!("{place},role=voter"), "node 4 is a voter"),
            ("id=4,address=x:1,peer_address=h:2,role=voter".to_owned(), "ADD 4=h:1@2"),
        ] {
            let found = asked(&[&line]);
            assert!(found.contains(expected), "{line}: {found}");
        }
    }
}
