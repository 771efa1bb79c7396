//! Every deliberate bug of replication must be found, within its budget of seeds.
//!
//! Without the feature `canary` there is nothing to find, and nothing is tested here.
#![cfg(feature = "canary")]
#![allow(clippy::unwrap_used)]

mod common;
mod workload;

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::Path;

use common::{Cluster, DIR, options, set, voters};
use strandline_replication::{
    Body, Envelope, Event, MemberRole, MembershipChange, Options, ReplicaId, Role, VoteKind,
};
use strandline_wal::canary;
use strandline_wal::disk::simulated::Survival;

type Checker = fn(u64);

fn random(seed: u64) {
    workload::run(seed);
}

/// The disk of a follower is replaced while the leader is away.
fn empty_disk(seed: u64) {
    let mut cluster = Cluster::new(3, seed);
    let leader = cluster.elect();
    cluster.rounds(20);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.isolate(others[1]);
    let token = cluster.propose(leader, &[b"precious"]);
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
    cluster.heal();
    cluster.isolate(leader);
    cluster.replace_disk(others[0]);
    cluster.rounds(100);
    for id in others {
        cluster.propose(id, &[b"other"]);
    }
    cluster.rounds(20);
    cluster.heal();
    cluster.elect();
    cluster.converge();
}

/// Leaders are cut off with entries that nobody else has, again and again.
fn divergence(seed: u64) {
    let mut cluster = Cluster::new(3, seed);
    cluster.elect();
    cluster.rounds(20);
    for _ in 0..8 {
        cluster.until("a leader", |cluster| cluster.leader().is_some());
        let leader = cluster.leader().unwrap();
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        // One of the others may still hear it.
        let deaf = others[cluster.random.index(2)];
        match cluster.random.chance(500) {
            true => cluster.isolate(leader),
            false => cluster.cut.extend([(leader, deaf), (deaf, leader)]),
        }
        for _ in 0..cluster.random.below(4) {
            let value = cluster.token.to_le_bytes();
            cluster.propose(leader, &[&value]);
        }
        for _ in 0..cluster.random.below(40) {
            cluster.round();
        }
        if cluster.random.chance(300) {
            let power_cut = cluster.random.chance(500);
            cluster.reopen(leader, power_cut);
        }
        for id in others {
            for _ in 0..cluster.random.below(4) {
                let value = cluster.token.to_le_bytes();
                cluster.propose(id, &[&value]);
            }
        }
        let rounds = cluster.random.below(4);
        cluster.rounds(usize::try_from(rounds).unwrap());
        cluster.heal();
        let rounds = cluster.random.below(20);
        cluster.rounds(usize::try_from(rounds).unwrap());
    }
    cluster.elect();
    cluster.converge();
}

/// Figure 8 of the Raft paper: a leader brings an entry of an older term to a majority, and falls before
/// an entry of its own term is there; who is elected then has neither. One entry per message, and
/// messages that arrive one by one.
fn figure_8(seed: u64) {
    let mut cluster = Cluster::empty(seed);
    for id in 1..=3 {
        let options = options(id, &voters(&[1, 2, 3]), seed);
        cluster.add(Options { message_len_max: 1, ..options });
    }
    cluster.elect();
    cluster.rounds(20);
    for _ in 0..12 {
        cluster.until("a leader", |cluster| cluster.leader().is_some());
        let first = cluster.leader().unwrap();
        let others: Vec<u64> = (1..=3).filter(|id| *id != first).collect();
        cluster.isolate(first);
        let value = cluster.token.to_le_bytes();
        cluster.propose(first, &[&value]);
        cluster.turn_disks();
        // Another leads, with a first entry that is nowhere else, and falls.
        let mut second = None;
        for _ in 0..400 {
            let leads = |id: &u64| cluster.replica(*id).status().role == Role::Leader;
            second = others.iter().copied().find(leads);
            if second.is_some() {
                break;
            }
            let id = others[cluster.random.index(2)];
            cluster.step(id, Event::Tick);
            for _ in 0..4 {
                cluster.deliver_one();
                cluster.turn_disks();
            }
        }
        let Some(second) = second else { continue };
        let third = *others.iter().find(|id| **id != second).unwrap();
        cluster.isolate(second);
        cluster.turn_disks();
        cluster.queue.clear();
        // The first is back, and is elected by the third.
        for pair in [(first, third), (third, first)] {
            cluster.cut.remove(&pair);
        }
        let steps = cluster.random.below(300);
        for _ in 0..steps {
            let id = if cluster.random.chance(800) { first } else { third };
            cluster.step(id, Event::Tick);
            for _ in 0..2 {
                cluster.deliver_one();
                cluster.turn_disks();
            }
        }
        cluster.heal();
        cluster.isolate(first);
        cluster.queue.clear();
        cluster.rounds(60);
        cluster.heal();
        cluster.rounds(40);
    }
    cluster.elect();
    cluster.converge();
}

