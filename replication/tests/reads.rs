//! How old a replica's state may be, as far as it is proven.
#![allow(clippy::unwrap_used)]

mod common;

use common::Cluster;
use strandline_replication::{Body, Envelope, Event, Outcome, ReplicaId, Role};

/// A round in which all clocks go on by so much.
fn round(cluster: &mut Cluster, now_us: &mut u64) {
    *now_us += 1000;
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    for id in ids {
        if let Some(replica) = &mut cluster.node(id).replica {
            replica.tell_time(*now_us);
        }
    }
    cluster.round();
}

/// Goal: a follower knows of what moment its state is, counted from its own question; one that is cut off
/// learns nothing new; one that nobody asks does not ask either.
#[test]
fn a_follower_knows_how_old_its_state_may_be() {
    let mut cluster = Cluster::new(3, 5);
    let leader = cluster.elect();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let mut now_us = 1_000_000;
    for _ in 0..20 {
        round(&mut cluster, &mut now_us);
    }
    assert_eq!(cluster.replica(follower).fresh_us(), None, "nobody has asked");
    for _ in 0..40 {
        cluster.step(follower, Event::KeepFresh { age_us_max: 8_000 });
        round(&mut cluster, &mut now_us);
    }
    let fresh_us = cluster.replica(follower).fresh_us().unwrap();
    assert!(fresh_us < now_us, "not before it has asked");
    assert!(now_us - fresh_us <= 8_000, "{} us old", now_us - fresh_us);

    cluster.isolate(follower);
    let cut_us = now_us;
    for token in 0..40_u64 {
        cluster.step(follower, Event::KeepFresh { age_us_max: 8_000 });
        cluster.propose(leader, &[&token.to_le_bytes()]);
        round(&mut cluster, &mut now_us);
    }
    let fresh_us = cluster.replica(follower).fresh_us().unwrap();
    assert!(fresh_us <= cut_us, "nobody can have answered since");

    cluster.heal();
    let acknowledged = cluster.acknowledged_index;
    for _ in 0..60 {
        cluster.step(follower, Event::KeepFresh { age_us_max: 8_000 });
        round(&mut cluster, &mut now_us);
    }
    let replica = cluster.replica(follower);
    assert!(replica.fresh_us().unwrap() > cut_us);
    assert!(replica.db().applied().0 >= acknowledged, "what is fresh has it");
}

/// What is under way and is like this; the rest is lost.
fn take(cluster: &mut Cluster, is_wanted: impl Fn(&Envelope) -> bool) -> Vec<Envelope> {
    cluster.queue.drain(..).filter(is_wanted).collect()
}

/// Lost: a read on a leader that had been deposed was answered, behind what its successor had acknowledged. A
/// follower's request came a second time, and the answers to the first one confirmed the second, and with
/// it everything that waited before it. Found by the simulator: a leader that was slow for seconds had
/// both waiting for it.
#[test]
fn a_request_that_comes_twice_confirms_nothing_by_earlier_answers() {
    let mut cluster = Cluster::new(3, 7);
    let leader = cluster.elect();
    cluster.propose(leader, &[b"a"]);
    cluster.rounds(20);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (asks, says) = (others[0], others[1]);
    cluster.queue.clear();
    cluster.read(asks);
    cluster.step(asks, Event::LogMoved);
    let request = take(&mut cluster, |e| matches!(e.message.body, Body::ReadRequest { .. }));
    let request = request.into_iter().next().unwrap();
    cluster.step(leader, Event::Received(request.clone()));
    cluster.step(leader, Event::LogMoved);
    let is_asked = |e: &Envelope| matches!(&e.message.body, Body::Heartbeat { context, .. } if !context.is_empty());
    for heartbeat in take(&mut cluster, is_asked) {
        cluster.step(heartbeat.to.0, Event::Received(heartbeat));
    }
    let answers = take(&mut cluster, |e| matches!(e.message.body, Body::HeartbeatAnswer { .. }));
    let from = |id: u64| answers.iter().find(|e| e.from == ReplicaId(id)).unwrap().clone();
    cluster.step(leader, Event::Received(from(asks)));
    // The leader stands still, and the others go on without it.
    cluster.isolate(leader);
    let leads = |cluster: &Cluster, id: u64| cluster.replica(id).status().role == Role::Leader;
    for _ in 0..200 {
        for id in &others {
            cluster.step(*id, Event::Tick);
            if leads(&cluster, *id) && cluster.acknowledged.len() < 4 {
                cluster.propose(*id, &[b"b"]);
            }
        }
        for _ in 0..3 {
            cluster.deliver();
            cluster.turn_disks();
        }
    }
    assert!(leads(&cluster, leader), "it has not heard of it");
    assert!(cluster.acknowledged_index > cluster.replica(leader).status().committed.0);
    let token = cluster.read(leader);
    cluster.step(leader, Event::LogMoved);
    cluster.step(leader, Event::Received(request));
    cluster.step(leader, Event::Received(from(says)));
    let is_answered = |outcome: &Outcome| matches!(outcome, Outcome::Readable { token: read, .. } if *read == token);
    assert!(!cluster.nodes[&leader].outcomes.iter().any(is_answered));
}
