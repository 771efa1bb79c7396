//! How a snapshot travels: what is sent, what is not, and for how long it is kept.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, options, voters};
use strandline_replication::{Body, Options, SnapshotBody};
use strandline_wal::disk::simulated::{Fault, Random};

/// Small logs: whoever is away for a while needs a snapshot.
fn cluster(seed: u64) -> Cluster {
    let mut cluster = Cluster::empty(seed);
    for id in 1..=3 {
        let mut options = options(id, &voters(&[1, 2, 3]), seed);
        options.db.engine.table_size = 32 << 10;
        cluster.add(Options {
            retention_bytes_max: 128 << 10,
            snapshot_bytes_per_tick: 8 << 10,
            ..options
        });
    }
    cluster
}

fn fill(cluster: &mut Cluster, leader: u64, count: u32) {
    for _ in 0..count {
        // Nothing that could be compressed, so that there are many tables.
        let mut random = Random::new(cluster.token);
        let words: Vec<u8> = (0..128).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        // In order, so that old tables stay as they are.
        let key = [format!("{:08}", cluster.token).as_bytes(), &words].concat();
        cluster.propose(leader, &[&key]);
        cluster.round();
    }
}

/// Cuts a follower off, until the log of the leader begins after what it has; returns both.
fn left_behind(cluster: &mut Cluster) -> (u64, u64) {
    let leader = cluster.elect();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.isolate(away);
    fill(cluster, leader, 250);
    leave_behind(cluster, leader, away);
    (leader, away)
}

fn leave_behind(cluster: &mut Cluster, leader: u64, away: u64) {
    cluster.isolate(away);
    let last = cluster.replica(away).status().last.0;
    for _ in 0..60 {
        fill(cluster, leader, 10);
        if cluster.replica(leader).status().first.0 > last + 1 {
            cluster.heal();
            return;
        }
    }
    panic!("the log is not trimmed: {:?}", cluster.replica(leader).status());
}

/// Bytes of parts that are under way to a replica.
fn bytes_under_way(cluster: &Cluster, to: u64) -> u64 {
    let to_it = cluster.queue.iter().filter(|envelope| envelope.to.0 == to);
    let len = |body: &Body| match body {
        Body::Snapshot(SnapshotBody::Chunk { bytes, .. }) => u64::try_from(bytes.len()).unwrap(),
        _ => 0,
    };
    to_it.map(|envelope| len(&envelope.message.body)).sum()
}

/// Rounds until it is so, or 1,000 have passed; returns how many bytes of parts were sent to `to`.
fn count_parts(cluster: &mut Cluster, to: u64, is_over: impl Fn(&Cluster) -> bool) -> u64 {
    let mut sent = 0;
    for _ in 0..1000 {
        if is_over(cluster) {
            return sent;
        }
        cluster.ticks += 1;
        let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
        for id in ids {
            cluster.step(id, strandline_replication::Event::Tick);
        }
        for _ in 0..3 {
            sent += bytes_under_way(cluster, to);
            cluster.deliver();
            cluster.turn_disks();
        }
    }
    panic!("never: {:?}", cluster.replica(to).status());
}

/// At operations of the receiver's disk from the first offer on until the snapshot is installed.
#[test]
fn the_receiver_may_die_at_every_operation() {
    let (first, last) = {
        let mut cluster = cluster(1);
        let (_, away) = left_behind(&mut cluster);
        let first = cluster.nodes[&away].disk.operations();
        let last = cluster.replica(away).status().last;
        cluster.until("installed", |cluster| cluster.replica(away).status().first > last);
        (first, cluster.nodes[&away].disk.operations())
    };
    assert!(last - first > 60, "{first} to {last}");
    for fault in [Fault::PowerCut, Fault::Kill] {
        for at in (first + 1..last).step_by(if fault == Fault::Kill { 7 } else { 2 }) {
            let mut cluster = cluster(1);
            let (_, away) = left_behind(&mut cluster);
            assert_eq!(cluster.nodes[&away].disk.operations(), first);
            cluster.node(away).disk.fail_at(at, fault);
            cluster.until("it dies", |cluster| cluster.nodes[&away].stopped.is_some());
            let node = cluster.node(away);
            node.replica = None;
            node.disk.restart();
            node.disk.clear_faults();
            cluster.open(away).unwrap();
            cluster.converge();
        }
    }
}

