//! Peers that say anything: no message stops a replica.
//!
//! Method: a group at work, and between its own messages others that are well formed and otherwise
//! drawn at random, near what is true. Every message is refused, ignored or taken; the replica never
//! panics, and never stops. What the group then believes is not judged: a peer that lies about votes is
//! outside the model.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{Cluster, command, voters};
use strandline_replication::{
    Body, Envelope, Event, FileOffer, Index, Membership, Message, Output, ReplicaId, SnapshotBody,
    Term, VoteKind,
};
use strandline_wal::disk::simulated::Random;

/// A number near `about`, or one that is far from anything.
fn near(random: &mut Random, about: u64) -> u64 {
    match random.below(12) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX / 2,
        3 => random.next_u64(),
        _ => (about + random.below(6)).saturating_sub(random.below(6)),
    }
}

fn entries(random: &mut Random, term: u64) -> Vec<Bytes> {
    let count = random.below(4);
    let entry = |_| {
        let mut payload = command(b"strange");
        let term = near(random, term);
        payload[24..32].copy_from_slice(&term.to_le_bytes());
        match random.below(8) {
            0 => payload.truncate(usize::try_from(random.below(40)).unwrap()),
            1 => payload[0] = u8::try_from(random.below(20)).unwrap(),
            _ => {}
        }
        Bytes::from(payload)
    };
    (0..count).map(entry).collect()
}

fn body(random: &mut Random, last: u64, term: u64) -> Body {
    let index = |random: &mut Random| Index(near(random, last));
    let of_term = |random: &mut Random| Term(near(random, term));
    let context = Bytes::from(vec![1; usize::try_from(random.below(80)).unwrap()]);
    let kind = if random.chance(500) { VoteKind::Pre } else { VoteKind::Real };
    match random.below(17) {
        0 | 1 => Body::Append {
            previous: index(random),
            previous_term: of_term(random),
            committed: index(random),
            entries: entries(random, term),
        },
        2 => Body::Appended { last: index(random), committed: index(random) },
        3 => Body::AppendRefused {
            previous: index(random),
            hint: index(random),
            hint_term: of_term(random),
            committed: index(random),
        },
        4 => Body::Heartbeat { committed: index(random), context, lease_ticks: 0 },
        5 => Body::HeartbeatAnswer { committed: index(random), context },
        6 => Body::VoteRequest {
            kind,
            last: index(random),
            last_term: of_term(random),
            committed: index(random),
            committed_term: of_term(random),
            is_transfer: random.chance(500),
        },
        7 => Body::VoteAnswer {
            kind,
            granted: random.chance(500),
            committed: index(random),
            committed_term: of_term(random),
            in_doubt: random.chance(300),
        },
        8 => Body::TimeoutNow,
        9 => Body::ReadRequest { context },
        10 => Body::ReadAnswer { index: index(random), context },
        11 => Body::Probe { nonce: random.below(3), last: index(random) },
        12 => Body::ProbeAnswer {
            nonce: random.below(3),
            last: index(random),
            membership: Membership::new(&voters(&[1, 2, 3, 4][..random.index(5)])),
            is_leader: random.chance(500),
            is_unanimous: random.chance(500),
            is_sure: random.chance(500),
        },
        _ => Body::Snapshot(snapshot_body(random, last)),
    }
}

fn snapshot_body(random: &mut Random, last: u64) -> SnapshotBody {
    let id = random.below(3);
    let file = u32::try_from(random.below(3)).unwrap();
    let offset = near(random, 0);
    match random.below(5) {
        0 => {
            let names = ["manifest", "0000000000000001.table", "../../escape", "CURRENT"];
            let count = random.below(3);
            let file = |at| FileOffer {
                name: names[if at == 0 { 0 } else { random.index(4) }].into(),
                len: near(random, 20),
                checksum: 0,
            };
            let files = (0..count).map(file).collect();
            let membership = Membership::new(&voters(&[1, 2, 3]));
            let index = Index(last + 1 + random.below(3));
            SnapshotBody::Offer { id, index, term: Term(1), membership, files }
        }
        1 => SnapshotBody::Fetch { id, file, offset, len: u32::MAX },
        2 => {
            let bytes = Bytes::from(vec![7; usize::try_from(near(random, 20) % 100).unwrap()]);
            SnapshotBody::Chunk { id, file, offset, bytes }
        }
        3 => SnapshotBody::Done { id, installed: random.chance(500) },
        _ => SnapshotBody::Gone { id },
    }
}

#[test]
fn no_message_stops_a_replica() {
    let seeds = std::env::var("STRANDLINE_SEEDS").ok().and_then(|text| text.parse().ok());
    let mut refused = 0;
    for seed in 0..seeds.unwrap_or(60) {
        let mut cluster = Cluster::new(3, seed);
        let leader = cluster.elect();
        cluster.rounds(10);
        for at in 0..10_u32 {
            cluster.propose(leader, &[&at.to_le_bytes()]);
            cluster.round();
        }
        // One of them, leader or not, hears strange things from the others, who fall silent.
        let victim = 1 + cluster.random.below(3);
        let mut random = Random::new(seed + 1);
        let mut replica = cluster.node(victim).replica.take().unwrap();
        for step in 0..400 {
            let status = replica.status();
            let from = 1 + random.below(4);
            let term = Term(near(&mut random, status.term.0));
            let message = Message { term, body: body(&mut random, status.last.0, status.term.0) };
            let context = format!("seed {seed}, step {step}: {message:?}");
            let to = ReplicaId(if random.chance(20) { 9 } else { victim });
            let envelope = Envelope { from: ReplicaId(from), to, group: 1, message };
            let event = if random.chance(200) { Event::Tick } else { Event::Received(envelope) };
            match replica.step(event, &mut Output::default()) {
                Ok(()) => {}
                Err(strandline_replication::Error::Message { .. }) => refused += 1,
                Err(error) => panic!("{context}: {error}"),
            }
            while cluster.nodes[&victim].disk.complete_one().is_some() {}
        }
    }
    println!("{refused} messages were refused");
    assert!(refused > 100);
}
