//! The truth: what stands at which index, as told by the first replica that executed it.
//!
//! Every other replica, and every later life of the same one, must execute the same command with the
//! same answer at the same index, and its whole state must be that of the model there. The model
//! executes the commands a second time, in a map, by code of its own.

use std::collections::BTreeMap;

use strandline_engine::{Index, Skipped};

use crate::hash;
use crate::machine::{Note, link};
use crate::operation::{Action, Answer, Operation, read_register, register_key, register_value};
use crate::violation::{Checker, Verdict, Violation};

/// What was executed at an index.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The reign in which it was proposed.
    pub term: u64,
    /// What it is.
    pub operation: Operation,
    /// What it answered.
    pub answer: Answer,
    /// The chain of all commands up to here.
    chain: u64,
    /// The hash of the model's state after it.
    state: u64,
}

/// What has been executed by anybody.
#[derive(Debug, Default)]
pub struct Truth {
    executed: BTreeMap<Index, Executed>,
    /// What was passed over: the term of the entry, and whose which operation it was.
    skipped: BTreeMap<Index, (u64, u64, u64, Skipped)>,
    /// Where each client's operations were executed.
    places: BTreeMap<(u64, u64), Index>,
    /// The state after the last command executed by anybody.
    model: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The hash of `model`.
    state: u64,
}

impl Truth {
    /// Compares what a replica did with what is known.
    ///
    /// # Errors
    ///
    /// It did something else than others, or something a second time.
    pub fn note(&mut self, who: &str, note: &Note) -> Verdict {
        match note {
            Note::Restored { index, chain } => {
                let known = self.executed.get(index).map_or(0, |executed| executed.chain);
                if known != *chain {
                    let reason = format!("{who} begins at index {index} with another past");
                    return Err(Violation::new(Checker::Agreement, reason));
                }
                Ok(())
            }
            Note::Session { .. } => Ok(()),
            Note::Skipped { index, term, operation, reason } => {
                self.skip(who, *index, *term, operation, *reason)
            }
            Note::Executed { index, term, operation, answer, chain } => {
                if let Some((_, client, number, reason)) = self.skipped.get(index) {
                    let reason = format!(
                        "{who} executes operation {} of client {} at index {index}, where operation \
                         {number} of client {client} was passed over as {reason:?}",
                        operation.number, operation.client
                    );
                    return Err(Violation::new(Checker::Agreement, reason));
                }
                if let Some(known) = self.executed.get(index) {
                    if known.term != *term || known.operation != *operation {
                        let reason = format!(
                            "{who} executes {operation:?} of term {term} at index {index}, where \
                             {:?} of term {} was executed",
                            known.operation, known.term
                        );
                        return Err(Violation::new(Checker::Agreement, reason));
                    }
                    if known.answer != *answer || known.chain != *chain {
                        let reason = format!(
                            "{who} answers {answer:?} at index {index} after another past than \
                             those who answered {:?}",
                            known.answer
                        );
                        return Err(Violation::new(Checker::Agreement, reason));
                    }
                    return Ok(());
                }
                self.first(who, *index, *term, operation, *answer, *chain)
            }
        }
    }

    /// Somebody passes over a command: others do so too, and a retry is one.
    fn skip(
        &mut self,
        who: &str,
        index: Index,
        term: u64,
        operation: &Operation,
        reason: Skipped,
    ) -> Verdict {
        let found = (term, operation.client, operation.number, reason);
        let known = *self.skipped.entry(index).or_insert(found);
        if known != found || self.executed.contains_key(&index) {
            let reason = format!(
                "{who} passes over operation {} of client {} of term {term} at index {index} as \
                 {reason:?}, and others did not",
                operation.number, operation.client
            );
            return Err(Violation::new(Checker::Agreement, reason));
        }
        let place = self.place(operation.client, operation.number);
        if reason == Skipped::Repeated && place.is_none_or(|place| place >= index) {
            let reason = format!(
                "{who} passes over operation {} of client {} at index {index} as repeated, and \
                 nobody has executed it before",
                operation.number, operation.client
            );
            return Err(Violation::new(Checker::ExactlyOnce, reason));
        }
        Ok(())
    }

