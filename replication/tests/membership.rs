//! Members that come, change and go; sessions that execute once.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, command, options, set, voters};
use strandline_replication::{
    Doubt, Event, Member, MemberRole, MembershipChange, Options, ReplicaId, Request, Role,
    open_session_entry,
};

fn acknowledged(cluster: &mut Cluster, token: u64) {
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
}

#[test]
fn a_learner_catches_up_and_becomes_a_voter() {
    let mut cluster = Cluster::new(3, 1);
    let leader = cluster.elect();
    for at in 0..30_u32 {
        cluster.propose(leader, &[&at.to_le_bytes(), &[5; 500]]);
        cluster.round();
    }
    // Who joins knows nobody.
    cluster.add(options(4, &[], 1));
    let token = cluster.change(vec![set(4, MemberRole::Learner)]);
    cluster.until("applied", |cluster| {
        cluster.replica(4).status().membership.get(ReplicaId(4)).is_some()
    });
    assert!(cluster.history.len() > 30, "token {token}");
    let token = cluster.change(vec![set(4, MemberRole::Voter)]);
    assert_eq!(cluster.refusal(leader, token), None);
    cluster.until("a voter", |cluster| {
        let membership = cluster.replica(4).status().membership;
        membership.voters().contains(&ReplicaId(4)) && membership.voters().len() == 4
    });
    cluster.converge();
    // Four voters: two are no quorum.
    let others: Vec<u64> = (1..=4).filter(|id| *id != leader).collect();
    cluster.isolate(others[0]);
    cluster.isolate(others[1]);
    let token = cluster.propose(leader, &[b"waits"]);
    cluster.rounds(3);
    assert!(!cluster.acknowledged.contains(&token));
    cluster.heal();
    cluster.converge();
}

#[test]
fn a_joint_change_replaces_two_members_at_once() {
    let mut cluster = Cluster::new(3, 2);
    let leader = cluster.elect();
    for id in [4, 5] {
        cluster.add(options(id, &[], 2));
    }
    let gone: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let changes = vec![
        set(4, MemberRole::Voter),
        set(5, MemberRole::Voter),
        MembershipChange::Remove(ReplicaId(gone[0])),
        MembershipChange::Remove(ReplicaId(gone[1])),
    ];
    let token = cluster.change(changes);
    acknowledged(&mut cluster, token);
    cluster.until("the joint membership is left", |cluster| {
        let membership = cluster.replica(leader).status().membership;
        !membership.is_joint() && membership.voters().len() == 3
    });
    for id in &gone {
        cluster.crash(*id, true);
    }
    let token = cluster.propose(leader, &[b"after"]);
    acknowledged(&mut cluster, token);
    cluster.converge();
}

#[test]
fn a_leader_that_is_removed_steps_down() {
    let mut cluster = Cluster::new(3, 3);
    let first = cluster.elect();
    cluster.change(vec![MembershipChange::Remove(ReplicaId(first))]);
    cluster.until("another leader", |cluster| cluster.leader().is_some_and(|id| id != first));
    let second = cluster.leader().unwrap();
    let token = cluster.propose(second, &[b"after"]);
    acknowledged(&mut cluster, token);
    assert_eq!(cluster.replica(second).status().membership.voters().len(), 2);
}

#[test]
fn a_request_is_executed_once_however_often_it_is_proposed() {
    let mut cluster = Cluster::new(3, 4);
    let leader = cluster.elect();
    let opened = cluster.propose_payload(leader, open_session_entry(), None);
    acknowledged(&mut cluster, opened);
    let session = cluster.taken[&opened][0].index;
    for number in [1, 1, 2, 1] {
        let request = Some(Request { session, number });
        let key = [b"key ", &number.to_le_bytes()[..]].concat();
        cluster.propose_payload(leader, command(&key), request);
        cluster.rounds(3);
    }
    let stranger = Some(Request { session: session + 1000, number: 1 });
    cluster.propose_payload(leader, command(b"stranger"), stranger);
    cluster.rounds(3);
    let key = |number: u64| [b"key ", &number.to_le_bytes()[..]].concat();
    for id in 1..=3 {
        assert_eq!(cluster.executions(id, &key(1))[1], 1, "executed first, and never again");
        assert_eq!(cluster.executions(id, &key(2))[1], 2);
        assert!(cluster.executions(id, b"stranger").is_empty());
    }
    // The table is state: it outlives a flush, a restart and another leader.
    for id in 1..=3 {
        cluster.replica(id).db().flush().unwrap();
        cluster.reopen(id, true);
    }
    let leader = cluster.elect();
    cluster.propose_payload(leader, command(&key(1)), Some(Request { session, number: 1 }));
    cluster.rounds(5);
    cluster.converge();
    assert_eq!(cluster.executions(leader, &key(1))[1], 1);
}

