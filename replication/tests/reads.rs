//! How old a replica's state may be, as far as it is proven.
#![allow(clippy::unwrap_used)]

mod common;

use common::Cluster;
use strandline_replication::Event;

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