    /// Somebody executes at an index where nobody has executed yet.
    fn first(
        &mut self,
        who: &str,
        index: Index,
        term: u64,
        operation: &Operation,
        answer: Answer,
        chain: u64,
    ) -> Verdict {
        if let Some((last, _)) = self.executed.last_key_value()
            && *last > index
        {
            let reason = format!("{who} executes at index {index}, which others passed over");
            return Err(Violation::new(Checker::Agreement, reason));
        }
        let request = (operation.client, operation.number);
        if let Some(place) = self.places.insert(request, index) {
            let reason = format!(
                "operation {} of client {} is executed at index {place} and, by {who}, at {index}",
                operation.number, operation.client
            );
            return Err(Violation::new(Checker::ExactlyOnce, reason));
        }
        let expected = self.execute(operation);
        if expected != answer {
            let reason = format!("{who} answers {answer:?} at index {index}, not {expected:?}");
            return Err(Violation::new(Checker::Agreement, reason));
        }
        let past = self.executed.last_key_value().map_or(0, |(_, executed)| executed.chain);
        if link(past, index, term, &operation.command(), answer) != chain {
            let reason = format!("{who} executes at index {index} after another past than others");
            return Err(Violation::new(Checker::Agreement, reason));
        }
        let state = self.state;
        self.executed.insert(index, Executed { term, operation: *operation, answer, chain, state });
        Ok(())
    }

    fn execute(&mut self, operation: &Operation) -> Answer {
        let key = register_key(operation.action.key());
        let found = self.model.get(&key).and_then(|bytes| read_register(bytes)).unwrap_or(0);
        let (answer, value) = match operation.action {
            Action::Put { value, .. } => (Answer::Done, Some(value)),
            Action::Exchange { expected, value, .. } if found == expected => {
                (Answer::Done, Some(value))
            }
            Action::Exchange { .. } => (Answer::Differs(found), None),
        };
        if let Some(value) = value {
            let bytes = (value > 0).then(|| register_value(value, operation.padding));
            self.set(key, bytes);
        }
        self.set(operation.trace_key(), Some(answer.bytes()));
        answer
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        if let Some(old) = self.model.get(&key) {
            self.state ^= hash::pair(&key, old);
        }
        match value {
            Some(value) => {
                self.state ^= hash::pair(&key, &value);
                self.model.insert(key, value);
            }
            None => {
                self.model.remove(&key);
            }
        }
    }

    /// Whether the whole state of a replica that has applied everything up to an index is the model's.
    ///
    /// # Errors
    ///
    /// It is not.
    pub fn compare(&self, who: &str, applied: Index, pairs: &[(Vec<u8>, Vec<u8>)]) -> Verdict {
        let found = pairs.iter().fold(0, |sum, (key, value)| sum ^ hash::pair(key, value));
        let last = self.executed.range(..=applied).next_back();
        let expected = last.map_or(0, |(_, executed)| executed.state);
        if found == expected {
            return Ok(());
        }
        let reason = format!(
            "{who} has applied everything up to index {applied}, and its {} pairs are not the \
             state there",
            pairs.len()
        );
        Err(Violation::new(Checker::Agreement, reason))
    }

    /// What was executed at an index.
    pub fn at(&self, index: Index) -> Option<&Executed> {
        self.executed.get(&index)
    }

    /// Where a client's operation was executed.
    pub fn place(&self, client: u64, number: u64) -> Option<Index> {
        self.places.get(&(client, number)).copied()
    }

