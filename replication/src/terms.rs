//! Which term each entry of a log has: a list of runs, because terms only rise and last long.

use crate::{Error, Result};

/// How many runs are kept; older ones are forgotten, and the log is then taken to begin after them.
/// Alike on all replicas, because the list is part of the replicated state.
const RUNS_MAX: usize = 1024;

/// The terms of consecutive entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// First index and term of each run, both rising.
    runs: Vec<(u64, u64)>,
}

impl Terms {
    /// Takes note of the entry that follows.
    pub(crate) fn push(&mut self, index: u64, term: u64) {
        match self.runs.last() {
            Some((_, last)) if *last == term => {}
            _ => self.runs.push((index, term)),
        }
        if self.runs.len() > RUNS_MAX {
            self.runs.remove(0);
        }
    }

    /// The term of an entry that is in the log; none if it is too old to be known.
    pub(crate) fn get(&self, index: u64) -> Option<u64> {
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).map(|at| self.runs[at].1)
    }

    /// The oldest index whose term is known.
    pub(crate) fn first(&self) -> Option<u64> {
        self.runs.first().map(|(first, _)| *first)
    }

    /// The latest term.
    pub(crate) fn last(&self) -> Option<u64> {
        self.runs.last().map(|(_, term)| *term)
    }

    /// Forgets the entries after `last`.
    pub(crate) fn truncate(&mut self, last: u64) {
        self.runs.retain(|(first, _)| *first <= last);
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let count = u32::try_from(self.runs.len()).expect("runs are bounded");
        out.extend_from_slice(&count.to_le_bytes());
        for (first, term) in &self.runs {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&term.to_le_bytes());
        }
    }

    /// What [`encode`](Terms::encode) gave, and what follows it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let short =
            || Error::Message { offset: 0, reason: "a list of terms ends too early".into() };
        let (count, mut rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let mut terms = Terms::default();
        for _ in 0..u32::from_le_bytes(*count) {
            let (first, after) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            let (term, after) = after.split_first_chunk::<8>().ok_or_else(short)?;
            terms.runs.push((u64::from_le_bytes(*first), u64::from_le_bytes(*term)));
            rest = after;
        }
        Ok((terms, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_say_what_each_entry_would() {
        let mut terms = Terms::default();
        let all = [1, 1, 1, 3, 3, 7];
        for (index, term) in (5..).zip(all) {
            terms.push(index, term);
        }
        for (index, term) in (5..).zip(all) {
            assert_eq!(terms.get(index), Some(term), "index {index}");
        }
        assert_eq!((terms.get(4), terms.first()), (None, Some(5)));
        let mut bytes = Vec::new();
        terms.encode(&mut bytes);
        assert_eq!(Terms::decode(&bytes).unwrap(), (terms.clone(), &[][..]));
        assert!(Terms::decode(&bytes[..bytes.len() - 1]).is_err());
        terms.truncate(8);
        terms.push(9, 4);
        assert_eq!((terms.get(8), terms.get(9)), (Some(3), Some(4)));
    }
}
