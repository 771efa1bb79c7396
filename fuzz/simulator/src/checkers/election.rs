//! One leader for each term, in all lives of all replicas.

use std::collections::BTreeMap;

use strandline_replication::{ReplicaId, Term};

use crate::violation::{Checker, Verdict, Violation};

/// Who led when.
#[derive(Debug, Default)]
pub struct Leaders {
    leaders: BTreeMap<Term, (ReplicaId, u64)>,
}

impl Leaders {
    /// A replica, in one of its lives, has been elected.
    ///
    /// # Errors
    ///
    /// Another one was elected in that term, or this one in an earlier life: it can only have been
    /// elected twice by votes that were given twice.
    pub fn elected(&mut self, term: Term, leader: ReplicaId, life: u64) -> Verdict {
        match self.leaders.insert(term, (leader, life)) {
            Some((other, other_life)) if (other, other_life) != (leader, life) => {
                let reason = format!(
                    "term {term} has two leaders: replica {other} in its life {other_life}, and \
                     replica {leader} in its life {life}"
                );
                Err(Violation::new(Checker::Election, reason))
            }
            _ => Ok(()),
        }
    }

    /// How many terms had a leader.
    pub fn count(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_leader_of_a_term_is_found() {
        let mut leaders = Leaders::default();
        leaders.elected(Term(1), ReplicaId(1), 1).unwrap();
        leaders.elected(Term(1), ReplicaId(1), 1).unwrap();
        leaders.elected(Term(3), ReplicaId(2), 1).unwrap();
        leaders.elected(Term(2), ReplicaId(3), 1).unwrap();
        assert_eq!(leaders.count(), 3);
        assert!(leaders.elected(Term(1), ReplicaId(2), 1).is_err());
        assert!(leaders.elected(Term(3), ReplicaId(2), 2).is_err());
    }
}
