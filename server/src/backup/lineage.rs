//! Which generation wrote which part of a log.
//!
//! A generation is one life of one primary: it begins when a node opens as a primary, or is told to be
//! one, and its name is drawn at random. It begins, durably, before its first entry is appended, and a
//! backup writes it down before it appends that entry. So two logs that have the same generation at
//! the same index have the same entries up to there.
//!
//! ```text
//! the primary        | 7f.. from 1        | 31.. from 120       | last 200
//! a backup           | 7f.. from 1        | 31.. from 120  | last 180          continues
//! it came back empty | c0.. from 1   | last 40                                 foreign
//! promoted earlier   | 7f.. from 1   | 99.. from 90     | last 130             apart after 89
//! ```

use std::fmt::Write;

use strandline_engine::Index;

/// More generations are forgotten, the oldest first: a log that ends in one of them cannot go on.
pub const GENERATIONS_MAX: usize = 1024;

/// One life of one primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Drawn at random; never 0.
    pub id: u128,
    /// Its first entry.
    pub first: Index,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Invariant: ascending by first entry, no two begin at the same one, `GENERATIONS_MAX` at the most.
    list: Vec<Generation>,
}

/// What a log is to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// A prefix of it: it can be continued from there.
    Prefix,
    /// It has entries that the other has not.
    Apart {
        /// The last entry that is the same in both; 0 if there is none.
        common: Index,
    },
}

impl Lineage {
    /// From generations in the order of their first entries; none if they are in no such order.
    pub fn from_list(list: Vec<Generation>) -> Option<Self> {
        let is_ascending = list.windows(2).all(|pair| pair[0].first < pair[1].first);
        let is_sound = list.iter().all(|one| one.id != 0 && one.first > Index(0));
        (is_ascending && is_sound && list.len() <= GENERATIONS_MAX).then_some(Self { list })
    }

    /// The generations, the oldest first.
    pub fn list(&self) -> &[Generation] {
        &self.list
    }

    /// The generation that wrote the entry at `index`.
    pub fn at(&self, index: Index) -> Option<Generation> {
        let after = self.list.partition_point(|one| one.first <= index);
        after.checked_sub(1).map(|place| self.list[place])
    }

    /// The newest generation.
    pub fn newest(&self) -> Option<Generation> {
        self.list.last().copied()
    }

    /// The first index above `index` at which a generation begins.
    pub fn next_after(&self, index: Index) -> Option<Generation> {
        self.list.get(self.list.partition_point(|one| one.first <= index)).copied()
    }

    /// From `generation.first` on the log is of this generation.
    pub fn begin(&mut self, generation: Generation) {
        self.list.retain(|one| one.first < generation.first);
        self.list.push(generation);
        let surplus = self.list.len().saturating_sub(GENERATIONS_MAX);
        self.list.drain(..surplus);
    }

    /// Forgets generations that begin beyond the entry after `last`: a crash has taken what was to come
    /// before them.
    pub fn keep_until(&mut self, last: Index) {
        self.list.retain(|one| one.first.0 <= last.0 + 1);
    }

    /// The part that covers entries up to `last`.
    #[must_use]
    pub fn until(&self, last: Index) -> Self {
        let list = self.list.iter().filter(|one| one.first <= last).copied().collect();
        Self { list }
    }

    /// The last entry of the generation `id`, of a log that ends at `last`; none if the log has none of it.
    fn last_of(&self, id: u128, last: Index) -> Option<Index> {
        let place = self.list.iter().position(|one| one.id == id)?;
        let end = self.list.get(place + 1).map_or(last.0, |next| (next.first.0 - 1).min(last.0));
        (end >= self.list[place].first.0).then_some(Index(end))
    }

    /// What this log, which ends at `last`, is to another one.
    pub fn relation(&self, last: Index, other: &Lineage, other_last: Index) -> Relation {
        if last == Index(0) {
            return Relation::Prefix;
        }
        for own in self.list.iter().rev().filter(|one| one.first <= last) {
            let Some(own_end) = self.last_of(own.id, last) else { continue };
            let Some(other_end) = other.last_of(own.id, other_last) else { continue };
            if own_end == last && other_end >= last {
                return Relation::Prefix;
            }
            return Relation::Apart { common: own_end.min(other_end) };
        }
        Relation::Apart { common: Index(0) }
    }