    /// Every operation executed so far: client, number, index.
    pub fn places(&self) -> impl Iterator<Item = (u64, u64, Index)> + '_ {
        self.places.iter().map(|((client, number), index)| (*client, *number, *index))
    }

    /// The last index at which anybody executed a command.
    pub fn last(&self) -> Index {
        self.executed.last_key_value().map_or(Index(0), |(index, _)| *index)
    }

    /// The state after the last command.
    pub fn model(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes of a replica that executes these, as (index, term, client, number, action).
    fn notes(lines: &[(u64, u64, u64, u64, Action)]) -> Vec<Note> {
        let (mut chain, mut truth) = (0, Truth::default());
        let execute = |(index, term, client, number, action): &(u64, u64, u64, u64, Action)| {
            let (client, number, action) = (*client, *number, *action);
            let operation = Operation { client, number, action, padding: 0 };
            let answer = truth.execute(&operation);
            chain = link(chain, Index(*index), *term, &operation.command(), answer);
            Note::Executed { index: Index(*index), term: *term, operation, answer, chain }
        };
        lines.iter().map(execute).collect()
    }

    fn put(value: u64) -> Action {
        Action::Put { key: 1, value }
    }

    fn all(truth: &mut Truth, who: &str, notes: &[Note]) -> Verdict {
        notes.iter().try_for_each(|note| truth.note(who, note))
    }

    #[test]
    fn the_same_everywhere_is_agreed() {
        let good = notes(&[(2, 1, 1, 1, put(5)), (3, 1, 2, 1, put(6)), (9, 2, 1, 2, put(0))]);
        let mut truth = Truth::default();
        all(&mut truth, "1", &good).unwrap();
        all(&mut truth, "2", &good[..2]).unwrap();
        let Note::Executed { index, chain, .. } = good[1] else { panic!("it executes") };
        truth.note("2", &Note::Restored { index, chain }).unwrap();
        truth.note("2", &good[2]).unwrap();
        assert_eq!(truth.last(), Index(9));
        assert_eq!(truth.place(1, 2), Some(Index(9)));
        let pairs: Vec<_> = truth.model().clone().into_iter().collect();
        assert_eq!(pairs.len(), 3, "three traces, and the register is deleted");
        truth.compare("2", Index(12), &pairs).unwrap();
        assert!(truth.compare("2", Index(8), &pairs).is_err());
        assert!(truth.compare("2", Index(12), &pairs[1..]).is_err());
    }

    #[test]
    fn another_command_another_term_and_another_past_are_found() {
        let good = notes(&[(1, 1, 1, 1, put(5)), (2, 1, 2, 1, put(6))]);
        for bad in [
            notes(&[(1, 1, 1, 1, put(7))]),
            notes(&[(1, 2, 1, 1, put(5))]),
            notes(&[(2, 1, 2, 1, put(6))]),
        ] {
            let mut truth = Truth::default();
            all(&mut truth, "1", &good).unwrap();
            let found = all(&mut truth, "2", &bad).unwrap_err();
            assert_eq!(found.checker, Checker::Agreement, "{found}");
        }
        let mut truth = Truth::default();
        all(&mut truth, "1", &good).unwrap();
        let restored = Note::Restored { index: Index(1), chain: 77 };
        assert!(truth.note("2", &restored).is_err());
        // A place that everybody else passed over.
        let sparse = notes(&[(1, 1, 1, 1, put(5)), (3, 1, 2, 1, put(6))]);
        let mut truth = Truth::default();
        all(&mut truth, "1", &sparse).unwrap();
        assert!(truth.note("2", &notes(&[(2, 1, 9, 1, put(1))])[0]).is_err());
    }

    #[test]
    fn what_is_passed_over_is_passed_over_everywhere_and_was_executed() {
        let good = notes(&[(1, 1, 1, 1, put(5))]);
        let skip = |index, number| {
            let operation = Operation { client: 1, number, action: put(5), padding: 0 };
            let reason = Skipped::Repeated;
            Note::Skipped { index: Index(index), term: 1, operation, reason }
        };
        let mut truth = Truth::default();
        all(&mut truth, "1", &good).unwrap();
        truth.note("1", &skip(2, 1)).unwrap();
        truth.note("2", &skip(2, 1)).unwrap();
        let found = truth.note("1", &skip(3, 2)).unwrap_err();
        assert_eq!(found.checker, Checker::ExactlyOnce);
        let found = truth.note("1", &skip(1, 1)).unwrap_err();
        assert_eq!(found.checker, Checker::Agreement);
        let executed = &notes(&[(2, 1, 2, 1, put(6))])[0];
        assert_eq!(truth.note("2", executed).unwrap_err().checker, Checker::Agreement);
    }

    #[test]
    fn a_wrong_answer_and_a_second_execution_are_found() {
        let mut wrong = notes(&[(1, 1, 1, 1, Action::Exchange { key: 1, expected: 4, value: 5 })]);
        if let Note::Executed { answer, .. } = &mut wrong[0] {
            *answer = Answer::Done;
        }
        let found = all(&mut Truth::default(), "1", &wrong).unwrap_err();
        assert_eq!(found.checker, Checker::Agreement);
        let twice = notes(&[(1, 1, 1, 1, put(5)), (2, 1, 1, 1, put(5))]);
        let found = all(&mut Truth::default(), "1", &twice).unwrap_err();
        assert_eq!(found.checker, Checker::ExactlyOnce);
    }
}