/// Two voters and a witness: one voter may go, and the witness stores nothing.
#[test]
fn a_witness_makes_a_quorum_and_keeps_no_state() {
    let members = [
        Member { id: ReplicaId(1), role: MemberRole::Voter },
        Member { id: ReplicaId(2), role: MemberRole::Voter },
        Member { id: ReplicaId(3), role: MemberRole::Witness },
    ];
    for seed in 0..2 {
        let mut cluster = Cluster::empty(seed);
        for id in 1..=3 {
            let mut options = options(id, &members, seed);
            options.is_witness = id == 3;
            options.retention_bytes_max = 128 << 10;
            cluster.add(options);
        }
        let leader = cluster.elect();
        assert_ne!(leader, 3);
        let other = 3 - leader;
        for at in 0..10_u32 {
            cluster.propose(leader, &[&at.to_le_bytes()]);
            cluster.round();
        }
        cluster.crash(other, true);
        for at in 0..800_u32 {
            cluster.propose(leader, &[&at.to_le_bytes(), &[3; 100]]);
            cluster.deliver();
            cluster.turn_disks();
            if at % 20 == 0 {
                cluster.round();
            }
        }
        cluster.rounds(20);
        let witness = cluster.replica(3).status();
        assert_eq!(witness.applied, cluster.replica(leader).status().applied);
        assert!(witness.first.0 > 1, "its log is trimmed: {witness:?}");
        assert!(cluster.executions(3, &[3; 100]).is_empty());
        // The witness falls so far behind that it needs to be told where the others are.
        cluster.open(other).unwrap();
        cluster.rounds(30);
        cluster.isolate(3);
        for at in 0..800_u32 {
            cluster.propose(leader, &[&at.to_le_bytes(), &[4; 100]]);
            cluster.deliver();
            cluster.turn_disks();
            if at % 20 == 0 {
                cluster.round();
            }
        }
        cluster.heal();
        cluster.until("the witness has caught up", |cluster| {
            cluster.replica(3).status().applied == cluster.replica(leader).status().applied
        });
        // With the witness, the other voter goes on alone.
        cluster.crash(leader, true);
        cluster.until("the other leads", |cluster| cluster.leader() == Some(other));
        let token = cluster.propose(other, &[b"after"]);
        acknowledged(&mut cluster, token);
    }
}

/// A replica that nobody has added yet, or that was removed, was asked to stand for election: the crate
/// made it the only candidate of a group without members, and panicked when it had won. Found by the
/// cluster simulator, profile `members`, seed 50031.
#[test]
fn who_is_no_voter_does_not_stand_for_election() {
    let mut cluster = Cluster::new(3, 21);
    cluster.elect();
    cluster.add(options(4, &[], 21));
    for _ in 0..5 {
        cluster.step(4, Event::Campaign);
        cluster.rounds(2);
    }
    assert!(cluster.leader().is_some_and(|id| id < 4), "the group has its leader still");
}

/// A replica opens with the membership of its flushed state. After several changes and a power cut of
/// all, the members that were removed went by the membership of the beginning, of which they are a
/// majority, and elected one of them, in a term in which the members of today had another leader. Found
/// by the cluster simulator, profile `members`, seed 50023.
#[test]
fn removed_members_that_restart_elect_nobody() {
    let mut cluster = Cluster::new(3, 22);
    let leader = cluster.elect();
    let gone: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for id in [4, 5] {
        cluster.add(options(id, &[], 22));
        let token = cluster.change(vec![set(id, MemberRole::Voter)]);
        acknowledged(&mut cluster, token);
        cluster.rounds(20);
    }
    for id in &gone {
        let token = cluster.change(vec![MembershipChange::Remove(ReplicaId(*id))]);
        acknowledged(&mut cluster, token);
        cluster.rounds(20);
    }
    for id in 1..=5 {
        cluster.reopen(id, true);
        assert_eq!(cluster.replica(id).status().applied.0, 0, "nothing was flushed");
    }
    for one in &gone {
        for other in [leader, 4, 5] {
            cluster.cut.insert((*one, other));
            cluster.cut.insert((other, *one));
        }
    }
    // Had they a leader, it would have to be of another term than the true one.
    for _ in 0..200 {
        cluster.round();
        for id in &gone {
            assert_ne!(cluster.replica(*id).status().role, Role::Leader, "replica {id}");
        }
    }
    let leader = cluster.leader().unwrap();
    let token = cluster.propose(leader, &[b"after"]);
    acknowledged(&mut cluster, token);
}

/// A new voter with an empty disk acknowledges nothing until it knows what it can have promised, and knows
/// nobody but its leader. If the first message held none of the entries that name the members, it asked
/// only the leader, and never got another message. Found by the cluster simulator, profile `members`, seed
/// 7031.
#[test]
fn a_new_voter_learns_from_its_leader_whom_to_ask() {
    let mut cluster = Cluster::empty(23);
    for id in 1..=3 {
        let members = voters(&[1, 2, 3]);
        cluster.add(Options { message_len_max: 1, ..options(id, &members, 23) });
    }
    let first = cluster.elect();
    // A leader whom not all have elected.
    cluster.isolate(first);
    cluster.until("another leader", |cluster| cluster.leader().is_some_and(|id| id != first));
    cluster.heal();
    cluster.elect();
    cluster.add(options(4, &[], 23));
    let token = cluster.change(vec![set(4, MemberRole::Voter)]);
    acknowledged(&mut cluster, token);
    cluster.until("it is sure of itself", |cluster| {
        cluster.replica(4).hard_state().doubt == Doubt::Nothing
    });
    cluster.converge();
}
