//! Messages that leave at one time for one peer go as one where one can say it all.
//!
//! The consensus makes an append for every proposal, and an answer for every append. Under load that would be
//! two messages and two answers for each entry and follower; what they cost is most of what replication
//! costs. So what is proposed while one group of the log is made durable travels together, and is answered
//! once: the pipelining with batches of Ongaro's thesis, section 10.2.

use crate::message::{Body, Message};
use crate::{Index, ReplicaId};

/// Joins appends that continue one another, up to `len_max` bytes of entries, and answers that a later
/// one contains. The order of what is left is that in which it came, peer by peer.
pub(crate) fn join(messages: &mut Vec<(ReplicaId, Message)>, len_max: usize) {
    if messages.len() < 2 {
        return;
    }
    let mut joined: Vec<(ReplicaId, Message)> = Vec::with_capacity(messages.len());
    for (to, message) in messages.drain(..) {
        let before = joined.iter_mut().rfind(|(peer, _)| *peer == to);
        let rest = match before {
            Some((_, before)) if before.term == message.term => {
                absorb(&mut before.body, message.body, len_max)
                    .map(|body| Message { term: message.term, body })
            }
            _ => Some(message),
        };
        joined.extend(rest.map(|message| (to, message)));
    }
    *messages = joined;
}

/// Adds what `next` says to `body`; gives it back if that cannot say it.
fn absorb(body: &mut Body, next: Body, len_max: usize) -> Option<Body> {
    match (body, next) {
        (
            Body::Append { previous, committed, entries, .. },
            Body::Append { previous: from, previous_term, committed: later, entries: more },
        ) => {
            let len =
                |entries: &[bytes::Bytes]| entries.iter().map(bytes::Bytes::len).sum::<usize>();
            let count = u64::try_from(entries.len()).expect("a length fits 64 bits");
            let continues = from == Index(previous.0 + count);
            if !continues || len(entries) + len(&more) > len_max {
                let (previous, committed, entries) = (from, later, more);
                return Some(Body::Append { previous, previous_term, committed, entries });
            }
            *committed = later.max(*committed);
            entries.extend(more);
            None
        }
        (Body::Appended { last, committed }, Body::Appended { last: later, committed: also }) => {
            *last = later.max(*last);
            *committed = also.max(*committed);
            None
        }
        (_, next) => Some(next),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Term;

    fn append(previous: u64, count: usize, committed: u64) -> Message {
        let body = Body::Append {
            previous: Index(previous),
            previous_term: Term(2),
            committed: Index(committed),
            entries: vec![Bytes::from_static(b"0123456789"); count],
        };
        Message { term: Term(2), body }
    }

    fn appended(term: u64, last: u64) -> Message {
        Message {
            term: Term(term),
            body: Body::Appended { last: Index(last), committed: Index(1) },
        }
    }

    fn joined(messages: &[(u64, Message)], len_max: usize) -> Vec<(u64, Message)> {
        let mut all: Vec<_> = messages.iter().map(|(to, m)| (ReplicaId(*to), m.clone())).collect();
        join(&mut all, len_max);
        all.into_iter().map(|(to, message)| (to.0, message)).collect()
    }

    #[test]
    fn appends_that_continue_one_another_are_one_for_each_peer() {
        let all = [
            (2, append(4, 1, 3)),
            (3, append(4, 1, 3)),
            (2, append(5, 2, 3)),
            (3, append(5, 2, 3)),
            (2, append(7, 0, 6)),
        ];
        assert_eq!(joined(&all, 1000), [(2, append(4, 3, 6)), (3, append(4, 3, 3))]);
    }

    #[test]
    fn messages_stay_as_long_as_they_may_be() {
        let all = [(2, append(4, 2, 3)), (2, append(6, 2, 3)), (2, append(8, 1, 3))];
        assert_eq!(
            joined(&all, 20),
            [(2, append(4, 2, 3)), (2, append(6, 2, 3)), (2, append(8, 1, 3))]
        );
        assert_eq!(joined(&all, 30), [(2, append(4, 2, 3)), (2, append(6, 3, 3))]);
    }

    #[test]
    fn what_does_not_continue_stays_apart() {
        // A gap, a step back, another term, and something else in between.
        for next in [append(6, 1, 3), append(4, 1, 3)] {
            let all = [(2, append(4, 1, 3)), (2, next)];
            assert_eq!(joined(&all, 1000), all);
        }
        let all =
            [(2, appended(1, 5)), (2, appended(2, 6)), (2, append(4, 1, 3)), (2, appended(2, 7))];
        assert_eq!(joined(&all, 1000), all);
    }

    #[test]
    fn the_last_answer_says_it_all() {
        let all = [(1, appended(2, 5)), (1, appended(2, 9)), (1, appended(2, 7))];
        assert_eq!(joined(&all, 1000), [(1, appended(2, 9))]);
    }
}
