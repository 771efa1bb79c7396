//! Replicas whose logs are damaged, and mended by others.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Applied, Cluster, DIR, Once, Recorder, options, voters};
use strandline_replication::{
    Body, Doubt, Envelope, Event, Index, Message, Options, Replica, ReplicaId, Term,
};

/// Everything stays in the log, and tables are rare.
fn cluster(seed: u64, scrub_bytes_per_tick: u32) -> Cluster {
    let mut cluster = Cluster::empty(seed);
    for id in 1..=3 {
        let mut options = options(id, &voters(&[1, 2, 3]), seed);
        options.db.engine.memtable_size = 8 << 20;
        cluster.add(Options { scrub_bytes_per_tick, ..options });
    }
    cluster
}

/// Writes until the log has some segments; everything is acknowledged and applied everywhere.
fn fill(cluster: &mut Cluster) {
    let leader = cluster.elect();
    for at in 0..150_u32 {
        cluster.propose(leader, &[&at.to_le_bytes(), &[5; 1000]]);
        cluster.round();
    }
    cluster.converge();
}

/// Damages the middle of a segment of a replica's log: all groups there, whatever their lengths.
fn damage(cluster: &Cluster, id: u64, segment: u64) {
    let path = Path::new(DIR).join(format!("groups/1/log/{segment:016}.segment"));
    for offset in (20 << 10..44 << 10).step_by(4096) {
        cluster.nodes[&id].disk.corrupt(&path, offset, &[0xa5; 300]);
    }
}

fn mended(cluster: &Cluster, id: u64) -> u64 {
    cluster.replica(id).status().mended
}

#[test]
fn damage_at_rest_is_found_and_mended() {
    let mut cluster = cluster(1, 8 << 10);
    fill(&mut cluster);
    damage(&cluster, 2, 4);
    cluster.until("mended", |cluster| mended(cluster, 2) > 0);
    assert_eq!(cluster.replica(2).status().damaged, 0);
    assert!(cluster.replica(2).db().log().damages().is_empty());
    cluster.converge();
    // The log is read again from the beginning.
    cluster.reopen(2, true);
    assert!(!cluster.replica(2).status().is_wounded);
    cluster.elect();
    cluster.converge();
}

#[test]
fn a_replica_that_opens_with_damage_is_mended_before_it_takes_part() {
    let mut cluster = cluster(2, 0);
    fill(&mut cluster);
    cluster.crash(2, true);
    damage(&cluster, 2, 3);
    // Segments side by side are mended together.
    damage(&cluster, 2, 5);
    damage(&cluster, 2, 6);
    cluster.open(2).unwrap();
    let status = cluster.replica(2).status();
    assert!(status.is_wounded && status.damaged > 0, "{status:?}");
    cluster.step(2, Event::Campaign);
    cluster.until("whole", |cluster| !cluster.replica(2).status().is_wounded);
    assert!(mended(&cluster, 2) > 0);
    cluster.elect();
    cluster.converge();
}

/// More of the segment went bad after the damage in it had been found. The records for what was known were refused,
/// because they did not cover the rest; nobody looked for that, and the replica stayed wounded. Found by the cluster
/// simulator, profile `damage`, seed 42069287.
#[test]
fn damage_that_grows_before_it_is_mended_is_looked_for() {
    // Right in front of what was found, at the start of the segment, and behind.
    for beside in [12 << 10..20 << 10, 4 << 10..8 << 10, 48 << 10..56 << 10] {
        let mut cluster = cluster(2, 0);
        fill(&mut cluster);
        cluster.crash(2, true);
        damage(&cluster, 2, 5);
        cluster.isolate(2);
        cluster.open(2).unwrap();
        assert!(cluster.replica(2).status().is_wounded);
        // What an opening looks for it has found.
        for _ in 0..20 {
            cluster.round();
        }
        let path = Path::new(DIR).join("groups/1/log/0000000000000005.segment");
        for offset in beside.clone().step_by(4096) {
            cluster.nodes[&2].disk.corrupt(&path, offset, &[0xa5; 300]);
        }
        cluster.heal();
        cluster.until("whole", |cluster| !cluster.replica(2).status().is_wounded);
        cluster.elect();
        cluster.converge();
        cluster.reopen(2, true);
        assert!(!cluster.replica(2).status().is_wounded, "damaged at {beside:?}, too");
    }
}