/// Two stand for election in the same term and do not hear each other; the third is asked by both, and
/// loses power after each vote that it has given.
fn double_vote(seed: u64) {
    let mut cluster = Cluster::new(3, seed);
    cluster.elect();
    cluster.rounds(20);
    for _ in 0..6 {
        for id in 1..=3 {
            cluster.reopen(id, true);
        }
        let voter = 1 + cluster.random.below(3);
        let others: Vec<u64> = (1..=3).filter(|id| *id != voter).collect();
        cluster.cut.extend([(others[0], others[1]), (others[1], others[0])]);
        for id in &others {
            cluster.step(*id, Event::Campaign);
        }
        let mut given = BTreeSet::new();
        for _ in 0..40 {
            cluster.deliver_oldest();
            let mut is_new = false;
            for Envelope { from, to, message, .. } in &cluster.queue {
                let is_vote = matches!(
                    message.body,
                    Body::VoteAnswer { kind: VoteKind::Real, granted: true, .. }
                );
                is_new |= is_vote && from.0 == voter && given.insert((*to, message.term));
            }
            if is_new {
                cluster.reopen(voter, true);
            }
        }
        cluster.heal();
        cluster.rounds(40);
    }
    cluster.elect();
    cluster.converge();
}

/// A leader falls before the others know what it has committed; the next one is asked at once.
fn early_reader(seed: u64) {
    let mut cluster = Cluster::new(3, seed);
    let leader = cluster.elect();
    cluster.rounds(20);
    let token = cluster.propose(leader, &[b"acknowledged"]);
    while !cluster.acknowledged.contains(&token) {
        cluster.deliver_one();
        cluster.turn_disks();
    }
    cluster.queue.clear();
    cluster.isolate(leader);
    for _ in 0..60 {
        for id in (1..=3).filter(|id| *id != leader) {
            cluster.step(id, Event::Tick);
        }
        for _ in 0..4 {
            cluster.deliver_one();
            for id in (1..=3).filter(|id| *id != leader) {
                cluster.read(id);
            }
        }
        cluster.turn_disks();
    }
    cluster.heal();
    cluster.elect();
    cluster.converge();
}

/// A leader's own disk stands still while one follower holds what it proposes; then it loses power.
fn unsynced_leader(seed: u64) {
    unsynced(seed, true);
}

/// The only follower that hears the leader has a disk that stands still; then it loses power.
fn unsynced_follower(seed: u64) {
    unsynced(seed, false);
}

/// Of two that hear each other, the leader and a follower, one has a disk that stands still and then loses power; the
/// third one has to go on with it.
fn unsynced(seed: u64, is_leaders: bool) {
    let mut cluster = Cluster::new(3, seed);
    let leader = cluster.elect();
    cluster.rounds(20);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (stalled, sound) = match is_leaders {
        true => (leader, others[0]),
        false => (others[0], leader),
    };
    cluster.isolate(others[1]);
    let disk = cluster.nodes[&stalled].disk.clone();
    disk.set_survival(Survival::NOTHING);
    cluster.slow = stalled;
    cluster.propose(leader, &[b"precious"]);
    let patience = 1 + cluster.random.below(6);
    for _ in 0..patience {
        cluster.step(leader, Event::Tick);
        cluster.deliver();
        cluster.turn_disks();
    }
    cluster.reopen(stalled, true);
    cluster.slow = 0;
    cluster.heal();
    cluster.isolate(sound);
    cluster.rounds(60);
    for id in 1..=3 {
        cluster.propose(id, &[b"other"]);
    }
    cluster.rounds(20);
    cluster.heal();
    cluster.elect();
    cluster.converge();
}