    /// As text: `id:first` in hexadecimal and decimal, with commas between.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (place, one) in self.list.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{:032x}:{}", one.id, one.first);
        }
        text
    }

    /// Reads what [`to_text`](Lineage::to_text) wrote; none if it is nothing of the kind.
    pub fn from_text(text: &str) -> Option<Self> {
        let parse = |part: &str| {
            let (id, first) = part.split_once(':')?;
            let id = u128::from_str_radix(id, 16).ok()?;
            Some(Generation { id, first: Index(first.parse().ok()?) })
        };
        let parts = text.split(',').filter(|part| !part.is_empty());
        Lineage::from_list(parts.map(parse).collect::<Option<Vec<_>>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(list: &[(u128, u64)]) -> Lineage {
        let one = |(id, first): &(u128, u64)| Generation { id: *id, first: Index(*first) };
        Lineage::from_list(list.iter().map(one).collect()).unwrap()
    }

    fn relation(own: &[(u128, u64)], last: u64, other: &[(u128, u64)], end: u64) -> Relation {
        lineage(own).relation(Index(last), &lineage(other), Index(end))
    }

    fn apart(common: u64) -> Relation {
        Relation::Apart { common: Index(common) }
    }

    #[test]
    fn a_log_continues_another_or_is_apart_from_it() {
        let primary = [(7, 1), (31, 120)];
        // Nothing is a prefix of everything, even of nothing.
        assert_eq!(relation(&[], 0, &primary, 200), Relation::Prefix);
        assert_eq!(relation(&[(5, 1)], 0, &[], 0), Relation::Prefix);
        assert_eq!(relation(&primary, 180, &primary, 200), Relation::Prefix);
        assert_eq!(relation(&primary, 200, &primary, 200), Relation::Prefix);
        assert_eq!(relation(&[(7, 1)], 119, &primary, 200), Relation::Prefix);
        assert_eq!(relation(&[(7, 1)], 60, &primary, 200), Relation::Prefix);
        // A generation that has begun and has no entry yet says nothing.
        assert_eq!(relation(&[(7, 1), (99, 61)], 60, &primary, 200), Relation::Prefix);
        // It came back empty, and has been written to.
        assert_eq!(relation(&primary, 180, &[(12, 1)], 0), apart(0));
        assert_eq!(relation(&primary, 180, &[(12, 1)], 500), apart(0));
        // It lost a tail that this one has.
        assert_eq!(relation(&primary, 180, &[(7, 1), (31, 120)], 170), apart(170));
        assert_eq!(relation(&primary, 180, &[(7, 1), (31, 120), (40, 171)], 300), apart(170));
        // The entry before the new generation was the last of the old one.
        assert_eq!(relation(&[(7, 1)], 120, &primary, 200), apart(119));
        // It was promoted, and this one went on; and the other way round.
        assert_eq!(relation(&primary, 200, &[(7, 1), (99, 90)], 130), apart(89));
        assert_eq!(relation(&[(7, 1), (99, 90)], 130, &primary, 200), apart(89));
        assert_eq!(relation(&[(7, 1)], 89, &[(7, 1), (99, 90)], 130), Relation::Prefix);
    }

    #[test]
    fn a_new_generation_takes_the_place_of_one_without_entries() {
        let mut own = lineage(&[(7, 1), (31, 120)]);
        own.begin(Generation { id: 40, first: Index(120) });
        assert_eq!(own, lineage(&[(7, 1), (40, 120)]));
        own.keep_until(Index(118));
        assert_eq!(own, lineage(&[(7, 1)]));
        assert_eq!(own.at(Index(500)).map(|one| one.id), Some(7));
        assert_eq!(own.at(Index(0)), None);
        for id in 0..2 * GENERATIONS_MAX {
            let id = u64::try_from(id).unwrap();
            own.begin(Generation { id: u128::from(id) + 1000, first: Index(200 + id) });
        }
        assert_eq!(own.list().len(), GENERATIONS_MAX);
    }

    #[test]
    fn text_comes_back_and_nonsense_does_not() {
        for list in [&[][..], &[(7, 1)], &[(u128::MAX, 1), (2, 1 << 40)]] {
            let own = lineage(list);
            assert_eq!(Lineage::from_text(&own.to_text()), Some(own));
        }
        for text in ["x", "7", "7:", "g:1", "0:1", "7:0", "7:2,8:2", "7:3,8:2", "7:1;8:2"] {
            assert_eq!(Lineage::from_text(text), None, "{text}");
        }
    }
}
