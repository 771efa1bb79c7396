//! Replicas that lag: what is kept for them, and when the leader waits.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, options, voters};
use strandline_replication::{Options, PeerStatus, Refusal};

const BOUND: u64 = 12 << 10;

fn cluster(seed: u64, lag_bytes_max: Option<u64>) -> Cluster {
    let mut cluster = Cluster::empty(seed);
    for id in 1..=3 {
        let options = options(id, &voters(&[1, 2, 3]), seed);
        cluster.add(Options { lag_bytes_max, retention_bytes_max: 256 << 10, ..options });
    }
    cluster
}

fn peer(cluster: &Cluster, leader: u64, id: u64) -> PeerStatus {
    let status = cluster.replica(leader).status();
    status.peers.into_iter().find(|peer| peer.id.0 == id).unwrap()
}

/// Proposes in every round; returns how many were refused, and the most that the peer lagged.
fn flood(cluster: &mut Cluster, leader: u64, id: u64, rounds: u32) -> (u32, u64) {
    let (mut refused, mut lag) = (0, 0);
    for _ in 0..rounds {
        for _ in 0..2 {
            let token = cluster.propose(leader, &[&cluster.token.to_le_bytes(), &[3; 1000]]);
            match cluster.refusal(leader, token) {
                None => {}
                Some(Refusal::Overloaded) => refused += 1,
                Some(other) => panic!("{other:?}"),
            }
        }
        cluster.round();
        lag = lag.max(peer(cluster, leader, id).lag_bytes);
    }
    (refused, lag)
}

/// A follower whose disk and clock are slow.
fn slowed(seed: u64, lag_bytes_max: Option<u64>) -> (u32, u64) {
    let mut cluster = cluster(seed, lag_bytes_max);
    let leader = cluster.elect();
    let slow = (1..=3).find(|id| *id != leader).unwrap();
    cluster.rounds(5);
    (cluster.slow, cluster.disk_speed) = (slow, 900);
    let seen = flood(&mut cluster, leader, slow, 150);
    (cluster.slow, cluster.disk_speed) = (0, 1000);
    cluster.converge();
    seen
}

#[test]
fn a_leader_with_a_bound_waits_for_the_slow() {
    let (refused, lag) = slowed(1, None);
    assert_eq!(refused, 0);
    assert!(lag > 2 * BOUND, "without a bound it runs away: {lag}");
    let (refused, lag) = slowed(1, Some(BOUND));
    assert!(refused > 10, "{refused}");
    assert!(lag <= BOUND + (2 << 10), "{lag}");
}

#[test]
fn nobody_waits_for_the_dead_nor_for_who_comes_back() {
    let mut cluster = cluster(2, Some(BOUND));
    let leader = cluster.elect();
    let dead = (1..=3).find(|id| *id != leader).unwrap();
    cluster.rounds(5);
    cluster.crash(dead, true);
    // Within two election times of ten ticks it is known to be gone.
    flood(&mut cluster, leader, dead, 25);
    let (refused, lag) = flood(&mut cluster, leader, dead, 50);
    assert_eq!(refused, 0);
    assert!(lag > 2 * BOUND);
    cluster.open(dead).unwrap();
    let (refused, _) = flood(&mut cluster, leader, dead, 20);
    assert_eq!(refused, 0, "it is far behind, and is brought up to date meanwhile");
    cluster.converge();
}

/// A day's writes behind a follower that never comes back take no more room than an hour's.
#[test]
fn the_disk_cannot_fill_behind_a_dead_follower() {
    let mut cluster = cluster(3, None);
    let leader = cluster.elect();
    let dead = (1..=3).find(|id| *id != leader).unwrap();
    cluster.crash(dead, true);
    let mut used = Vec::new();
    for _ in 0..4 {
        flood(&mut cluster, leader, dead, 250);
        let replica = cluster.replica(leader);
        let segments = replica.db().log().stats().segments_in_use;
        // The cap, what is not in tables yet, and the segment being written.
        assert!(segments <= 4 + 3, "{segments} segments of 64 KiB");
        let status = replica.status();
        used.push((cluster.nodes[&leader].disk.used(), status.last.0 - status.first.0));
        assert!(peer(&cluster, leader, dead).lag_ticks > 200);
    }
    let (first, last) = (used[0].0, used[3].0);
    assert!(last < first + first / 2, "{used:?}");
    cluster.open(dead).unwrap();
    cluster.converge();
}

/// Logs that are compressed on the disk feed a follower that was away, from nothing but files; one of the others has
/// a log that is not.
#[test]
fn a_follower_is_fed_from_compressed_segments() {
    let mut cluster = Cluster::empty(4);
    for id in 1..=3 {
        let mut options = options(id, &voters(&[1, 2, 3]), 4);
        options.db.wal.compress = id != 3;
        options.message_len_max = 16 << 10;
        cluster.add(options);
    }
    for away in 1..=3 {
        let leader = cluster.elect();
        let others: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
        let had = cluster.replica(away).db().log().last();
        cluster.crash(away, true);
        let leader = if leader == away { cluster.elect() } else { leader };
        let before = cluster.replica(leader).status().last.0;
        for _ in 0..20 {
            // As much as makes more than one block, or nothing is compressed.
            let commands: Vec<[u8; 1000]> = (0..7).map(|number| [number; 1000]).collect();
            let commands: Vec<&[u8]> = commands.iter().map(|command| &command[..]).collect();
            let token = cluster.propose(leader, &commands);
            cluster.until("it is acknowledged", |cluster| cluster.acknowledged.contains(&token));
        }
        let is_compressed = |id: u64| {
            let stats = cluster.replica(id).db().log().stats();
            stats.device_bytes < stats.payload_bytes
        };
        for id in &others {
            assert_eq!(is_compressed(*id), *id != 3, "node {id}, {away} is away");
        }
        assert!(cluster.replica(leader).status().last.0 > before + 100);
        // What was in memory is gone.
        for id in &others {
            cluster.reopen(*id, true);
        }
        cluster.elect();
        cluster.open(away).unwrap();
        cluster.converge();
        // Not by a snapshot: then its log would begin behind what it had.
        assert!(cluster.replica(away).db().log().first() <= had.next(), "{away}");
    }
}
