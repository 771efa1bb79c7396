//! What was acknowledged is there, and what was refused is not.
//!
//! Asked at the end, when all faults are over and every replica has caught up, of the truth (what was
//! executed at all) and of every replica's state (what is still to be read).

use std::collections::BTreeMap;

use crate::checkers::agreement::Truth;
use crate::history::{Asked, Call, History, Told};
use crate::operation::{Answer, trace_key};
use crate::violation::{Checker, Verdict, Violation};

/// The pairs of a state.
pub type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Writes with a promise about them.
fn promised(history: &History) -> impl Iterator<Item = &Call> {
    history.calls().iter().filter(|call| matches!(call.asked, Asked::Write(_)))
}

/// Whether everything acknowledged was executed, and nothing of what was refused.
///
/// # Errors
///
/// The first write of which this is not so.
pub fn check_truth(history: &History, truth: &Truth) -> Verdict {
    for call in promised(history) {
        let place = truth.place(call.client, call.number);
        match (call.told, place) {
            (Told::Done | Told::Differs(_), None) => {
                return Err(Violation::new(Checker::Durability, lost(call, "was never executed")));
            }
            (Told::Nothing, Some(index)) => {
                let reason = format!("{} was refused and is executed at index {index}", name(call));
                return Err(Violation::new(Checker::Refusal, reason));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a replica that has caught up has everything that was acknowledged.
///
/// # Errors
///
/// The first write of which this is not so.
pub fn check_state(history: &History, who: &str, pairs: &Pairs) -> Verdict {
    for call in promised(history) {
        let trace = pairs.get(&trace_key(call.client, call.number));
        let expected = match call.told {
            Told::Done => Some(Answer::Done.bytes()),
            Told::Differs(found) => Some(Answer::Differs(found).bytes()),
            _ => None,
        };
        match (call.told, trace) {
            (Told::Done | Told::Differs(_), found) if found == expected.as_ref() => {}
            (Told::Done | Told::Differs(_), _) => {
                let reason = lost(call, &format!("is not in the state of {who}"));
                return Err(Violation::new(Checker::Durability, reason));
            }
            (Told::Nothing, Some(_)) => {
                let reason = format!("{} was refused and is in the state of {who}", name(call));
                return Err(Violation::new(Checker::Refusal, reason));
            }
            _ => {}
        }
    }
    Ok(())
}

fn name(call: &Call) -> String {
    format!("operation {} of client {} ({:?})", call.number, call.client, call.asked)
}

fn lost(call: &Call, what: &str) -> String {
    format!("{} was acknowledged and {what}", name(call))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Note, link};
    use crate::operation::{Action, Operation};
    use strandline_engine::Index;

    const ACTION: Action = Action::Put { key: 1, value: 5 };

    fn told(told: Told) -> History {
        let mut history = History::default();
        let call = history.begin(1, 1, Asked::Write(ACTION));
        if told != Told::Unknown {
            history.end(call, told);
        }
        history
    }

    fn executed() -> Truth {
        let mut truth = Truth::default();
        let operation = Operation { client: 1, number: 1, action: ACTION, padding: 0 };
        let answer = Answer::Done;
        let chain = link(0, Index(4), 1, &operation.command(), answer);
        let note = Note::Executed { index: Index(4), term: 1, operation, answer, chain };
        truth.note("1", &note).unwrap();
        truth
    }

    #[test]
    fn acknowledged_means_executed_and_refused_means_not() {
        let (none, one) = (Truth::default(), executed());
        check_truth(&told(Told::Done), &one).unwrap();
        check_truth(&told(Told::Nothing), &none).unwrap();
        check_truth(&told(Told::Unknown), &one).unwrap();
        check_truth(&told(Told::Unknown), &none).unwrap();
        let found = check_truth(&told(Told::Done), &none).unwrap_err();
        assert_eq!(found.checker, Checker::Durability);
        let found = check_truth(&told(Told::Nothing), &one).unwrap_err();
        assert_eq!(found.checker, Checker::Refusal);
    }

    #[test]
    fn a_state_holds_what_was_acknowledged() {
        let full = executed().model().clone();
        check_state(&told(Told::Done), "1", &full).unwrap();
        check_state(&told(Told::Unknown), "1", &Pairs::new()).unwrap();
        let found = check_state(&told(Told::Done), "1", &Pairs::new()).unwrap_err();
        assert_eq!(found.checker, Checker::Durability);
        assert!(check_state(&told(Told::Differs(3)), "1", &full).is_err(), "another answer");
        let found = check_state(&told(Told::Nothing), "1", &full).unwrap_err();
        assert_eq!(found.checker, Checker::Refusal);
    }
}
