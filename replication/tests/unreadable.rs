//! Replicas whose disks cannot read their state any more: it is replaced as one that is damaged.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::rotting::{
    check_sound, cluster, cluster_of, files, fill, follower, hands_over, is_damaged, read_all,
    replaced, tables, write,
};
use common::{Cluster, options, voters};
use strandline_replication::{Event, Options, Refusal, Replica, ReplicaId};
use strandline_wal::disk::Disk as _;
use strandline_wal::disk::simulated::{Fault, Survival};

/// Everybody has a whole state again, and the file that could not be read is gone, whatever it was called.
fn check_whole(cluster: &mut Cluster, id: u64, path: &Path, context: &str) {
    check_sound(cluster, id, context);
    let disk = &cluster.nodes[&id].disk;
    // `CURRENT` has a successor of the same name.
    let is_current = path.ends_with("CURRENT");
    assert!(is_current || !disk.exists(path).unwrap(), "{context}: it is still there");
    let kept =
        disk.files().into_iter().filter(|file| file.path.to_string_lossy().contains("aside"));
    assert_eq!(kept.count(), 0, "{context}: nobody can read it");
}

/// Every file of the state in turn, at its beginning, in its middle and at its end, before the replica is opened and
/// after; found by a reader or the scrub.
#[test]
fn whatever_cannot_be_read_is_replaced() {
    let mut cluster = cluster(21);
    for id in 1..=3 {
        cluster.node(id).options.scrub_bytes_per_tick = 16 << 10;
    }
    fill(&mut cluster);
    let mut count = 0;
    for kind in 0..6 {
        let places = files(&cluster, follower(&cluster)).len();
        for place in 0..places {
            let id = follower(&cluster);
            let files = files(&cluster, id);
            let Some((path, len)) = files.get(place) else { break };
            let is_open = kind >= 3;
            if is_open && path.extension().is_none() {
                // A manifest is read when it is opened only.
                continue;
            }
            let offset = [8, len / 2, len - 9][kind % 3];
            let context = format!("{} at {offset} of {len}, kind {kind}", path.display());
            if !is_open {
                cluster.crash(id, place % 2 == 0);
            }
            cluster.nodes[&id].disk.make_unreadable(path, offset);
            if !is_open {
                cluster.open(id).unwrap();
            }
            let before = replaced(&cluster, id);
            let hard = cluster.replica(id).hard_state();
            if place % 2 == 0 {
                read_all(&cluster, id);
                cluster.step(id, Event::Tick);
            }
            if is_damaged(&cluster, id) {
                read_all(&cluster, id);
                let token = cluster.read(id);
                assert_eq!(cluster.refusal(id, token), Some(Refusal::Damaged), "{context}");
            }
            cluster.until(&context, |cluster| replaced(cluster, id) > before);
            count += 1;
            assert_eq!(cluster.replica(id).hard_state().doubt, hard.doubt, "{context}");
            // Files that were replaced while they were open go when there is time.
            cluster.rounds(10);
            check_whole(&mut cluster, id, path, &context);
            write(&mut cluster, 3);
        }
    }
    assert!(count > 40, "{count}");
}

/// A leader notices it, in a table that it has open: another takes over, nothing that was acknowledged is lost.
#[test]
fn a_leader_hands_over() {
    for is_flipped in [false, true] {
        let mut cluster = cluster(22);
        fill(&mut cluster);
        let id = cluster.elect();
        let path = tables(&cluster, id)[0].0.clone();
        let disk = cluster.nodes[&id].disk.clone();
        match is_flipped {
            true => disk.flip_bit(&path, 8 * 60),
            false => disk.make_unreadable(&path, 60),
        }
        // What is in its memory it may go on reading; what is on its disk is found by the scrub.
        cluster.replica(id).db().scrub_tables(1 << 30);
        hands_over(&mut cluster, id);
        cluster.until("replaced", |cluster| replaced(cluster, id) == 1);
        check_sound(&mut cluster, id, "replaced");
    }
}

/// It is met by who wants to give the state to another: the third one gives it to both.
#[test]
fn who_cannot_read_what_it_sends_does_not_lead() {
    let mut cluster = cluster(23);
    fill(&mut cluster);
    let (leader, id) = (cluster.elect(), follower(&cluster));
    let manifest = files(&cluster, id).pop().unwrap().0;
    let (path, len) = tables(&cluster, leader)[0].clone();
    for offset in (0..len).step_by(512) {
        cluster.nodes[&leader].disk.make_unreadable(&path, offset);
    }
    cluster.crash(id, true);
    cluster.nodes[&id].disk.remove(&manifest).unwrap();
    cluster.open(id).unwrap();
    cluster.until("replaced", |cluster| replaced(cluster, id) == 1);
    cluster.until("replaced", |cluster| replaced(cluster, leader) == 1);
    cluster.rounds(10);
    check_whole(&mut cluster, leader, &path, "the leader");
}

