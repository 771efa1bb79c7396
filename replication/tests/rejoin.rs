//! Replicas that come back with less than they promised.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Cluster, DIR, options, set, voters};
use strandline_replication::{
    Doubt, Member, MemberRole, MembershipChange, Options, ReplicaId, Role,
};
use strandline_wal::disk::simulated::Random;

fn acknowledged(cluster: &mut Cluster, id: u64, command: &[u8]) {
    let token = cluster.propose(id, &[command]);
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
}

#[test]
fn founders_elect_their_first_leader_together() {
    let mut cluster = Cluster::new(3, 1);
    cluster.crash(3, true);
    cluster.rounds(100);
    assert!(cluster.leader().is_none(), "two of three new replicas cannot know that they are new");
    cluster.open(3).unwrap();
    cluster.elect();
    cluster.rounds(20);
    for id in 1..=3 {
        assert_eq!(cluster.replica(id).hard_state().doubt, Doubt::Nothing, "replica {id}");
    }
}

/// The entry is on the leader and on one follower. The follower's disk is replaced, the leader is away:
/// the third, which lacks the entry, must not be elected by the follower that has forgotten it.
#[test]
fn an_empty_disk_does_not_vote_under_its_old_identity() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(3, seed);
        let leader = cluster.elect();
        cluster.rounds(20);
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        cluster.isolate(others[1]);
        acknowledged(&mut cluster, leader, b"precious");
        cluster.heal();
        cluster.isolate(leader);
        cluster.replace_disk(others[0]);
        cluster.rounds(200);
        let leads = |id: u64| cluster.replica(id).status().role == Role::Leader;
        assert!(!leads(others[0]) && !leads(others[1]), "seed {seed}");
        cluster.heal();
        cluster.elect();
        cluster.converge();
        cluster.rounds(20);
        assert_eq!(cluster.replica(others[0]).hard_state().doubt, Doubt::Nothing);
        assert!(cluster.history.values().any(|(_, command)| command == b"precious"));
    }
}

/// All have elected the leader, which is paused; the others elect another one, and go on. One of the two loses its disk and
/// the other is away when the first wakes, and believes that it leads. It told the replaced one that all had elected it, as
/// if that one's vote could not be of an earlier disk: so the two acknowledged entries in place of others. Found by
/// the cluster simulator, profile `damage`, seed 44015298.
#[test]
fn who_was_elected_by_all_before_the_disk_was_replaced_proves_nothing() {
    for seed in 0..10 {
        let mut cluster = common::woken::leader_meets_replaced_disk(seed);
        cluster.converge();
        assert!(cluster.history.values().any(|(_, command)| command == common::woken::PRECIOUS));
    }
}

/// A leader is paused; the others put a learner in its place, and acknowledge an entry with that one's help. It loses its
/// disk, and meets the leader that wakes, for whom it is a learner: what it is told there says nothing of what it has
/// promised as a voter.
#[test]
fn a_leader_of_long_ago_does_not_know_who_votes() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(3, seed);
        let first = cluster.elect();
        cluster.rounds(20);
        cluster.add(options(4, &[], seed));
        cluster.change(vec![set(4, MemberRole::Learner)]);
        cluster.until("the learner is sure", |cluster| {
            cluster.replica(4).hard_state().doubt == Doubt::Nothing
        });
        cluster.converge();
        let second = cluster.pause_leader();
        let third = (1..=3).find(|id| ![first, second].contains(id)).unwrap();
        let remove = MembershipChange::Remove(ReplicaId(first));
        cluster.change(vec![set(4, MemberRole::Voter), remove]);
        let is_voter = |cluster: &Cluster, id| {
            let membership = cluster.replica(id).status().membership;
            membership.outgoing.is_empty() && membership.voters().contains(&ReplicaId(4))
        };
        cluster.until("it votes", |cluster| {
            [second, third, 4].iter().all(|id| is_voter(cluster, *id))
        });
        cluster.isolate(third);
        acknowledged(&mut cluster, second, b"precious");
        cluster.crash(second, true);
        cluster.queue.clear();
        cluster.replace_disk(4);
        // The first and the fourth hear each other.
        cluster.heal();
        cluster.isolate(third);
        cluster.propose(first, &[b"long ago"]);
        cluster.wake_slowly(first);
        // The third and the fourth.
        cluster.heal();
        cluster.isolate(first);
        cluster.rounds(200);
        cluster.open(second).unwrap();
        cluster.rounds(200);
        cluster.check_acknowledged();
        assert!(cluster.history.values().any(|(_, command)| command == b"precious"), "{seed}");
        for id in [second, third, 4] {
            cluster.note(id);
        }
    }
}

