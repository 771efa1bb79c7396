//! Replicas whose state is damaged, and replaced by the leader's.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::rotting::{
    check_sound, cluster, cluster_of, files, fill, follower, hands_over, is_damaged, read_all,
    replaced, tables, write,
};
use strandline_replication::{Body, Event, Refusal, Replica, ReplicaId};
use strandline_wal::disk::Disk as _;
use strandline_wal::disk::simulated::{Fault, Survival};

/// Every file of the state in turn: a byte of it at its beginning, in its middle or at its end, or all
/// of it. Whatever it is, it is found when the replica is opened or read, and replaced.
#[test]
fn whatever_is_damaged_is_replaced() {
    let mut cluster = cluster(1);
    fill(&mut cluster);
    let mut count = 0;
    for kind in 0..4 {
        let places = files(&cluster, follower(&cluster)).len();
        for place in 0..places {
            let id = follower(&cluster);
            let files = files(&cluster, id);
            let Some((path, len)) = files.get(place) else { break };
            cluster.crash(id, place % 2 == 0);
            let disk = &cluster.nodes[&id].disk;
            match kind {
                0 => disk.flip_bit(path, 8 * 8),
                1 => disk.flip_bit(path, 8 * (len / 2)),
                2 => disk.flip_bit(path, 8 * (len - 9)),
                _ => disk.remove(path).unwrap(),
            }
            let context = format!("{} of {len} bytes, kind {kind}", path.display());
            cluster.open(id).unwrap();
            let hard = cluster.replica(id).hard_state();
            read_all(&cluster, id);
            cluster.step(id, Event::Tick);
            if is_damaged(&cluster, id) {
                count += 1;
                read_all(&cluster, id);
                let token = cluster.read(id);
                assert_eq!(cluster.refusal(id, token), Some(Refusal::Damaged), "{context}");
            }
            cluster.until(&context, |cluster| !is_damaged(cluster, id));
            assert!(cluster.replica(id).hard_state().term >= hard.term);
            assert_eq!(cluster.replica(id).hard_state().doubt, hard.doubt, "{context}");
            check_sound(&mut cluster, id, &context);
            write(&mut cluster, 3);
        }
    }
    // The marker at the end of a manifest says nothing that is missed.
    assert!(count > 40, "{count}");
}

/// It notices while it leads: another takes over, nothing that was acknowledged is lost.
#[test]
fn a_leader_hands_over() {
    let mut cluster = cluster(2);
    fill(&mut cluster);
    let id = follower(&cluster);
    let path = tables(&cluster, id)[0].0.clone();
    cluster.crash(id, true);
    cluster.nodes[&id].disk.flip_bit(&path, 8 * 60);
    cluster.open(id).unwrap();
    let leader = cluster.elect();
    cluster.step(leader, Event::Transfer { to: ReplicaId(id) });
    cluster.until("it leads", |cluster| cluster.leader() == Some(id));
    cluster.elect();
    write(&mut cluster, 10);
    read_all(&cluster, id);
    hands_over(&mut cluster, id);
    cluster.step(id, Event::Campaign);
    cluster.until("replaced", |cluster| replaced(cluster, id) == 1);
    check_sound(&mut cluster, id, "replaced");
}

/// Of two peers the one is damaged and has as much of the log: the other one leads next.
#[test]
fn who_is_damaged_is_no_successor() {
    for seed in 40..44 {
        let mut cluster = cluster(seed);
        fill(&mut cluster);
        let (leader, id) = (cluster.elect(), follower(&cluster));
        let third = (1..=3).find(|other| *other != id && *other != leader).unwrap();
        let (path, len) = tables(&cluster, id)[0].clone();
        cluster.crash(id, true);
        cluster.nodes[&id].disk.flip_bit(&path, 8 * (len - 9));
        cluster.open(id).unwrap();
        let is_known = |cluster: &common::Cluster| {
            let status = cluster.replica(leader).status();
            let peer = status.peers.iter().find(|peer| peer.id == ReplicaId(id));
            peer.is_some_and(|peer| peer.is_damaged && peer.is_active)
        };
        for _ in 0..200 {
            // No state comes.
            cluster.queue.retain(|sent| {
                !matches!(&sent.message.body, Body::Snapshot(_)) || sent.from == ReplicaId(id)
            });
            if is_known(&cluster) {
                break;
            }
            cluster.round();
        }
        assert!(is_known(&cluster));
        let status = cluster.replica(leader).status();
        assert_eq!(status.successor().map(|peer| peer.id), Some(ReplicaId(third)));
        cluster.until("replaced", |cluster| replaced(cluster, id) == 1);
    }
}

