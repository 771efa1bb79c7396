//! Reads that a replica answered alone: no older than their bound, and never back in time.
//!
//! What a replica answers alone must be the register's value in the state at some index that is not before
//! the least one: the last command that anybody had executed when the bound began, by true time. And who
//! asks the same process again must not be shown an older state than before, whatever register it is.

use std::collections::BTreeMap;

use strandline_engine::Index;
use strandline_replication::ReplicaId;

use super::agreement::Truth;
use crate::operation::{Action, Answer};
use crate::violation::{Checker, Verdict, Violation};

/// A read that did not ask for the state as it is now, as it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleRead {
    /// Whose it is.
    pub client: u64,
    /// Who answered,
    pub node: ReplicaId,
    /// and in which of its lives.
    pub life: u64,
    /// The register.
    pub key: u16,
    /// The answer.
    pub value: u64,
    /// The state has to be at this index or later.
    pub least: Index,
    /// Nothing later was executed when it was answered.
    pub most: Index,
}

/// The values of all registers, by the index at which they became so.
type Values = BTreeMap<u16, Vec<(Index, u64)>>;

fn values(truth: &Truth) -> Values {
    let mut places: Vec<Index> = truth.places().map(|(_, _, index)| index).collect();
    places.sort_unstable();
    let mut values = Values::new();
    for index in places {
        let Some(executed) = truth.at(index) else { continue };
        let (Action::Put { key, value } | Action::Exchange { key, value, .. }) =
            executed.operation.action;
        if executed.answer == Answer::Done {
            values.entry(key).or_default().push((index, value));
        }
    }
    values
}

/// The first index from `least` to `most` at which a register has this value.
fn find(changes: &[(Index, u64)], value: u64, least: Index, most: Index) -> Option<Index> {
    let next = changes.partition_point(|(index, _)| *index <= least);
    let there = next.checked_sub(1).map_or(0, |at| changes[at].1);
    if there == value {
        return Some(least);
    }
    let later = changes[next..].iter().take_while(|(index, _)| *index <= most);
    later.into_iter().find(|(_, later)| *later == value).map(|(index, _)| *index)
}

/// Checks all such reads, in the order in which they were answered.
///
/// # Errors
///
/// The first that is older than its bound, or goes back in time.
pub fn check(reads: &[StaleRead], truth: &Truth) -> Verdict {
    let values = values(truth);
    let mut seen: BTreeMap<(u64, ReplicaId, u64), Index> = BTreeMap::new();
    for read in reads {
        let changes = values.get(&read.key).map_or(&[][..], Vec::as_slice);
        let session = (read.client, read.node, read.life);
        let before = seen.get(&session).copied().unwrap_or_default();
        match find(changes, read.value, read.least.max(before), read.most) {
            Some(index) => {
                seen.insert(session, index);
            }
            None => {
                let is_back = find(changes, read.value, read.least, read.most).is_some();
                let reason = match is_back {
                    true => format!("goes back behind index {before}, which it was shown before"),
                    false => {
                        let of = changes.iter().rev().find(|(_, other)| *other == read.value);
                        let of = of.map_or("of no index".to_owned(), |(index, _)| {
                            format!("of index {index}")
                        });
                        format!("is {of}, and not of {} to {}", read.least, read.most)
                    }
                };
                let StaleRead { client, node, life, key, value, .. } = read;
                let reason = format!(
                    "replica {node} in its life {life} tells client {client} that register {key} is \
                     {value}, which {reason}"
                );
                return Err(Violation::new(Checker::Staleness, reason));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Note, link};
    use crate::operation::Operation;

    /// Register 1 becomes 11, 12, 0 and 13 at the indexes 1 to 4; register 2 becomes 21 at index 5.
    fn truth() -> Truth {
        let mut truth = Truth::default();
        let mut chain = 0;
        let puts = [(1, 11), (1, 12), (1, 0), (1, 13), (2, 21)];
        for (number, (key, value)) in (1..).zip(puts) {
            let action = Action::Put { key, value };
            let operation = Operation { client: 1, number, action, padding: 0 };
            let (index, answer) = (Index(number), Answer::Done);
            chain = link(chain, index, 1, &operation.command(), answer);
            truth.note("1", &Note::Executed { index, term: 1, operation, answer, chain }).unwrap();
        }
        truth
    }

    fn read(key: u16, value: u64, least: u64) -> StaleRead {
        let (client, node, life) = (7, ReplicaId(1), 1);
        StaleRead { client, node, life, key, value, least: Index(least), most: Index(5) }
    }

    #[test]
    fn a_read_is_of_some_state_within_the_bound() {
        let truth = truth();
        for (key, value, least) in [(1, 11, 1), (1, 12, 1), (1, 0, 0), (1, 13, 4), (2, 0, 4)] {
            check(&[read(key, value, least)], &truth).unwrap();
        }
        for (key, value, least) in [(1, 11, 2), (1, 12, 3), (1, 0, 4), (2, 0, 5), (1, 99, 0)] {
            let found = check(&[read(key, value, least)], &truth).unwrap_err();
            assert_eq!(found.checker, Checker::Staleness);
        }
        let too_early = StaleRead { most: Index(3), ..read(1, 13, 1) };
        assert!(check(&[too_early], &truth).is_err(), "nobody had executed it");
    }

    #[test]
    fn nobody_is_shown_an_older_state_by_the_same_process() {
        let truth = truth();
        check(&[read(1, 11, 0), read(1, 13, 0), read(2, 0, 0), read(2, 21, 0)], &truth).unwrap();
        assert!(check(&[read(1, 13, 0), read(1, 12, 0)], &truth).is_err());
        assert!(check(&[read(2, 21, 0), read(1, 0, 0)], &truth).is_err(), "over registers");
        let other = StaleRead { life: 2, ..read(1, 12, 0) };
        check(&[read(1, 13, 0), other], &truth).unwrap();
    }
}