/// Each replica has what another lacks; together they have everything, and lose none of it.
#[test]
fn all_are_damaged_each_elsewhere() {
    let mut cluster = cluster(3, 0);
    fill(&mut cluster);
    for id in 1..=3 {
        cluster.crash(id, true);
        damage(&cluster, id, id + 3);
    }
    for id in 1..=3 {
        cluster.open(id).unwrap();
        assert!(cluster.replica(id).status().is_wounded, "{id}");
    }
    cluster.until("all are whole", |cluster| {
        (1..=3).all(|id| !cluster.replica(id).status().is_wounded)
    });
    cluster.elect();
    cluster.converge();
}

/// Nobody has it: they stay apart, and do not pretend.
#[test]
fn the_same_damage_on_a_quorum_stops_the_group() {
    let mut cluster = cluster(4, 0);
    fill(&mut cluster);
    for id in 1..=3 {
        cluster.crash(id, true);
        for segment in 3..=5 {
            damage(&cluster, id, segment);
        }
    }
    for id in 1..=3 {
        cluster.open(id).unwrap();
    }
    cluster.rounds(300);
    for id in 1..=3 {
        let status = cluster.replica(id).status();
        assert!(status.is_wounded && status.damaged > 0, "{status:?}");
    }
    assert!(cluster.leader().is_none());
}

/// A peer that is behind is fed from a damaged segment: the leader mends it and goes on.
#[test]
fn a_read_that_fails_has_the_log_searched() {
    let mut cluster = cluster(5, 0);
    let leader = cluster.elect();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.isolate(away);
    fill_apart(&mut cluster, leader, away);
    cluster.crash(leader, true);
    damage(&cluster, leader, 4);
    cluster.heal();
    cluster.open(leader).unwrap();
    cluster.until("whole", |cluster| !cluster.replica(leader).status().is_wounded);
    cluster.elect();
    cluster.converge();
}

fn fill_apart(cluster: &mut Cluster, leader: u64, away: u64) {
    for at in 0..150_u32 {
        cluster.propose(leader, &[&at.to_le_bytes(), &[5; 1000]]);
        cluster.round();
    }
    cluster.until("the other two have it", |cluster| {
        let last = cluster.replica(leader).status().last;
        (1..=3).filter(|id| *id != away).all(|id| cluster.replica(id).status().applied == last)
    });
}

/// What is missing has been trimmed everywhere else: the leader sends its state instead.
#[test]
fn who_cannot_be_mended_is_sent_a_snapshot() {
    let mut cluster = cluster(6, 0);
    let leader = cluster.elect();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    for id in (1..=3).filter(|id| *id != away) {
        cluster.node(id).options.retention_bytes_max = 128 << 10;
        cluster.node(id).options.db.engine.memtable_size = 16 << 10;
        cluster.reopen(id, false);
    }
    cluster.elect();
    fill(&mut cluster);
    cluster.crash(away, true);
    damage(&cluster, away, 4);
    let leader = cluster.elect();
    for at in 0..200_u32 {
        cluster.propose(leader, &[&at.to_le_bytes(), &[6; 1000]]);
        cluster.round();
    }
    let first = cluster.replica(leader).status().first;
    cluster.open(away).unwrap();
    let status = cluster.replica(away).status();
    assert!(status.is_wounded && status.last < first, "{status:?}, {first}");
    cluster.until("it goes on", |cluster| !cluster.replica(away).status().is_wounded);
    assert_eq!(cluster.replica(away).status().mended, 0);
    cluster.converge();
    assert_eq!(cluster.replica(away).status().doubt, Doubt::Nothing);
}

