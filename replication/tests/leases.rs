//! Leases: while a leader has one, it reads alone, and nobody takes its place, whatever happens.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, options, voters};
use strandline_replication::{Event, LeaseOptions, Options, Outcome, ReplicaId, Role};

const TICK_US: u64 = 1000;

fn cluster(seed: u64) -> Cluster {
    let mut cluster = Cluster::empty(seed);
    for id in 1..=3 {
        let options = options(id, &voters(&[1, 2, 3]), seed);
        let lease = Some(LeaseOptions { tick_us: TICK_US, drift_per_mille: 100 });
        cluster.add(Options { lease, quiet_ticks: options.election_ticks, ..options });
    }
    cluster
}

fn tell(cluster: &mut Cluster, now_us: u64) {
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    for id in ids {
        if let Some(replica) = &mut cluster.node(id).replica {
            replica.tell_time(now_us);
        }
    }
}

fn rounds(cluster: &mut Cluster, now_us: &mut u64, count: usize) {
    for _ in 0..count {
        *now_us += TICK_US;
        tell(cluster, *now_us);
        cluster.round();
    }
}

fn is_answered(cluster: &Cluster, id: u64, token: u64) -> bool {
    cluster.nodes[&id].outcomes.iter().any(|outcome| {
        matches!(outcome, Outcome::Readable { token: answered, .. } if *answered == token)
    })
}

/// A leader that has just taken a lease; its id, the others', and the time.
fn with_lease(cluster: &mut Cluster) -> (u64, Vec<u64>, u64) {
    let mut now_us = 1_000_000;
    tell(cluster, now_us);
    let leader = cluster.elect();
    cluster.propose(leader, &[b"a"]);
    rounds(cluster, &mut now_us, 30);
    assert!(!cluster.replica(leader).has_lease(), "nobody has read");
    let token = cluster.read(leader);
    assert!(!is_answered(cluster, leader, token), "the first read asks");
    rounds(cluster, &mut now_us, 3);
    assert!(is_answered(cluster, leader, token));
    assert!(cluster.replica(leader).has_lease());
    let others = (1..=3).filter(|id| *id != leader).collect();
    (leader, others, now_us)
}

/// Goal: within its lease a leader answers at once, also one that is cut off, and its followers; afterwards
/// it answers nothing.
#[test]
fn a_leader_reads_alone_until_its_lease_ends() {
    let mut cluster = cluster(1);
    let (leader, others, mut now_us) = with_lease(&mut cluster);
    let token = cluster.read(others[0]);
    cluster.step(others[0], Event::LogMoved);
    cluster.deliver();
    cluster.deliver();
    assert!(is_answered(&cluster, others[0], token), "one way there, and one back");
    cluster.isolate(leader);
    let mut last = 0;
    for tick in 1..=30 {
        let token = cluster.read(leader);
        if is_answered(&cluster, leader, token) {
            last = tick;
        }
        rounds(&mut cluster, &mut now_us, 1);
    }
    // Nine ticks less a tenth, from a question that is some ticks old.
    assert!((3..=8).contains(&last), "answered until tick {last}");
    assert_ne!(cluster.replica(leader).status().role, Role::Leader, "no quorum answers");
}

/// Goal: what a follower believes, and what it is told, does not make it break its promise.
#[test]
fn nobody_is_elected_while_there_is_a_lease() {
    for seed in 2..12 {
        let mut cluster = cluster(seed);
        let (leader, others, mut now_us) = with_lease(&mut cluster);
        cluster.isolate(leader);
        for _ in 0..30 {
            for id in &others {
                cluster.step(*id, Event::Lost(ReplicaId(leader)));
                cluster.step(*id, Event::Campaign);
            }
            rounds(&mut cluster, &mut now_us, 1);
            let leads = |id: &u64| cluster.replica(*id).status().role == Role::Leader;
            let has_lease = cluster.replica(leader).has_lease();
            assert!(!has_lease || !others.iter().any(leads), "seed {seed}");
        }
        cluster.until("another leader", |cluster| cluster.leader().is_some_and(|id| id != leader));
    }
}

/// Goal: a follower that falls and comes back has forgotten its promise, and keeps it. Its vote would be the
/// one that decides.
#[test]
fn who_was_opened_again_keeps_what_it_may_have_promised() {
    for seed in 12..22 {
        let mut cluster = cluster(seed);
        let (leader, others, mut now_us) = with_lease(&mut cluster);
        let (falls, stands) = (others[0], others[1]);
        // It has not heard the leader for long, and is bound to nothing.
        cluster.isolate(stands);
        rounds(&mut cluster, &mut now_us, 25);
        let token = cluster.read(leader);
        rounds(&mut cluster, &mut now_us, 3);
        assert!(is_answered(&cluster, leader, token) && cluster.replica(leader).has_lease());
        cluster.heal();
        cluster.isolate(leader);
        cluster.reopen(falls, false);
        tell(&mut cluster, now_us);
        for _ in 0..30 {
            cluster.step(stands, Event::Campaign);
            rounds(&mut cluster, &mut now_us, 1);
            let has_lease = cluster.replica(leader).has_lease();
            let is_elected = cluster.replica(stands).status().role == Role::Leader;
            assert!(!has_lease || !is_elected, "seed {seed}");
        }
    }
}

/// Goal: others may vote at once for whom a leader hands over to; so its lease ends before it does, and for
/// the rest of its term, because the hand-over may be under way for long.
#[test]
fn who_hands_over_has_no_lease() {
    let mut cluster = cluster(30);
    let (leader, others, mut now_us) = with_lease(&mut cluster);
    cluster.isolate(leader);
    cluster.step(leader, Event::Transfer { to: ReplicaId(others[0]) });
    assert!(!cluster.replica(leader).has_lease());
    cluster.heal();
    rounds(&mut cluster, &mut now_us, 40);
    for _ in 0..5 {
        let token = cluster.read(leader);
        rounds(&mut cluster, &mut now_us, 4);
        let leads = cluster.replica(leader).status().role == Role::Leader;
        assert!(!leads || is_answered(&cluster, leader, token), "a quorum is asked");
        assert!(!cluster.replica(leader).has_lease());
    }
}
