//! Three replicas through elections, crashes and partitions, one behaviour each.
#![allow(clippy::unwrap_used)]

mod common;

use common::Cluster;
use strandline_replication::{Event, Outcome, Refusal, ReplicaId, Role};

#[test]
fn a_leader_is_elected_and_entries_reach_everybody() {
    let mut cluster = Cluster::new(3, 1);
    let leader = cluster.elect();
    let token = cluster.propose(leader, &[b"a", b"b"]);
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
    cluster.converge();
    let status = cluster.replica(leader).status();
    assert_eq!(status.committed, status.last);
    cluster.rounds(5);
    assert_eq!(cluster.replica(leader).status().everywhere, status.last);
    for node in cluster.nodes.values() {
        let db = node.replica.as_ref().unwrap().db();
        let value = db.get(strandline_engine::KeyspaceId::DEFAULT, b"b").unwrap();
        assert!(value.is_some(), "replica {}", node.id);
    }
}

#[test]
fn a_follower_refuses_proposals_and_names_the_leader() {
    let mut cluster = Cluster::new(3, 2);
    let leader = cluster.elect();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let token = cluster.propose(follower, &[b"a"]);
    let leader = Some(ReplicaId(leader));
    assert_eq!(cluster.refusal(follower, token), Some(Refusal::NotLeader { leader }));
}

#[test]
fn one_replica_alone_commits() {
    let mut cluster = Cluster::new(1, 3);
    let leader = cluster.elect();
    let token = cluster.propose(leader, &[b"a"]);
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
    cluster.reopen(leader, true);
    cluster.elect();
    cluster.converge();
    assert!(cluster.history.values().any(|(_, command)| command == b"a"));
}

#[test]
fn another_leader_goes_on_when_one_crashes_and_it_comes_back() {
    let mut cluster = Cluster::new(3, 4);
    let first = cluster.elect();
    for at in 0..50_u32 {
        cluster.propose(first, &[&at.to_le_bytes()]);
        cluster.round();
    }
    cluster.crash(first, true);
    cluster.until("another leader", |cluster| cluster.leader().is_some_and(|id| id != first));
    let second = cluster.leader().unwrap();
    for at in 50..100_u32 {
        cluster.propose(second, &[&at.to_le_bytes()]);
        cluster.round();
    }
    cluster.open(first).unwrap();
    cluster.converge();
    assert!(cluster.acknowledged.len() >= 90, "{}", cluster.acknowledged.len());
}

/// The deposed leader holds entries that nobody else has; they go, and are said to be gone only when
/// others are committed in their place.
#[test]
fn a_conflicting_end_is_dropped_and_reported() {
    let mut cluster = Cluster::new(3, 5);
    let first = cluster.elect();
    cluster.isolate(first);
    let lost = cluster.propose(first, &[b"lost 1", b"lost 2"]);
    assert!(cluster.taken.contains_key(&lost));
    cluster.until("another leader", |cluster| cluster.leader().is_some_and(|id| id != first));
    let second = cluster.leader().unwrap();
    let token = cluster.propose(second, &[b"kept"]);
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
    cluster.heal();
    cluster.converge();
    assert!(!cluster.acknowledged.contains(&lost));
    let overwritten = cluster.nodes[&first].outcomes.iter().any(|outcome| {
        matches!(outcome, Outcome::Overwritten { first, .. } if first.0 == cluster.taken[&lost][0].index)
    });
    assert!(overwritten, "{:?}", cluster.nodes[&first].outcomes);
    assert!(cluster.history.values().all(|(_, command)| !command.starts_with(b"lost")));
}

#[test]
fn everything_acknowledged_survives_a_power_cut_of_all() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(3, seed);
        cluster.disk_speed = 500;
        let leader = cluster.elect();
        for at in 0..200_u32 {
            cluster.propose(leader, &[&at.to_le_bytes(), &[7; 600]]);
            cluster.deliver();
            cluster.turn_disks();
        }
        let acknowledged = cluster.acknowledged.len();
        for id in 1..=3 {
            cluster.crash(id, true);
        }
        for id in 1..=3 {
            cluster.open(id).unwrap();
        }
        cluster.elect();
        cluster.converge();
        assert!(acknowledged > 10, "seed {seed}: {acknowledged}");
    }
}