/// Killed twice on the way, and a third time it is brought on by the files that it has.
#[test]
fn who_is_killed_on_the_way_goes_on_where_it_was() {
    let mut cluster = cluster(2);
    let (leader, away) = left_behind(&mut cluster);
    let mut sent = 0;
    for (rounds, power_cut) in [(7, false), (4, true)] {
        sent += count_parts(&mut cluster, away, |cluster| {
            cluster.replica(away).status().receiving.is_some()
        });
        let end = cluster.ticks + rounds;
        sent += count_parts(&mut cluster, away, |cluster| cluster.ticks == end);
        let transfer = cluster.replica(away).status().receiving.unwrap();
        let theirs = cluster.replica(leader).status();
        let theirs = theirs.peers.iter().find(|peer| peer.id.0 == away).unwrap().sending.unwrap();
        assert_eq!(theirs.bytes_total, transfer.bytes_total);
        assert!(theirs.bytes + transfer.bytes_reused >= transfer.bytes, "{theirs:?} {transfer:?}");
        assert!(transfer.files < transfer.files_total && transfer.files > 2, "{transfer:?}");
        cluster.reopen(away, power_cut);
    }
    let mut total = 0;
    cluster
        .until("it is offered again", |cluster| cluster.replica(away).status().receiving.is_some());
    let transfer = cluster.replica(away).status().receiving.unwrap();
    assert!(transfer.bytes_reused * 2 > transfer.bytes_total, "{transfer:?}");
    total += transfer.bytes_total;
    sent += count_parts(&mut cluster, away, |cluster| {
        cluster.replica(away).status().receiving.is_none()
    });
    // Each death costs what was in the window, which here are whole files.
    assert!(sent < total + total / 2, "{sent} bytes were sent of {total}");
    cluster.converge();
}

/// The same tables lie on both sides since the first snapshot: the second one brings only new ones.
#[test]
fn what_the_state_has_is_not_sent_again() {
    let mut cluster = cluster(3);
    let (leader, away) = left_behind(&mut cluster);
    cluster.converge();
    cluster.reopen(away, true);
    cluster.elect();
    let leader_now = cluster.leader().unwrap();
    assert_eq!(leader_now, leader, "the test means one sender");
    leave_behind(&mut cluster, leader, away);
    let mut reused = 0;
    for _ in 0..1000 {
        cluster.round();
        match cluster.replica(away).status().receiving {
            Some(transfer) => reused = transfer.bytes_reused,
            None if reused > 0 => break,
            None => {}
        }
    }
    assert!(reused > 0, "the first snapshot is still there");
    cluster.converge();
    assert!(cluster.nodes[&away].disk.files().iter().all(|file| {
        !file.path.to_string_lossy().contains("incoming") || file.path.ends_with("PROGRESS")
    }));
}

/// Files and log are kept for a receiver that has died, but not for ever.
#[test]
fn what_is_kept_for_a_receiver_that_is_gone_is_let_go() {
    let mut cluster = cluster(4);
    let (leader, away) = left_behind(&mut cluster);
    cluster.until("it receives", |cluster| cluster.replica(away).status().receiving.is_some());
    cluster.crash(away, true);
    let sending = |cluster: &Cluster| {
        let status = cluster.replica(leader).status();
        status.peers.iter().find(|peer| peer.id.0 == away).unwrap().sending
    };
    assert!(sending(&cluster).is_some());
    let mut longest = 0;
    for _ in 0..60 {
        fill(&mut cluster, leader, 10);
        longest = longest.max(cluster.replica(leader).db().log().stats().segments_in_use);
    }
    assert!(longest <= 4 * 2 + 2, "{longest} segments of 64 KiB, at most 4 times 128 KiB");
    cluster.rounds(1200);
    assert!(sending(&cluster).is_none());
    cluster.open(away).unwrap();
    cluster.converge();
}
