//! How far a write has come, asked of the leader by any node.
//!
//! A client may ask any node how many others have its last write on disk (`WAIT`). Only the leader knows
//! what each has; a follower knows what is committed, and that is less than what was asked. So it asks
//! the leader, and names the write: its index, and the term in which the leader took it.
//!
//! ```text
//! question:  | id (8) | index (8) | term (8) |
//! answer:    | id (8) | kind (1) | on leader (1) | reserved (6) | replicas (8) |
//! ```
//!
//! Little-endian. The kind of an answer is 0 if the node cannot tell, 1 if the rest counts. Only who leads
//! in the term of the question, or a later one, can tell: in the log of an older leader something else
//! may stand at that index, on the disks of its followers, too.
//!
//! A question that is lost is not asked again here: who waits asks anew until his time is up.

use std::collections::BTreeMap;

use strandline_engine::Index;
use strandline_replication::{MemberRole, ReplicaId, Role, Status, Term};
use tokio::sync::oneshot;

use super::Frame;
use super::driver::Driver;

/// A place in the replicated log that a client was told of: its last write, or what it may have read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Where the write stands.
    pub index: Index,
    /// In which term it was taken; who leads in this or a later one has it, once it is committed.
    pub term: u64,
}

impl Mark {
    /// The later of two, in each respect.
    pub fn max(self, other: Mark) -> Mark {
        Mark { index: self.index.max(other.index), term: self.term.max(other.term) }
    }
}

/// Who has everything up to a mark on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Whether the leader has.
    pub on_leader: bool,
    /// How many other nodes have; no witnesses.
    pub replicas: usize,
}

impl Spread {
    /// As far as this replica knows; none if it does not lead, or in an older term.
    pub fn of(status: &Status, mark: Mark) -> Option<Spread> {
        if status.role != Role::Leader || status.term < Term(mark.term) {
            return None;
        }
        let data = status.peers.iter().filter(|peer| peer.role != MemberRole::Witness);
        let replicas = data.filter(|peer| peer.matched >= mark.index).count();
        Some(Spread { on_leader: status.durable >= mark.index, replicas })
    }
}

/// Questions of this node that are not answered.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// By id. Invariant: whoever does not wait any more goes when the next question comes.
    asked: BTreeMap<u64, oneshot::Sender<Option<Spread>>>,
}

impl Driver {
    /// A session asks; told nothing if nobody can tell now.
    pub(super) fn ask(&mut self, mark: Mark, sender: oneshot::Sender<Option<Spread>>) {
        let status = self.replica.status();
        // What was applied here is of no later term than this.
        let mark = mark.max(Mark { index: Index(0), term: status.term.0 });
        let leader = status.leader.filter(|leader| *leader != self.group.own);
        let Some(leader) = leader else {
            let _ = sender.send(Spread::of(&status, mark));
            return;
        };
        let id = self.token();
        if self.peers.send(leader, Frame::Question(encode(id, mark))) {
            self.questions.asked.retain(|_, waiting| !waiting.is_closed());
            self.questions.asked.insert(id, sender);
        } else {
            let _ = sender.send(None);
        }
    }

    /// Another node asks.
    pub(super) fn take_question(&mut self, from: ReplicaId, bytes: &[u8]) {
        let Some((id, mark)) = decode(bytes) else {
            tracing::warn!(%from, "a question that cannot be read");
            return;
        };
        let spread = Spread::of(&self.replica.status(), mark);
        self.peers.send(from, Frame::QuestionAnswer(encode_answer(id, spread)));
    }

    /// Another node answers.
    pub(super) fn take_question_answer(&mut self, from: ReplicaId, bytes: &[u8]) {
        let Some((id, spread)) = decode_answer(bytes) else {
            tracing::warn!(%from, "an answer to a question that cannot be read");
            return;
        };
        if let Some(waiting) = self.questions.asked.remove(&id) {
            let _ = waiting.send(spread);
        }
    }
}

fn encode(id: u64, mark: Mark) -> Vec<u8> {
    [id, mark.index.0, mark.term].map(u64::to_le_bytes).concat()
}

fn words<const COUNT: usize>(bytes: &[u8]) -> Option<[u64; COUNT]> {
    let (words, rest) = bytes.as_chunks::<8>();
    let words: [[u8; 8]; COUNT] = words.try_into().ok().filter(|_| rest.is_empty())?;
    Some(words.map(u64::from_le_bytes))
}

/// None if the bytes are no question.
fn decode(bytes: &[u8]) -> Option<(u64, Mark)> {
    let [id, index, term] = words(bytes)?;
    Some((id, Mark { index: Index(index), term }))
}

fn encode_answer(id: u64, spread: Option<Spread>) -> Vec<u8> {
    let Spread { on_leader, replicas } = spread.unwrap_or_default();
    let kind = u64::from(spread.is_some()) | u64::from(on_leader) << 8;
    let replicas = u64::try_from(replicas).unwrap_or(u64::MAX);
    [id, kind, replicas].map(u64::to_le_bytes).concat()
}

/// None if the bytes are no answer.
fn decode_answer(bytes: &[u8]) -> Option<(u64, Option<Spread>)> {
    let [id, kind, replicas] = words(bytes)?;
    let spread = Spread { on_leader: kind >> 8 == 1, replicas: usize::try_from(replicas).ok()? };
    match kind {
        0 if replicas == 0 => Some((id, None)),
        1 | 0x101 => Some((id, Some(spread))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_come_back_and_pieces_are_refused() {
        let mark = Mark { index: Index(1 << 40), term: 7 };
        let bytes = encode(9, mark);
        assert_eq!(decode(&bytes), Some((9, mark)));
        assert_eq!((decode(&bytes[..23]), decode(&[&bytes[..], b"x"].concat())), (None, None));
        for spread in [
            None,
            Some(Spread { on_leader: false, replicas: 0 }),
            Some(Spread { on_leader: true, replicas: 2 }),
        ] {
            let bytes = encode_answer(9, spread);
            assert_eq!(decode_answer(&bytes), Some((9, spread)));
            assert_eq!(decode_answer(&bytes[..16]), None);
            let mut unknown = bytes;
            unknown[10] = 1;
            assert_eq!(decode_answer(&unknown), None);
        }
    }
}