/// Nobody reads what is damaged: it is found all the same.
#[test]
fn damage_at_rest_is_found() {
    let mut cluster = cluster(9);
    fill(&mut cluster);
    let id = follower(&cluster);
    let path = tables(&cluster, id).last().unwrap().0.clone();
    cluster.node(id).options.scrub_bytes_per_tick = 4 << 10;
    cluster.crash(id, true);
    cluster.nodes[&id].disk.flip_bit(&path, 8 * 60);
    cluster.open(id).unwrap();
    assert!(!is_damaged(&cluster, id));
    cluster.until("replaced", |cluster| replaced(cluster, id) == 1);
    check_sound(&mut cluster, id, "replaced");
}

/// Its log is sound: as long as its state is on the way it is one of the two that make up a majority.
#[test]
fn who_is_damaged_acknowledges_and_votes() {
    let mut cluster = cluster(3);
    fill(&mut cluster);
    let id = follower(&cluster);
    let leader = cluster.leader().unwrap();
    let (path, len) = tables(&cluster, id)[0].clone();
    cluster.crash(id, true);
    cluster.nodes[&id].disk.flip_bit(&path, 8 * (len - 9));
    cluster.open(id).unwrap();
    assert!(is_damaged(&cluster, id));
    let third = (1..=3).find(|other| *other != id && *other != leader).unwrap();
    cluster.crash(third, false);
    cluster.reopen(leader, false);
    for _ in 0..400 {
        cluster.queue.retain(|sent| !matches!(sent.message.body, Body::Snapshot(_)));
        cluster.step(leader, Event::Tick);
        cluster.step(id, Event::Tick);
        for _ in 0..3 {
            cluster.queue.retain(|sent| !matches!(sent.message.body, Body::Snapshot(_)));
            cluster.deliver();
            cluster.turn_disks();
        }
    }
    assert_eq!(cluster.leader(), Some(leader), "the other voted, and did not stand");
    let before = cluster.acknowledged.len();
    for at in 0..20_u32 {
        cluster.propose(leader, &[&at.to_le_bytes()]);
        for _ in 0..5 {
            // No state comes.
            cluster.queue.retain(|sent| !matches!(sent.message.body, Body::Snapshot(_)));
            cluster.deliver();
            cluster.turn_disks();
        }
    }
    assert_eq!(cluster.acknowledged.len(), before + 20);
    assert!(is_damaged(&cluster, id), "it was not done before");
    cluster.open(third).unwrap();
    cluster.until("replaced", |cluster| replaced(cluster, id) == 1);
    cluster.converge();
}

/// Only what is damaged is sent, and kept beside the new state.
#[test]
fn sound_tables_are_not_sent() {
    let mut cluster = cluster(4);
    fill(&mut cluster);
    let id = follower(&cluster);
    let (path, len) = tables(&cluster, id)[1].clone();
    cluster.crash(id, true);
    cluster.nodes[&id].disk.flip_bit(&path, 8 * (len - 9));
    cluster.open(id).unwrap();
    let mut transfer = None;
    for _ in 0..400 {
        if replaced(&cluster, id) > 0 {
            break;
        }
        cluster.round();
        transfer = cluster.replica(id).status().receiving.or(transfer);
    }
    let transfer = transfer.unwrap();
    assert!(transfer.bytes_reused * 2 > transfer.bytes_total, "{transfer:?}");
    let aside = path.with_file_name(format!("{}.aside-1", path.file_name().unwrap().display()));
    assert!(cluster.nodes[&id].disk.exists(&aside).unwrap());
    assert!(!cluster.nodes[&id].disk.exists(&path).unwrap());
    cluster.converge();
    cluster.reopen(id, true);
    assert!(cluster.nodes[&id].disk.exists(&aside).unwrap(), "evidence stays");
    cluster.converge();
}

/// Nobody can give it another state: it says so and does not open.
#[test]
fn a_replica_alone_refuses() {
    let mut cluster = cluster_of(&[1], 5);
    write(&mut cluster, 200);
    assert!(cluster.replica(1).status().first.0 > 1);
    let (path, len) = tables(&cluster, 1)[0].clone();
    cluster.crash(1, true);
    cluster.nodes[&1].disk.flip_bit(&path, 8 * (len - 9));
    let error = cluster.open(1).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}