#[test]
fn a_deposed_leader_reads_nothing() {
    let mut cluster = Cluster::new(3, 6);
    let first = cluster.elect();
    cluster.isolate(first);
    let stale = cluster.read(first);
    cluster.until("another leader", |cluster| cluster.leader().is_some_and(|id| id != first));
    let second = cluster.leader().unwrap();
    let token = cluster.propose(second, &[b"new"]);
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
    // It steps down by itself, because it hears from nobody.
    cluster.until("stepped down", |cluster| cluster.replica(first).status().role != Role::Leader);
    assert_eq!(cluster.refusal(first, stale), Some(Refusal::NoQuorum));
    let fresh = cluster.read(second);
    cluster.until("readable", |cluster| !cluster.reads.contains_key(&fresh));
    assert_eq!(cluster.reads_done, 1);
}

#[test]
fn a_follower_reads_what_was_acknowledged() {
    let mut cluster = Cluster::new(3, 7);
    let leader = cluster.elect();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    for at in 0..20_u32 {
        let token = cluster.propose(leader, &[&at.to_le_bytes()]);
        cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
        cluster.read(follower);
        cluster.read(leader);
    }
    cluster.until("all are read", |cluster| cluster.reads.is_empty());
    assert_eq!(cluster.reads_done, 40);
}

#[test]
fn the_leadership_is_handed_over() {
    let mut cluster = Cluster::new(3, 8);
    let first = cluster.elect();
    let next = (1..=3).find(|id| *id != first).unwrap();
    cluster.step(first, Event::Transfer { to: ReplicaId(next) });
    cluster.until("handed over", |cluster| cluster.leader() == Some(next));
    let token = cluster.propose(next, &[b"a"]);
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
}

/// A replica that is opened under another name, or whose files belong to another, must not start.
#[test]
fn a_directory_belongs_to_one_replica() {
    let mut cluster = Cluster::new(1, 9);
    cluster.elect();
    cluster.crash(1, false);
    cluster.node(1).options.id = ReplicaId(2);
    let refused = cluster.open(1).unwrap_err();
    assert!(matches!(refused, strandline_replication::Error::Identity { .. }), "{refused}");
    cluster.node(1).options.id = ReplicaId(1);
    cluster.open(1).unwrap();
    cluster.elect();
}

#[test]
fn a_disk_that_fails_stops_the_replica_and_not_the_group() {
    use strandline_wal::disk::simulated::Fault;
    let mut cluster = Cluster::new(3, 10);
    let leader = cluster.elect();
    for at in 0..10_u32 {
        cluster.propose(leader, &[&at.to_le_bytes()]);
        cluster.round();
    }
    let disk = cluster.nodes[&leader].disk.clone();
    for later in 1..40 {
        disk.fail_at(disk.operations() + later, Fault::Eio);
    }
    for at in 10..20_u32 {
        cluster.propose(leader, &[&at.to_le_bytes()]);
        cluster.round();
    }
    assert!(cluster.nodes[&leader].stopped.is_some());
    let token = cluster.propose(leader, &[b"x"]);
    assert_eq!(cluster.refusal(leader, token), Some(Refusal::Stopped));
    cluster.until("another leader", |cluster| {
        let others = cluster.nodes.values().filter(|node| node.id != leader);
        others.into_iter().any(|node| node.replica.as_ref().unwrap().status().role == Role::Leader)
    });
    disk.clear_faults();
    cluster.reopen(leader, true);
    cluster.elect();
    cluster.converge();
}

/// Goal: who is told that the leader's process has ended does not wait for the election time-out; who is told so
/// wrongly does no harm.
#[test]
fn a_leader_that_is_known_to_be_gone_is_replaced_at_once() {
    for seed in 10..20 {
        let mut cluster = Cluster::new(3, seed);
        let leader = cluster.elect();
        cluster.propose(leader, &[b"a"]);
        cluster.rounds(30);
        let term = cluster.replica(leader).status().term;
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        // One of them errs: its link has ended, and the leader goes on.
        cluster.step(others[0], Event::Lost(ReplicaId(leader)));
        cluster.rounds(30);
        assert_eq!(cluster.leader(), Some(leader), "seed {seed}");
        assert_eq!(cluster.replica(leader).status().term, term, "seed {seed}");
        cluster.crash(leader, false);
        for id in &others {
            cluster.step(*id, Event::Lost(ReplicaId(leader)));
        }
        // Far fewer rounds than an election time-out has ticks, the disks' turns included.
        let rounds = (0..9).find(|_| {
            cluster.round();
            cluster.leader().is_some_and(|id| id != leader)
        });
        assert!(rounds.is_some(), "seed {seed}: nobody leads yet");
    }
}