#[test]
fn a_replaced_disk_is_filled_by_the_leader() {
    let mut cluster = Cluster::new(3, 2);
    let leader = cluster.elect();
    for at in 0..20_u32 {
        acknowledged(&mut cluster, leader, &at.to_le_bytes());
    }
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.replace_disk(follower);
    acknowledged(&mut cluster, leader, b"meanwhile");
    cluster.until("it is sure again", |cluster| {
        cluster.replica(follower).hard_state().doubt == Doubt::Nothing
    });
    cluster.converge();
}

/// The newest slot of the hard state has gone bad: the vote in it is forgotten.
#[test]
fn a_damaged_hard_state_raises_doubt_until_the_group_has_answered() {
    let mut cluster = Cluster::new(3, 3);
    let leader = cluster.elect();
    cluster.rounds(20);
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.crash(follower, true);
    let path = std::path::Path::new(common::DIR).join("groups/1/hard-state");
    cluster.nodes[&follower].disk.flip_bit(&path, 8 * 33);
    cluster.open(follower).unwrap();
    assert_eq!(cluster.replica(follower).hard_state().doubt, Doubt::Everything);
    acknowledged(&mut cluster, leader, b"meanwhile");
    cluster.until("it is sure again", |cluster| {
        cluster.replica(follower).hard_state().doubt == Doubt::Nothing
    });
    cluster.converge();
}

/// A follower that loses acknowledged entries without noticing is told of them, and gets them again.
#[test]
fn a_log_that_lost_its_end_is_filled_again() {
    let mut cluster = Cluster::new(3, 4);
    let leader = cluster.elect();
    cluster.rounds(20);
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.crash(follower, true);
    let before = cluster.nodes[&follower].disk.fork(1);
    cluster.open(follower).unwrap();
    for at in 0..10_u32 {
        acknowledged(&mut cluster, leader, &at.to_le_bytes());
    }
    cluster.rounds(5);
    cluster.crash(follower, true);
    cluster.node(follower).disk = before;
    cluster.open(follower).unwrap();
    acknowledged(&mut cluster, leader, b"after");
    cluster.converge();
}

/// The leader was elected by two; then both others lose their disks. Nobody can vouch for what they have promised, so
/// they acknowledge nothing, and hear the leader all the same: it led in vain for ever. It has itself elected by
/// all. Found by the cluster simulator, profile `damage`, seed 31065959.
#[test]
fn who_leads_in_vain_is_elected_by_all() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(3, seed);
        let first = cluster.elect();
        acknowledged(&mut cluster, first, b"early");
        cluster.converge();
        cluster.crash(first, true);
        cluster.until("another leader", |cluster| cluster.leader().is_some());
        let leader = cluster.leader().unwrap();
        acknowledged(&mut cluster, leader, b"precious");
        for id in (1..=3).filter(|id| *id != leader) {
            cluster.replace_disk(id);
        }
        acknowledged(&mut cluster, leader, b"in vain");
        cluster.converge();
        cluster.rounds(20);
        for id in 1..=3 {
            assert_eq!(cluster.replica(id).hard_state().doubt, Doubt::Nothing, "replica {id}");
        }
        assert!(cluster.history.values().any(|(_, command)| command == b"precious"));
    }
}

/// Both others lose their disks, and filling them takes long. Elected by all, the leader does not give up again.
#[test]
fn who_was_elected_by_all_leads_on_while_it_fills_the_others() {
    let mut cluster = Cluster::empty(3);
    for id in 1..=3 {
        let mut options = options(id, &voters(&[1, 2, 3]), 3);
        // A table is a part, and one part goes at each tick.
        options.db.engine.table_size = 1 << 10;
        let slow = Options { retention_bytes_max: 1, snapshot_bytes_per_tick: 1, ..options };
        cluster.add(slow);
    }
    let first = cluster.elect();
    cluster.crash(first, true);
    cluster.until("another leader", |cluster| cluster.leader().is_some());
    let leader = cluster.leader().unwrap();
    while cluster.replica(leader).status().first.0 < 200 {
        // Nothing that could be compressed.
        let mut value = [0; 1000];
        Random::new(cluster.token).fill(&mut value);
        acknowledged(&mut cluster, leader, &value);
    }
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.replace_disk(id);
    }
    cluster.propose(leader, &[b"in vain"]);
    cluster.rounds(100);
    let before = cluster.replica(leader).status();
    assert!(before.role == Role::Leader && before.committed < before.last, "{before:?}");
    cluster.rounds(100);
    let status = cluster.replica(leader).status();
    assert!(status.role == Role::Leader && status.committed < status.last, "{status:?}");
    assert_eq!(status.term, before.term);
    cluster.converge();
}