/// The power is cut at every operation of the replacement, and beyond.
#[test]
fn a_power_cut_leaves_the_damage_or_a_sound_state() {
    let mut replacements = 0;
    // Each operation for one of the three.
    for (lost, first) in [(None, 0), (Some("CURRENT"), 1), (Some("MANIFEST"), 2)] {
        for at in (first..180).step_by(3) {
            let mut cluster = cluster(6);
            fill(&mut cluster);
            let id = follower(&cluster);
            let is_lost = |path: &Path| {
                let name = path.file_name().unwrap().display().to_string();
                lost.is_some_and(|lost| name.starts_with(lost))
            };
            let damaged = match files(&cluster, id).into_iter().find(|(path, _)| is_lost(path)) {
                Some((path, _)) => path,
                None => tables(&cluster, id)[0].0.clone(),
            };
            cluster.crash(id, true);
            let disk = cluster.nodes[&id].disk.clone();
            match lost {
                Some(_) => disk.remove(&damaged).unwrap(),
                None => disk.flip_bit(&damaged, 8 * 60),
            }
            cluster.open(id).unwrap();
            read_all(&cluster, id);
            disk.set_survival(Survival::of(500));
            disk.fail_at(disk.operations() + 1 + at, Fault::PowerCut);
            for _ in 0..100 {
                cluster.round();
            }
            // Some are cut after it is done.
            let status = cluster.nodes[&id].replica.as_ref().map(Replica::status);
            replacements += status.map_or(0, |status| status.states_replaced);
            let node = cluster.node(id);
            node.replica = None;
            disk.clear_faults();
            if disk.restart().is_none() {
                disk.power_cut();
            }
            cluster.open(id).unwrap();
            read_all(&cluster, id);
            cluster.step(id, Event::Tick);
            cluster.until("sound", |cluster| !is_damaged(cluster, id));
            cluster.elect();
            cluster.converge();
            assert!(cluster.replica(id).db().verify().unwrap().is_clean(), "{lost:?} at {at}");
        }
    }
    assert!(replacements > 0, "some went through");
}

/// As long as the log has everything, nobody is needed: all of it is applied again.
#[test]
fn a_whole_log_is_enough() {
    for lost in [true, false] {
        let mut cluster = cluster(7);
        for id in 1..=3 {
            cluster.node(id).options.retention_bytes_max = 1 << 30;
            cluster.reopen(id, false);
        }
        write(&mut cluster, 60);
        cluster.converge();
        let id = follower(&cluster);
        assert_eq!(cluster.replica(id).status().first.0, 1);
        let (path, len) = tables(&cluster, id)[0].clone();
        let manifest = files(&cluster, id).pop().unwrap().0;
        cluster.crash(id, true);
        let disk = cluster.nodes[&id].disk.clone();
        match lost {
            true => disk.remove(&manifest).unwrap(),
            false => disk.flip_bit(&path, 8 * (len - 9)),
        }
        cluster.open(id).unwrap();
        assert!(cluster.replica(id).db().rebuilt().is_some() && !is_damaged(&cluster, id));
        cluster.elect();
        cluster.converge();
        write(&mut cluster, 60);
        cluster.reopen(id, true);
        assert!(cluster.replica(id).db().rebuilt().is_none() && !is_damaged(&cluster, id));
        cluster.elect();
        cluster.converge();
        assert!(cluster.replica(id).db().verify().unwrap().is_clean());
    }
}

/// It alone has the end of the log, and the others are away or know less: it leads until one of them has it.
#[test]
fn who_is_damaged_leads_as_the_last_resort() {
    let mut cluster = cluster(8);
    fill(&mut cluster);
    let leader = cluster.leader().unwrap();
    let (path, len) = tables(&cluster, leader)[0].clone();
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.crash(id, true);
    }
    cluster.propose(leader, &[b"only here"]);
    cluster.turn_disks();
    cluster.crash(leader, false);
    cluster.queue.clear();
    cluster.nodes[&leader].disk.flip_bit(&path, 8 * (len - 9));
    for id in 1..=3 {
        cluster.open(id).unwrap();
        if id != leader {
            cluster.isolate(id);
        }
    }
    // One of the two comes back: it cannot be elected, and the damaged one can.
    cluster.cut.clear();
    let other = (1..=3).find(|id| *id != leader).unwrap();
    let third = (1..=3).find(|id| *id != leader && *id != other).unwrap();
    cluster.crash(third, false);
    cluster.until("replaced", |cluster| replaced(cluster, leader) == 1);
    cluster.open(third).unwrap();
    cluster.elect();
    cluster.converge();
}
