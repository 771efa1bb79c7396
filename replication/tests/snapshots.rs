//! Replicas that the log cannot bring up to date any more.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, options, voters};
use strandline_replication::{
    Event, MemberRole, Options, Outcome, ReplicaId, Request, open_session_entry,
};

/// Small logs: whoever is away for a while needs a snapshot.
fn cluster(seed: u64) -> Cluster {
    let mut cluster = Cluster::empty(seed);
    for id in 1..=3 {
        cluster.add(small(options(id, &voters(&[1, 2, 3]), seed)));
    }
    cluster
}

fn small(options: Options) -> Options {
    Options { retention_bytes_max: 128 << 10, snapshot_bytes_per_tick: 8 << 10, ..options }
}

fn fill(cluster: &mut Cluster, leader: u64, count: u32) {
    for at in 0..count {
        cluster.propose(leader, &[&at.to_le_bytes(), &[5; 1000]]);
        cluster.round();
    }
}

/// Writes until the log of the leader begins after what `id` has.
fn leave_behind(cluster: &mut Cluster, leader: u64, id: u64) {
    let replica = cluster.nodes.get(&id).and_then(|node| node.replica.as_ref());
    let last = replica.map_or(1, |replica| replica.status().last.0);
    for _ in 0..40 {
        fill(cluster, leader, 10);
        if cluster.replica(leader).status().first.0 > last + 1 {
            return;
        }
    }
    panic!("the log is not trimmed: {:?}", cluster.replica(leader).status());
}

#[test]
fn who_was_away_gets_a_snapshot_and_then_the_log() {
    let mut cluster = cluster(1);
    let leader = cluster.elect();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    fill(&mut cluster, leader, 5);
    cluster.isolate(away);
    leave_behind(&mut cluster, leader, away);
    cluster.heal();
    let mut seen = false;
    for _ in 0..400 {
        cluster.round();
        seen |= cluster.replica(away).status().receiving.is_some();
        seen |= cluster.replica(leader).status().peers.iter().any(|peer| peer.sending.is_some());
    }
    assert!(seen, "it took a snapshot");
    cluster.converge();
    fill(&mut cluster, leader, 3);
    cluster.converge();
    cluster.reopen(away, true);
    cluster.converge();
}

#[test]
fn who_joins_late_gets_a_snapshot() {
    let mut cluster = cluster(2);
    let leader = cluster.elect();
    leave_behind(&mut cluster, leader, 99);
    cluster.add(small(options(4, &[], 2)));
    cluster.change(vec![common::set(4, MemberRole::Voter)]);
    cluster.until("it is up to date", |cluster| {
        cluster.replica(4).status().applied == cluster.replica(leader).status().applied
    });
    assert_eq!(cluster.replica(4).status().membership.voters().len(), 4);
    cluster.converge();
}

/// Every part of the way, with a crash of either side.
#[test]
fn a_snapshot_survives_crashes_of_either_side() {
    let mut installed = 0;
    for seed in 0..40 {
        let mut cluster = cluster(seed);
        let leader = cluster.elect();
        let away = (1..=3).find(|id| *id != leader).unwrap();
        fill(&mut cluster, leader, 3);
        cluster.isolate(away);
        leave_behind(&mut cluster, leader, away);
        cluster.heal();
        (cluster.loss, cluster.duplication, cluster.reordering) = (100, 100, 500);
        let rounds = 5 + seed * 3;
        cluster.rounds(usize::try_from(rounds).unwrap());
        let victim = if seed % 3 == 0 { leader } else { away };
        let operations = cluster.nodes[&victim].disk.operations();
        let fault = strandline_wal::disk::simulated::Fault::PowerCut;
        cluster.nodes[&victim].disk.fail_at(operations + 1 + seed % 40, fault);
        while cluster.nodes[&victim].stopped.is_none() {
            fill(&mut cluster, leader, 1);
        }
        let node = cluster.node(victim);
        node.replica = None;
        node.disk.restart();
        node.disk.clear_faults();
        cluster.rounds(5);
        cluster.open(victim).unwrap();
        (cluster.loss, cluster.duplication, cluster.reordering) = (0, 0, 0);
        cluster.elect();
        cluster.converge();
        installed += u64::from(cluster.replica(away).status().first.0 > 1);
    }
    assert!(installed > 20, "{installed}");
}

