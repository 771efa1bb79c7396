//! `LCS`: the longest common subsequence of two strings.

use crate::reader::Reader;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::value::Stored;

/// The most cells of the table of lengths: 64 Mi, a quarter of a gibibyte for the length of the call.
const CELLS_MAX: usize = 64 << 20;

/// The options of `LCS`.
#[derive(Default)]
struct Options {
    len: bool,
    idx: bool,
    match_len_min: usize,
    with_match_len: bool,
}

fn parse(args: Args<'_>) -> Result<Options, Refusal> {
    let mut options = Options::default();
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "len") {
            options.len = true;
        } else if args.is(at, "idx") {
            options.idx = true;
        } else if args.is(at, "withmatchlen") {
            options.with_match_len = true;
        } else if args.is(at, "minmatchlen") && at + 1 < args.len() {
            let min = super::numbers::integer(args.at(at + 1))?;
            options.match_len_min = usize::try_from(min).unwrap_or(0);
            at += 1;
        } else {
            return Err(Refusal::Syntax);
        }
        at += 1;
    }
    if options.len && options.idx {
        return Err(Refusal::other(
            "ERR If you want both the length and indexes, please just use IDX.",
        ));
    }
    Ok(options)
}

/// The lengths of common subsequences of all pairs of beginnings.
struct Lengths {
    cells: Vec<u32>,
    width: usize,
}

impl Lengths {
    fn new(one: &[u8], other: &[u8]) -> Result<Self, Refusal> {
        let width = other.len() + 1;
        let cells = width.checked_mul(one.len() + 1).filter(|cells| *cells <= CELLS_MAX).ok_or(
            Refusal::other("ERR Insufficient memory, transient memory for LCS exceeds the limit"),
        )?;
        let mut lengths = Self { cells: vec![0; cells], width };
        for i in 1..=one.len() {
            for j in 1..=other.len() {
                lengths.cells[i * width + j] = if one[i - 1] == other[j - 1] {
                    lengths.at(i - 1, j - 1) + 1
                } else {
                    lengths.at(i - 1, j).max(lengths.at(i, j - 1))
                };
            }
        }
        Ok(lengths)
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * self.width + j]
    }
}

/// Where equal bytes stand side by side: in the one string, in the other, and how many.
type Match = (usize, usize, usize);

/// The subsequence, and its parts from the last to the first.
fn walk_back(lengths: &Lengths, one: &[u8], other: &[u8]) -> (Vec<u8>, Vec<Match>) {
    let (mut i, mut j) = (one.len(), other.len());
    let mut common = Vec::new();
    let mut matches: Vec<Match> = Vec::new();
    while i > 0 && j > 0 {
        if one[i - 1] == other[j - 1] {
            (i, j) = (i - 1, j - 1);
            common.push(one[i]);
            match matches.last_mut() {
                Some(last) if last.0 == i + 1 && last.1 == j + 1 => *last = (i, j, last.2 + 1),
                _ => matches.push((i, j, 1)),
            }
        } else if lengths.at(i - 1, j) > lengths.at(i, j - 1) {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    common.reverse();
    (common, matches)
}

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN len] [WITHMATCHLEN]`
pub(super) fn lcs(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let options = parse(args)?;
    let (one, other) = (reader.find(args.at(1))?, reader.find(args.at(2))?);
    let one = one.as_ref().map_or(&[][..], Stored::payload);
    let other = other.as_ref().map_or(&[][..], Stored::payload);
    let lengths = Lengths::new(one, other)?;
    let (common, matches) = walk_back(&lengths, one, other);
    if options.len {
        reply.count(common.len());
    } else if options.idx {
        let long: Vec<_> =
            matches.iter().filter(|found| found.2 >= options.match_len_min).collect();
        reply.map(2);
        reply.bulk(b"matches");
        reply.array(long.len());
        for (i, j, len) in long {
            reply.array(if options.with_match_len { 3 } else { 2 });
            for start in [i, j] {
                reply.array(2);
                reply.count(*start);
                reply.count(start + len - 1);
            }
            if options.with_match_len {
                reply.count(*len);
            }
        }
        reply.bulk(b"len");
        reply.count(common.len());
    } else {
        reply.bulk(&common);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_common_subsequence_is_found() {
        let (one, other) = (b"ohmytext", b"mynewtext");
        let (common, matches) = walk_back(&Lengths::new(one, other).unwrap(), one, other);
        assert_eq!(common, b"mytext");
        assert_eq!(matches, [(4, 5, 4), (2, 0, 2)]);
    }
}