/// A leader is cut off and its clock stands still: it does not know that it is deposed, and is asked.
fn deposed_reader(seed: u64) {
    let mut cluster = Cluster::new(3, seed);
    let leader = cluster.elect();
    cluster.rounds(20);
    cluster.isolate(leader);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for _ in 0..60 {
        for id in others.iter().copied() {
            cluster.step(id, Event::Tick);
        }
        cluster.deliver();
        cluster.turn_disks();
        for id in others.iter().copied() {
            cluster.propose(id, &[b"newer"]);
        }
        cluster.read(leader);
    }
    assert!(!cluster.acknowledged.is_empty());
    cluster.heal();
    cluster.elect();
    cluster.converge();
}

/// Two of three members are replaced at once by two that have caught up, while those who go are cut off from those who
/// come.
fn joint(seed: u64) {
    let mut cluster = Cluster::new(3, seed);
    let leader = cluster.elect();
    cluster.rounds(20);
    cluster.add(options(4, &[], seed));
    cluster.add(options(5, &[], seed));
    let gone: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for id in [4, 5] {
        cluster.change(vec![set(id, MemberRole::Learner)]);
        cluster.rounds(30);
    }
    let mut changes = vec![set(4, MemberRole::Voter), set(5, MemberRole::Voter)];
    changes.extend(gone.iter().map(|id| MembershipChange::Remove(ReplicaId(*id))));
    cluster.change(changes);
    for _ in 0..cluster.random.below(8) {
        cluster.deliver();
        cluster.turn_disks();
    }
    for from in gone.iter().copied() {
        for to in [leader, 4, 5] {
            cluster.cut.extend([(from, to), (to, from)]);
        }
    }
    for at in 0..100_u32 {
        for id in 1..=5 {
            cluster.propose(id, &[&at.to_le_bytes(), &id.to_le_bytes()]);
        }
        cluster.round();
    }
    cluster.heal();
    cluster.rounds(50);
    for id in 1..=5 {
        cluster.note(id);
    }
    cluster.check_acknowledged();
}

/// Somebody gets a snapshot, the power goes, and all goes on.
fn snapshot(seed: u64) {
    let mut cluster = Cluster::empty(seed);
    for id in 1..=3 {
        let options = options(id, &voters(&[1, 2, 3]), seed);
        cluster.add(Options { retention_bytes_max: 128 << 10, ..options });
    }
    let leader = cluster.elect();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.isolate(away);
    for at in 0..150_u32 {
        cluster.propose(leader, &[&at.to_le_bytes(), &[5; 1000]]);
        cluster.round();
    }
    cluster.heal();
    cluster.nodes[&away].disk.set_survival(Survival::NOTHING);
    let rounds = cluster.random.below(60);
    cluster.rounds(usize::try_from(rounds).unwrap());
    cluster.reopen(away, true);
    cluster.elect();
    cluster.converge();
}

/// A leader that was cut off begins its second segment when the power goes, and the end of the first is damaged: what
/// is missing there, and what stands before it, was never committed.
fn damaged_apart(seed: u64) {
    let mut cluster = Cluster::new(3, seed);
    let first = cluster.elect();
    cluster.rounds(20);
    for _ in 0..cluster.random.below(4) {
        cluster.propose(first, &[b"before"]);
        cluster.round();
    }
    cluster.isolate(first);
    for _ in 0..8 + cluster.random.below(10) {
        cluster.propose(first, &[&[7; 1000]]);
        cluster.turn_disks();
        cluster.replica(first).db().work().unwrap();
    }
    cluster.propose(first, &[&[8; 1000]]);
    for _ in 0..cluster.random.below(4) {
        cluster.nodes[&first].disk.complete_one();
        cluster.step(first, Event::LogMoved);
    }
    cluster.crash(first, true);
    let path = Path::new(DIR).join("groups/1/log/0000000000000001.segment");
    let start = 4096 * (4 + cluster.random.below(10));
    for offset in (start..60 << 10).step_by(4096) {
        cluster.nodes[&first].disk.corrupt(&path, offset, &[0xa5; 300]);
    }
    cluster.heal();
    cluster.queue.clear();
    cluster.until("another leader", |cluster| cluster.leader().is_some());
    for _ in 0..20 {
        let leader = cluster.leader().unwrap();
        cluster.propose(leader, &[b"committed"]);
        cluster.rounds(2);
    }
    // Who leads from then on knows nothing of what the first has.
    let leader = cluster.leader().unwrap();
    let other = (1..=3).find(|id| ![first, leader].contains(id)).unwrap();
    cluster.step(leader, Event::Transfer { to: ReplicaId(other) });
    cluster.until("the other leads", |cluster| cluster.leader() == Some(other));
    cluster.open(first).unwrap();
    cluster.until("it takes part", |cluster| !cluster.replica(first).status().is_wounded);
    cluster.elect();
    cluster.converge();
}