/// The log begins anew behind a snapshot while its writes hang: what was in flight is waited for no more. The
/// snapshot was reported behind it, so late that the consensus panicked. Found by the cluster simulator, profile
/// `snapshots`, seeds 31011748, 31022161 and 31028024, and profile `state`, seed 31068937.
#[test]
fn a_snapshot_comes_to_a_log_whose_writes_hang() {
    for ended in 0..4 {
        let mut cluster = cluster(4);
        let away = cluster.elect();
        fill(&mut cluster, away, 3);
        cluster.converge();
        cluster.hangs = away;
        cluster.isolate(away);
        for at in 0..100_u8 {
            cluster.propose(away, &[&[at]]);
        }
        for _ in 0..ended {
            cluster.nodes[&away].disk.complete_one();
            cluster.step(away, Event::LogMoved);
        }
        let before = cluster.replica(away).status();
        cluster.until("another leader", |cluster| cluster.leader().is_some_and(|id| id != away));
        let leader = cluster.leader().unwrap();
        while cluster.replica(leader).status().first <= before.committed {
            fill(&mut cluster, leader, 1);
        }
        cluster.step(leader, Event::Unreachable(ReplicaId(away)));
        cluster.heal();
        cluster.until("the snapshot is installed", |cluster| {
            cluster.replica(away).status().applied > before.applied
        });
        let status = cluster.replica(away).status();
        assert!(status.applied < before.last, "{before:?}, {status:?}");
        cluster.hangs = 0;
        cluster.converge();
        fill(&mut cluster, leader, 3);
        cluster.converge();
        cluster.reopen(away, true);
        cluster.converge();
    }
}

#[test]
fn the_table_of_sessions_is_in_the_snapshot() {
    let mut cluster = cluster(3);
    let leader = cluster.elect();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    let opened = cluster.propose_payload(leader, open_session_entry(), None);
    cluster.until("opened", |cluster| cluster.acknowledged.contains(&opened));
    let request = Some(Request { session: cluster.taken[&opened][0].index, number: 1 });
    cluster.isolate(away);
    cluster.propose_payload(leader, common::command(b"once"), request);
    leave_behind(&mut cluster, leader, away);
    cluster.heal();
    cluster.converge();
    let before = cluster.executions(away, b"once");
    cluster.propose_payload(leader, common::command(b"once"), request);
    cluster.rounds(5);
    cluster.converge();
    assert_eq!(cluster.executions(away, b"once"), before);
}

/// A deposed leader that gets a snapshot said nothing of what it had accepted and others had committed:
/// who waited for that waited for ever.
#[test]
fn what_a_snapshot_replaces_is_said_to_be_unknown() {
    let mut cluster = cluster(4);
    let leader = cluster.elect();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    // The first entry reaches the others, and their answers do not come back.
    for other in &others {
        cluster.cut.insert((*other, leader));
    }
    let kept = cluster.propose(leader, &[b"kept"]);
    cluster.deliver();
    cluster.turn_disks();
    cluster.isolate(leader);
    let lost = cluster.propose(leader, &[b"lost"]);
    cluster.until("another leader", |cluster| cluster.leader().is_some_and(|id| id != leader));
    let second = cluster.leader().unwrap();
    leave_behind(&mut cluster, second, leader);
    cluster.heal();
    cluster.converge();
    let at = |token: u64| cluster.taken[&token][0].index;
    let outcomes = &cluster.nodes[&leader].outcomes;
    let unknown = outcomes.iter().any(|outcome| {
        matches!(outcome, Outcome::Unknown { first, end, .. } if (first.0..end.0).contains(&at(kept)))
    });
    let overwritten = outcomes.iter().any(
        |outcome| matches!(outcome, Outcome::Overwritten { first, .. } if first.0 == at(lost)),
    );
    assert!(unknown && overwritten, "{outcomes:?}");
    assert_eq!(cluster.history[&at(kept)].1, b"kept");
}