/// A read that fails once is tried again, whoever reads.
#[test]
fn what_fails_once_is_not_replaced() {
    let mut cluster = cluster(24);
    fill(&mut cluster);
    for place in 0..files(&cluster, follower(&cluster)).len() {
        let id = follower(&cluster);
        let Some((path, len)) = files(&cluster, id).get(place).cloned() else { break };
        for offset in [0, len / 2, len - 1] {
            cluster.crash(id, false);
            cluster.nodes[&id].disk.fail_reads(&path, offset, 1);
            cluster.open(id).unwrap();
            read_all(&cluster, id);
            cluster.replica(id).db().scrub_tables(1 << 30);
            cluster.step(id, Event::Tick);
            assert!(!is_damaged(&cluster, id), "{} at {offset}", path.display());
            cluster.elect();
            // The next opening has this manifest, and not a new one in its place.
            if !cluster.nodes[&id].disk.exists(&path).unwrap() {
                break;
            }
        }
    }
    cluster.converge();
    assert!((1..=3).all(|id| replaced(&cluster, id) == 0));
}

/// Nobody can give it another state: it names the place and does not open, or refuses what it cannot read.
#[test]
fn a_replica_alone_refuses() {
    let mut cluster = cluster_of(&[1], 25);
    fill(&mut cluster);
    let (path, len) = tables(&cluster, 1)[0].clone();
    let disk = cluster.nodes[&1].disk.clone();
    cluster.crash(1, true);
    disk.make_unreadable(&path, 1030);
    cluster.open(1).unwrap();
    let error = cluster.replica(1).db().digest().unwrap_err().to_string();
    assert!(error.contains(&format!("{} at offset 1024 failed", path.display())), "{error}");
    cluster.round();
    assert!(!is_damaged(&cluster, 1) && cluster.nodes[&1].stopped.is_none());
    write(&mut cluster, 3);
    cluster.crash(1, true);
    disk.make_unreadable(&path, len - 9);
    let error = cluster.open(1).unwrap_err().to_string();
    let sector = (len - 9) / 512 * 512;
    assert!(error.contains(&format!("{} at offset {sector} failed", path.display())), "{error}");
    assert!(disk.exists(&path).unwrap());
}

/// The power is cut at every operation of the replacement, and beyond.
#[test]
fn a_power_cut_leaves_the_bad_sector_or_a_sound_state() {
    let mut replacements = 0;
    // Every other operation for one of the three: an open table, the end of one, the manifest.
    for kind in 0..3 {
        for at in (kind..180).step_by(6) {
            let mut cluster = cluster(26);
            fill(&mut cluster);
            let id = follower(&cluster);
            let (path, len) = match kind {
                2 => files(&cluster, id).pop().unwrap(),
                _ => tables(&cluster, id)[0].clone(),
            };
            cluster.crash(id, true);
            let disk = cluster.nodes[&id].disk.clone();
            disk.make_unreadable(&path, if kind == 1 { len - 9 } else { 60 });
            cluster.open(id).unwrap();
            read_all(&cluster, id);
            disk.set_survival(Survival::of(500));
            disk.fail_at(disk.operations() + 1 + at, Fault::PowerCut);
            cluster.rounds(100);
            // Some are cut after it is done.
            let status = cluster.nodes[&id].replica.as_ref().map(Replica::status);
            replacements += status.map_or(0, |status| status.states_replaced);
            cluster.node(id).replica = None;
            disk.clear_faults();
            if disk.restart().is_none() {
                disk.power_cut();
            }
            cluster.open(id).unwrap();
            read_all(&cluster, id);
            cluster.step(id, Event::Tick);
            cluster.until("sound", |cluster| !is_damaged(cluster, id));
            cluster.rounds(10);
            check_whole(&mut cluster, id, &path, &format!("kind {kind} at {at}"));
        }
    }
    assert!(replacements > 0, "some went through");
}

/// What cannot be read is a table that is kept only for a checkpoint that is being sent: the state does without it,
/// so nobody was going to lead instead, and the peer asked for it for ever. Found by the cluster simulator, profile
/// `damage`, seed 41003676.
#[test]
fn a_checkpoint_that_cannot_be_read_gives_way_to_a_newer_one() {
    let mut cluster = Cluster::empty(9);
    for id in 1..=3 {
        let mut options = options(id, &voters(&[1, 2, 3]), 9);
        options.db.engine.memtable_size = 4 << 10;
        options.db.engine.table_size = 1 << 10;
        // One part goes at each tick.
        let slow =
            Options { snapshot_bytes_per_tick: 1, retention_bytes_max: 128 << 10, ..options };
        cluster.add(slow);
    }
    let leader = cluster.elect();
    let away = follower(&cluster);
    cluster.isolate(away);
    let last = cluster.replica(away).status().last;
    while cluster.replica(leader).status().first.0 <= last.0 + 1 {
        write(&mut cluster, 1);
    }
    cluster.step(leader, Event::Unreachable(ReplicaId(away)));
    cluster.heal();
    cluster.until("it is under way", |cluster| cluster.replica(away).status().receiving.is_some());
    cluster.isolate(away);
    let pinned = tables(&cluster, leader);
    let old = |cluster: &Cluster| -> Option<PathBuf> {
        let current = tables(cluster, leader);
        pinned.iter().rev().find(|table| !current.contains(table)).map(|(path, _)| path.clone())
    };
    while old(&cluster).is_none() {
        write(&mut cluster, 1);
    }
    let path = old(&cluster).unwrap();
    cluster.nodes[&leader].disk.make_unreadable(&path, 60);
    cluster.heal();
    cluster.until("it has a newer one", |cluster| cluster.replica(away).status().applied > last);
    cluster.converge();
    assert!(!is_damaged(&cluster, leader));
}