/// A leader that all had elected meets an empty disk under an old identity, when others have elected another one.
fn woken_leader(seed: u64) {
    common::woken::leader_meets_replaced_disk(seed).converge();
}

/// Number, budget of seeds, and the checker that must find it.
const CANARIES: [(u8, u64, Checker); 23] = [
    (canary::LEADER_COUNTS_UNSYNCED, 1_000, unsynced_leader),
    (canary::FOLLOWER_ACKNOWLEDGES_UNSYNCED, 500, unsynced_follower),
    (canary::VOTE_NOT_PERSISTED, 2_000, double_vote),
    (canary::VOTE_ANSWERED_BEFORE_SYNC, 10_000, double_vote),
    (canary::TERM_NOT_PERSISTED, 100, random),
    (canary::CONFLICT_NOT_TRUNCATED, 10_000, divergence),
    (canary::PREVIOUS_TERM_NOT_CHECKED, 50, divergence),
    (canary::OLD_TERM_COMMITTED_BY_COUNTING, 2_000, figure_8),
    (canary::APPLIED_BEFORE_COMMITTED, 50, random),
    (canary::SNAPSHOT_NOT_SYNCED, 500, snapshot),
    (canary::SNAPSHOT_NEWER_THAN_DATA, 500, snapshot),
    (canary::LOG_TRIMMED_TOO_FAR, 500, random),
    (canary::STALE_READ_ON_DEPOSED_LEADER, 50, deposed_reader),
    (canary::READ_BEFORE_FIRST_COMMIT, 50, early_reader),
    (canary::READ_BEFORE_APPLY, 2_000, random),
    (canary::JOINT_QUORUM_AS_ONE_MAJORITY, 1_000, joint),
    (canary::EMPTY_DISK_VOTES, 500, empty_disk),
    (canary::RETRY_APPLIED_TWICE, 50, random),
    (canary::SESSIONS_NOT_IN_SNAPSHOT, 500, random),
    (canary::ELECTION_BY_HALF, 50, random),
    (canary::MENDED_BEHIND_ANOTHER_TERM, 100, damaged_apart),
    (canary::LEADER_BELIEVED_ALONE, 10, woken_leader),
    // Nothing is on: no checker may cry for nothing.
    (0, 0, random),
];

#[test]
fn each_is_caught_within_its_budget() {
    // What is caught is a panic of the checker or of an invariant; its words go to the output below.
    std::panic::set_hook(Box::new(|_| {}));
    let only: Option<u8> =
        std::env::var("STRANDLINE_CANARY").ok().and_then(|text| text.parse().ok());
    let mut missed = Vec::new();
    for (number, budget, checker) in CANARIES {
        if number == 0 || only.is_some_and(|only| only != number) {
            continue;
        }
        canary::switch_on(number);
        let found = (1..=budget).find_map(|seed| {
            let panic = catch_unwind(|| checker(seed)).err()?;
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Some((seed, text.unwrap_or_default()))
        });
        canary::switch_on(0);
        match found {
            Some((seed, reason)) => {
                let reason: String = reason.chars().take(160).collect();
                println!("canary {number}: caught at seed {seed}: {}", reason.replace('\n', " "));
            }
            None => missed.push((number, budget)),
        }
    }
    let checkers: [Checker; 13] = [
        random,
        empty_disk,
        joint,
        snapshot,
        divergence,
        figure_8,
        double_vote,
        early_reader,
        unsynced_leader,
        unsynced_follower,
        deposed_reader,
        damaged_apart,
        woken_leader,
    ];
    for checker in checkers {
        (1..=5).for_each(checker);
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "missed, with their budgets: {missed:?}");
}
