//! Writes that a follower hands to the leader, as bytes, and their answers.
//!
//! ```text
//! forward:  | id (8) | protocol (1) | reserved (3) | count (4) | len (4) payload | ...
//! answer:   | id (8) | outcome (1)  | reserved (7) | index (8) | term (8) | replies
//! ```
//!
//! Little-endian. The outcome is 0 if the entries were executed, and the replies are the client's; it
//! is 1 if nothing was proposed, and the replies are a reason, which the follower answers as retryable.
//! Index and term are those of the last entry, for who asks later how far it has come; else 0.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use strandline_engine::Index;
use strandline_replication::ReplicaId;

use super::question::Mark;
use crate::machine::UNKNOWN_REPLY;
use crate::resp::Protocol;
use crate::submission::{Mailbox, Run};

/// After so long a forward is forgotten; its session has given up long before.
const FORWARD_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a node that has handed over may take to answer what it had accepted: its successor commits
/// that first of all. One that is cut off never answers, and its clients wait for this.
const LAST_ANSWERS_MAX: Duration = Duration::from_millis(150);

/// The most entries of one forward: as many as a run may have.
const COUNT_MAX: usize = 1 << 16;
const FORWARD_HEADER_LEN: usize = 16;
const ANSWER_HEADER_LEN: usize = 32;

/// A run on its way to the leader.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forward {
    /// Chosen by the follower.
    pub(super) id: u64,
    /// In which protocol its client wants the answers.
    pub(super) protocol: Protocol,
    /// The entries' payloads.
    pub(super) payloads: Vec<Vec<u8>>,
}

/// What became of a forward.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    /// Of the forward.
    pub(super) id: u64,
    /// Where its last entry stands.
    pub(super) mark: Mark,
    /// The replies, or why nothing was proposed.
    pub(super) outcome: Result<&'a [u8], &'a [u8]>,
}

/// The runs that other nodes are to answer.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    /// By the id of the forward.
    runs: BTreeMap<u64, (Run, ReplicaId, Instant)>,
    /// Who leads, and since when that is known.
    leader: Option<ReplicaId>,
    led_since: Option<Instant>,
}

impl Forwards {
    /// A run was sent to `leader`.
    pub(super) fn insert(&mut self, id: u64, run: Run, leader: ReplicaId) {
        self.runs.insert(id, (run, leader, Instant::now()));
    }

    /// The run of this forward, if it still waits.
    pub(super) fn take(&mut self, id: u64) -> Option<Run> {
        self.runs.remove(&id).map(|(run, ..)| run)
    }

    /// Calls the outcome of those unknown that nobody is going to answer: what went to a node that is
    /// not connected any more, what went to one that leads no more and had its time to say what became
    /// of it, and what is very old.
    pub(super) fn forget(
        &mut self,
        now: Instant,
        leader: Option<ReplicaId>,
        is_connected: impl Fn(ReplicaId) -> bool,
    ) {
        if leader.is_some() && leader != self.leader {
            (self.leader, self.led_since) = (leader, Some(now));
        }
        let had_time = self.led_since.is_some_and(|at| now.duration_since(at) > LAST_ANSWERS_MAX);
        let is_lost = |(_, to, at): &(Run, ReplicaId, Instant)| {
            !is_connected(*to)
                || had_time && self.leader != Some(*to)
                || now.duration_since(*at) > FORWARD_TIME_MAX
        };
        let lost: Vec<u64> =
            self.runs.iter().filter(|(_, sent)| is_lost(sent)).map(|(id, _)| *id).collect();
        for id in lost {
            if let Some(mut run) = self.take(id) {
                let count = usize::try_from(run.count).unwrap_or(0);
                run.replies = UNKNOWN_REPLY.repeat(count);
                Mailbox::deliver(run);
            }
        }
    }
}

impl Forward {
    pub(super) fn encode(&self) -> Vec<u8> {
        let len: usize = self.payloads.iter().map(|payload| payload.len() + 4).sum();
        let mut bytes = Vec::with_capacity(FORWARD_HEADER_LEN + len);
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&[u8::from(self.protocol == Protocol::Resp3), 0, 0, 0]);
        bytes.extend_from_slice(&bounded(self.payloads.len()).to_le_bytes());
        for payload in &self.payloads {
            bytes.extend_from_slice(&bounded(payload.len()).to_le_bytes());
            bytes.extend_from_slice(payload);
        }
        bytes
    }

    /// None if the bytes are no forward.
    pub(super) fn decode(bytes: &[u8]) -> Option<Forward> {
        let (header, mut rest) = bytes.split_first_chunk::<FORWARD_HEADER_LEN>()?;
        let protocol = match header[8..12] {
            [0, 0, 0, 0] => Protocol::Resp2,
            [1, 0, 0, 0] => Protocol::Resp3,
            _ => return None,
        };
        let count = usize::try_from(u32_at(header, 12)).ok()?;
        if count == 0 || count > COUNT_MAX {
            return None;
        }
        let mut payloads = Vec::new();
        for _ in 0..count {
            let (len, after) = rest.split_first_chunk::<4>()?;
            let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
            let (payload, after) = after.split_at_checked(len)?;
            payloads.push(payload.to_vec());
            rest = after;
        }
        rest.is_empty().then(|| Forward { id: u64_at(header, 0), protocol, payloads })
    }
}

impl<'a> Answer<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, text) = match self.outcome {
            Ok(replies) => (0, replies),
            Err(reason) => (1, reason),
        };
        let mut bytes = Vec::with_capacity(ANSWER_HEADER_LEN + text.len());
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&self.mark.index.0.to_le_bytes());
        bytes.extend_from_slice(&self.mark.term.to_le_bytes());
        bytes.extend_from_slice(text);
        bytes
    }

    /// None if the bytes are no answer.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Answer<'a>> {
        let (header, text) = bytes.split_first_chunk::<ANSWER_HEADER_LEN>()?;
        let outcome = match header[8..16] {
            [0, 0, 0, 0, 0, 0, 0, 0] => Ok(text),
            [1, 0, 0, 0, 0, 0, 0, 0] => Err(text),
            _ => return None,
        };
        let mark = Mark { index: Index(u64_at(header, 16)), term: u64_at(header, 24) };
        Some(Answer { id: u64_at(header, 0), mark, outcome })
    }
}

fn bounded(len: usize) -> u32 {
    u32::try_from(len).expect("a run is bounded")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_and_answers_come_back_and_pieces_are_refused() {
        let forward = Forward {
            id: 1 << 40,
            protocol: Protocol::Resp3,
            payloads: vec![b"one".to_vec(), Vec::new(), b"three".to_vec()],
        };
        let bytes = forward.encode();
        assert_eq!(Forward::decode(&bytes), Some(forward));
        for len in 0..bytes.len() {
            assert_eq!(Forward::decode(&bytes[..len]), None);
        }
        for outcome in [Ok(&b"+OK\r\n"[..]), Err(&b"no"[..])] {
            let mark = Mark { index: Index(9), term: 1 << 33 };
            let bytes = Answer { id: 7, mark, outcome }.encode();
            assert_eq!(Answer::decode(&bytes), Some(Answer { id: 7, mark, outcome }));
            assert_eq!(Answer::decode(&bytes[..ANSWER_HEADER_LEN - 1]), None);
        }
    }
}