/// What is damaged was never committed: a leader that was cut off had written it, and nobody else has it.
/// The replica asked for it for ever, and took part in nothing. Found by the cluster simulator, profile
/// `default`, seed 769396000935.
#[test]
fn damage_in_what_was_never_committed_is_dropped() {
    let mut cluster = cluster(7, 0);
    let first = cluster.elect();
    cluster.rounds(20);
    cluster.isolate(first);
    for at in 0..200_u32 {
        cluster.propose(first, &[&at.to_le_bytes(), &[7; 1000]]);
        cluster.turn_disks();
        cluster.replica(first).db().work().unwrap();
    }
    cluster.crash(first, true);
    cluster.queue.clear();
    damage(&cluster, first, 1);
    cluster.heal();
    cluster.until("another leader", |cluster| cluster.leader().is_some());
    cluster.open(first).unwrap();
    let status = cluster.replica(first).status();
    assert!(status.is_wounded && status.last.0 > 20, "{status:?}");
    cluster.until("it goes on", |cluster| !cluster.replica(first).status().is_wounded);
    cluster.converge();
    assert_eq!(cluster.replica(first).status().doubt, Doubt::Nothing);
}

/// What is committed is given only to who has the same entry behind the damage or, where nothing stands there,
/// before it. It was put behind an entry that was never committed, and before one, which so looked as if the
/// leader had it, and was applied. Found by the cluster simulator, profile `damage`, seeds 31118427 and 31127943.
#[test]
fn what_is_committed_is_not_put_beside_what_is_not() {
    let mut cluster = cluster(9, 0);
    let leader = cluster.elect();
    for at in 0..10_u32 {
        cluster.propose(leader, &[&at.to_le_bytes()]);
        cluster.round();
    }
    cluster.converge();
    let asker = (1..=3).find(|id| *id != leader).unwrap();
    let term = cluster.replica(leader).status().term;
    let mut given = |before_term, end_term| {
        cluster.queue.clear();
        let (from, to, group) = (ReplicaId(asker), ReplicaId(leader), 1);
        let (first, end) = (Index(5), Index(7));
        let body = Body::RepairRequest { first, end, before_term, end_term, is_tail: false };
        let message = Message { term, body };
        cluster.step(leader, Event::Received(Envelope { from, to, group, message }));
        cluster.queue.drain(..).find_map(|envelope| match envelope.message.body {
            Body::Repair { entries, .. } => Some(entries.len()),
            _ => None,
        })
    };
    let (unknown, other) = (Term(0), Term(term.0 + 1));
    assert_eq!(given(term, unknown), Some(2), "what follows the same entry");
    assert_eq!(given(other, unknown), Some(0), "what follows another one");
    assert_eq!(given(unknown, unknown), Some(0));
    assert_eq!(given(unknown, term), Some(2), "what the same entry follows");
    assert_eq!(given(term, other), Some(0), "what another one follows");
}

/// All that the log held was damaged, and the segment after it was empty yet: no term of it was known, and
/// the consensus panicked. Found by the cluster simulator, profile `damage`, seed 5501703.
#[test]
fn a_log_without_any_sound_entry_opens() {
    let mut cluster = Cluster::new(1, 8);
    cluster.elect();
    let path = Path::new(DIR).join(format!("groups/1/log/{:016}.segment", 1));
    let mut wounded = 0;
    for at in 0..90_u32 {
        cluster.propose(1, &[&at.to_le_bytes(), &[7; 1000]]);
        cluster.replica(1).db().work().unwrap();
        while cluster.nodes[&1].disk.complete_one().is_some() {
            let disk = cluster.nodes[&1].disk.fork(1);
            disk.kill();
            disk.set_stepped(false);
            for offset in (4096..60 << 10).step_by(4096) {
                disk.corrupt(&path, offset, &[0xa5; 300]);
            }
            let machine = Recorder { applied: Applied::default(), once: Once::default(), count: 0 };
            let options = cluster.nodes[&1].options.clone();
            let opened = Replica::open(disk.mount(), Path::new(DIR), options, Box::new(machine));
            wounded += u32::from(opened.is_ok_and(|replica| replica.status().is_wounded));
            cluster.step(1, Event::LogMoved);
        }
    }
    assert!(wounded > 0);
}
