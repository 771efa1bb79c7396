//! Clusters through random faults.
//!
//! Each seed draws how often messages are lost, doubled and reordered, how fast disks are, and which
//! faults happen: crashes with and without a power cut, partitions, hand-overs. Whatever happens: one
//! leader per term, one entry per index, nothing acknowledged is lost, no read is stale, no request is
//! executed twice; and when the faults end, everybody ends with the same state.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use strandline_replication::{Event, ReplicaId, Request, open_session_entry};

use crate::common::{Cluster, command, options, voters};

/// Runs one seed. Returns how much was acknowledged and read.
pub fn run(seed: u64) -> (usize, u64) {
    let count = [1, 2, 3, 3, 3, 5][usize::try_from(seed % 6).unwrap()];
    let mut cluster = Cluster::empty(seed);
    let ids: Vec<u64> = (1..=count).collect();
    // Half the clusters keep so little of their logs that whoever is away needs a snapshot.
    let is_small = cluster.random.chance(500);
    for id in ids.iter().copied() {
        let mut options = options(id, &voters(&ids), seed);
        if is_small {
            options.retention_bytes_max = 64 << 10;
            options.db.engine.memtable_size = 8 << 10;
            options.snapshot_bytes_per_tick = 16 << 10;
        }
        cluster.add(options);
    }
    let filler = vec![1; if is_small { 2000 } else { 300 }];
    let fault = |cluster: &mut Cluster, most: u32| match cluster.random.chance(500) {
        true => 0,
        false => u32::try_from(cluster.random.below(u64::from(most))).unwrap(),
    };
    cluster.loss = fault(&mut cluster, 300);
    cluster.duplication = fault(&mut cluster, 200);
    cluster.reordering = fault(&mut cluster, 1000);
    cluster.disk_speed = 1000 - fault(&mut cluster, 900);
    let crashes = fault(&mut cluster, 40);
    let partitions = fault(&mut cluster, 40);
    let transfers = fault(&mut cluster, 40);
    cluster.slow = match cluster.random.chance(300) {
        true => 1 + cluster.random.below(count),
        false => 0,
    };
    let mut down: Vec<u64> = Vec::new();
    for _ in 0..300 {
        let node = 1 + cluster.random.below(count);
        if cluster.random.chance(crashes) {
            match down.iter().position(|id| *id == node) {
                Some(at) => {
                    down.remove(at);
                    cluster.open(node).unwrap();
                }
                None => {
                    let power_cut = cluster.random.chance(500);
                    cluster.crash(node, power_cut);
                    down.push(node);
                }
            }
        }
        if cluster.random.chance(partitions) {
            match cluster.cut.is_empty() {
                true if cluster.random.chance(500) => cluster.isolate(node),
                true => {
                    let other = 1 + cluster.random.below(count);
                    cluster.cut.insert((node, other));
                }
                false => cluster.heal(),
            }
        }
        if cluster.random.chance(transfers) {
            let to = ReplicaId(1 + cluster.random.below(count));
            cluster.step(node, Event::Transfer { to });
        }
        if !down.contains(&node) {
            let value = cluster.token.to_le_bytes();
            match cluster.random.below(6) {
                4 => {
                    cluster.propose_payload(node, open_session_entry(), None);
                }
                5 => request(&mut cluster, node),
                0 => {
                    cluster.read(node);
                }
                1 => {
                    cluster.propose(node, &[&value, b"more", &filler]);
                }
                _ => {
                    cluster.propose(node, &[&value]);
                }
            }
        }
        match cluster.random.below(3) {
            0 => cluster.round(),
            1 => cluster.deliver(),
            _ => cluster.turn_disks(),
        }
    }
    cluster.heal();
    (cluster.loss, cluster.duplication, cluster.disk_speed, cluster.slow) = (0, 0, 1000, 0);
    for id in down {
        cluster.open(id).unwrap();
    }
    for node in cluster.nodes.values() {
        assert!(node.stopped.is_none(), "{:?}", node.stopped);
        assert!(node.refused_messages.is_empty(), "{:?}", node.refused_messages);
    }
    cluster.elect();
    cluster.converge();
    (cluster.acknowledged.len(), cluster.reads_done)
}

/// A request in one of the sessions that were opened; half of them were made before.
fn request(cluster: &mut Cluster, node: u64) {
    let opened: Vec<u64> = cluster
        .acknowledged
        .iter()
        .map(|token| cluster.taken[token][0].clone())
        .filter(|taken| taken.command == [1])
        .map(|taken| taken.index)
        .collect();
    if opened.is_empty() {
        return;
    }
    let session = opened[cluster.random.index(opened.len())];
    let number = 1 + cluster.random.below(10);
    let once = [b"once ", &session.to_le_bytes()[..], &number.to_le_bytes()].concat();
    cluster.propose_payload(node, command(&once), Some(Request { session, number }));
}
