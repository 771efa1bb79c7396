//! Every message comes back; every cut and every flipped bit is refused.

use bytes::Bytes;

use super::*;
use crate::{Member, MemberRole};

fn bodies() -> Vec<Body> {
    let context = Bytes::from_static(b"12345678");
    let (committed, committed_term) = (Index(5), Term(2));
    let members = [1, 2, 3].map(|id| Member { id: ReplicaId(id), role: MemberRole::Voter });
    vec![
        Body::Append {
            previous: Index(7),
            previous_term: Term(3),
            committed,
            entries: vec![Bytes::from_static(&[1; 32]), Bytes::new(), Bytes::from_static(b"ab")],
        },
        Body::Appended { last: Index(u64::MAX), committed },
        Body::AppendRefused { previous: Index(9), hint: Index(4), hint_term: Term(1), committed },
        Body::Heartbeat { committed, context: context.clone(), lease_ticks: 15 },
        Body::HeartbeatAnswer { committed, context: Bytes::new() },
        Body::VoteRequest {
            kind: VoteKind::Pre,
            last: Index(3),
            last_term: Term(9),
            committed,
            committed_term,
            is_transfer: true,
        },
        Body::VoteAnswer {
            kind: VoteKind::Real,
            granted: true,
            committed,
            committed_term,
            in_doubt: true,
        },
        Body::Probe { nonce: u64::MAX, last: Index(3) },
        Body::ProbeAnswer {
            nonce: 5,
            last: Index(3),
            membership: Membership::new(&members),
            is_leader: true,
            is_unanimous: false,
            is_sure: true,
        },
        Body::RepairRequest {
            first: Index(4),
            end: Index(9),
            before_term: Term(1),
            end_term: Term(2),
            is_tail: true,
        },
        Body::Repair {
            first: Index(4),
            entries: vec![Bytes::from_static(b"an entry")],
            is_leader: true,
            is_trimmed: false,
        },
        Body::TimeoutNow,
        Body::ReadRequest { context: context.clone() },
        Body::ReadAnswer { index: Index(8), context },
        Body::Snapshot(SnapshotBody::Offer {
            id: 77,
            index: Index(100),
            term: Term(4),
            membership: Membership::new(&members),
            files: vec![FileOffer { name: "1.table".into(), len: 1 << 33, checksum: 0xdead_beef }],
        }),
        Body::Snapshot(SnapshotBody::Fetch { id: 77, file: 1, offset: 4096, len: 65536 }),
        Body::Snapshot(SnapshotBody::Chunk {
            id: 77,
            file: 1,
            offset: 4096,
            bytes: Bytes::from_static(b"a part of a table"),
        }),
        Body::Snapshot(SnapshotBody::Done { id: 77, installed: true }),
        Body::Snapshot(SnapshotBody::Gone { id: 77 }),
        Body::Snapshot(SnapshotBody::Wanted { index: Index(900) }),
    ]
}

fn envelope(body: Body) -> Envelope {
    let message = Message { term: Term(6), body };
    Envelope { from: ReplicaId(1), to: ReplicaId(2), group: 1, message }
}

#[test]
fn every_message_comes_back() {
    for body in bodies() {
        let envelope = envelope(body);
        let mut bytes = vec![0xaa];
        encode(&envelope, &mut bytes);
        assert_eq!(decode(&bytes[1..]).unwrap(), envelope);
        let header = bytes[1..].first_chunk().unwrap();
        assert_eq!(frame_len(header).unwrap(), bytes.len() - 1);
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    for body in bodies() {
        let mut bytes = Vec::new();
        encode(&envelope(body.clone()), &mut bytes);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{body:?} cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "{body:?} with bit {bit} flipped");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes.push(0);
        assert!(decode(&bytes).is_err(), "{body:?} with a byte too many");
    }
}

/// Bodies that lie about their lengths, under a checksum that is right.
#[test]
fn lengths_are_not_believed() {
    for body in bodies() {
        let mut bytes = Vec::new();
        encode(&envelope(body.clone()), &mut bytes);
        for at in ENVELOPE_HEADER_LEN..bytes.len() {
            let mut lying = bytes.clone();
            lying[at] = 0xff;
            let sum = checksum(&lying);
            lying[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
            // Whatever comes of it, it neither panics nor takes memory that was not sent.
            if let Ok(decoded) = decode(&lying) {
                let mut again = Vec::new();
                encode(&decoded, &mut again);
                assert_eq!(again, lying, "{body:?} with byte {at}");
            }
        }
    }
    let mut header = [0; ENVELOPE_HEADER_LEN];
    assert!(frame_len(&header).is_err());
    header[0..4].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(frame_len(&header).is_err());
}