/// Where the last group of a replica's log stands.
fn last_group(cluster: &Cluster, id: u64) -> (PathBuf, u64) {
    let disk = &cluster.nodes[&id].disk;
    let mut last = (0, PathBuf::new(), 0);
    let log = Path::new(DIR).join("groups/1/log");
    for file in disk.files().into_iter().filter(|file| file.path.starts_with(&log)) {
        let content = disk.visible_content(&file.path).unwrap();
        for offset in (4096..content.len()).step_by(4096) {
            let group = &content[offset..];
            let first = u64::from_le_bytes(group[24..32].try_into().unwrap());
            if group[..4] == *b"SLGR" && group[32] > 0 && first > last.0 {
                last = (first, file.path.clone(), u64::try_from(offset).unwrap());
            }
        }
    }
    (last.1, last.2)
}

fn is_settled(cluster: &Cluster) -> bool {
    let at = |id| cluster.replica(id).status();
    (1..=3).all(|id| at(id).applied == at(1).last && at(id).doubt == Doubt::Nothing)
}

/// Three that are down, of which only the witness, 3, has the end of the log.
fn end_on_the_witness(seed: u64) -> Cluster {
    let mut cluster = Cluster::empty(seed);
    let role = |id| if id == 3 { MemberRole::Witness } else { MemberRole::Voter };
    let members: Vec<Member> =
        (1..=3).map(|id| Member { id: ReplicaId(id), role: role(id) }).collect();
    for id in 1..=3 {
        let mut options = options(id, &members, seed);
        options.is_witness = id == 3;
        cluster.add(options);
    }
    let leader = cluster.elect();
    for at in 0..5 + seed {
        acknowledged(&mut cluster, leader, &[u8::try_from(at).unwrap(); 100]);
    }
    cluster.until("all have it", is_settled);
    (1..=3).for_each(|id| cluster.crash(id, true));
    for id in [1, 2] {
        // What it holds, and the marker behind it.
        let (path, offset) = last_group(&cluster, id);
        for offset in [offset + 100, offset + 4096] {
            cluster.nodes[&id].disk.corrupt(&path, offset, &[0xff; 100]);
        }
    }
    cluster
}

/// Both that hold data have lost the end of their logs, which they had acknowledged, and the witness has it. Nobody
/// was elected, ever: it stands for no election, and votes for none whose log ends before its own. Found by the cluster
/// simulator, profile `default`, seed 33019488, with a learner in place of the witness.
#[test]
fn the_end_that_only_a_witness_has_is_taken_from_it() {
    for seed in 0..5 {
        let mut cluster = end_on_the_witness(seed);
        (1..=3).for_each(|id| cluster.open(id).unwrap());
        for id in [1, 2] {
            assert_eq!(cluster.replica(id).hard_state().doubt, Doubt::Tail);
        }
        cluster.elect();
        cluster.until("all have it again", is_settled);
        cluster.check_acknowledged();
    }
}

/// The log is read anew with the end that was taken, and a part of it has been damaged since the replica was opened.
/// It went on as if its log were whole, stood for election, and ended with a panic when it led. It is wounded, as one that
/// finds this when it is opened, until that is mended. Found by the cluster simulator, profile `damage`, seed 78010781.
#[test]
fn who_finds_damage_when_it_takes_an_end_is_wounded() {
    let mut cluster = end_on_the_witness(0);
    [1, 3].into_iter().for_each(|id| cluster.open(id).unwrap());
    let (path, _) = last_group(&cluster, 1);
    cluster.nodes[&1].disk.corrupt(&path, 4096 + 100, &[0xff; 100]);
    cluster.until("mended", |cluster| cluster.replica(1).status().mended > 0);
    cluster.until("whole", |cluster| !cluster.replica(1).status().is_wounded);
    cluster.open(2).unwrap();
    cluster.elect();
    cluster.until("all have it again", is_settled);
    cluster.check_acknowledged();
}
