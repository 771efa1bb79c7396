//! One row per workload, concurrency and peer: as JSON, one object per line, or as a table.
//!
//! The names of the fields are those of `docs/` and of scripts that read them; none is ever renamed.
//! Numbers are medians over the rounds that were kept; `ratio_*` is ours over theirs, round by round.

use serde::Serialize;

use crate::floors::{ceiling, floor, interval};
use crate::rounds::{Rounds, Score, Turn, median};

/// What is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Subject {
    /// `append`, `put`, `set` or `get`.
    pub workload: &'static str,
    /// Threads or connections.
    pub concurrency: usize,
    /// Requests in flight per connection; absent where there are no connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<usize>,
    /// Bytes of a value.
    pub value_bytes: usize,
}

/// A row of the comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What is measured.
    #[serde(flatten)]
    pub subject: Subject,
    /// Beside whom.
    pub peer: &'static str,
    /// The result, or why there is none.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a row says.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Both ran.
    Measured(Box<Measured>),
    /// Both counted something.
    Counted(Box<Counted>),
    /// One of them did not.
    Skipped {
        /// Why.
        skipped: String,
    },
}

/// Both in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Our operations per second.
    pub ours_ops_per_s: f64,
    /// Theirs.
    pub peer_ops_per_s: f64,
    /// Ours over theirs.
    pub ratio_median: f64,
    /// In our worst round.
    pub ratio_min: f64,
    /// In our best round.
    pub ratio_max: f64,
    /// From here on the median lies, in 19 cases of 20: see [`interval`].
    pub ratio_low: f64,
    /// And up to here.
    pub ratio_high: f64,
    /// What `ratio_low` must reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// Whether it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// 99 of 100 of our operations took at most this long.
    pub ours_p99_us: f64,
    /// And of theirs.
    pub peer_p99_us: f64,
    /// The system call that made our acknowledgement durable.
    pub ours_durable_by: String,
    /// And theirs.
    pub peer_durable_by: String,
    /// Whether both acknowledge only what is durable. A row where this is false compares nothing; it
    /// is listed apart.
    pub equal_durability: bool,
    /// How many rounds count.
    pub rounds: usize,
    /// How many were dropped because the bare disk was off in them.
    pub rounds_dropped: usize,
    /// The bare disk: the median of one synced write of 4 KiB.
    pub probe_us: f64,
    /// What else is known of us.
    pub ours: Detail,
    /// And of the peer.
    pub theirs: Detail,
}

/// Something that is counted and not timed; less is better. Numbers are medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Counted {
    /// What the counts are.
    pub unit: &'static str,
    /// Ours.
    pub ours_count: f64,
    /// Theirs.
    pub peer_count: f64,
    /// Ours over theirs.
    pub ratio_median: f64,
    /// In our best round.
    pub ratio_min: f64,
    /// In our worst round.
    pub ratio_max: f64,
    /// From here on the median lies: see [`interval`].
    pub ratio_low: f64,
    /// And up to here.
    pub ratio_high: f64,
    /// What `ratio_high` must not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<f64>,
    /// What no count of ours may pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours_count_max: Option<f64>,
    /// Whether neither was passed, where there is one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// How many rounds count.
    pub rounds: usize,
}

/// What is counted beside speed; medians over the rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Detail {
    /// Latencies at [`QUANTILES`](crate::rounds::QUANTILES), in microseconds.
    pub latency_us: Vec<f64>,
    /// Flushes of the device's cache for each acknowledgement.
    pub flushes_per_op: Option<f64>,
    /// Synced writes or calls of sync that it made itself for each acknowledgement, if it is known.
    pub syncs_per_op: Option<f64>,
    /// Bytes that the device wrote for each byte of a value.
    pub device_bytes_per_payload_byte: Option<f64>,
}

impl Detail {
    fn of(turns: &[Turn]) -> Detail {
        let over = |number: &dyn Fn(&Turn) -> Option<f64>| {
            let known: Vec<f64> = turns.iter().filter_map(number).collect();
            (!known.is_empty()).then(|| median(known))
        };
        let quantiles = 0..crate::rounds::QUANTILES.len();
        Detail {
            latency_us: quantiles
                .filter_map(|at| over(&|turn| turn.latency_us.get(at).copied()))
                .collect(),
            flushes_per_op: over(&|turn| turn.flushes_per_op),
            syncs_per_op: over(&|turn| turn.syncs_per_op),
            device_bytes_per_payload_byte: over(&|turn| turn.device_bytes_per_payload_byte),
        }
    }
}

impl Row {
    /// A row without a result.
    pub fn skipped(subject: &Subject, peer: &'static str, reason: impl Into<String>) -> Row {
        let outcome = Outcome::Skipped { skipped: reason.into() };
        Row { subject: subject.clone(), peer, outcome }
    }

    /// The row of one peer.
    pub fn new(subject: &Subject, rounds: &Rounds, peer: &Score, equal_durability: bool) -> Row {
        let ours = &rounds.scores[0];
        let (ours_turns, peer_turns) = match (&ours.turns, &peer.turns) {
            (Ok(ours), Ok(peer)) => (ours, peer),
            (Err(reason), _) | (_, Err(reason)) => {
                return Row::skipped(subject, peer.name, reason.clone());
            }
        };
        if ours_turns.is_empty() {
            return Row::skipped(
                subject,
                peer.name,
                "the disk was too unsteady: every round dropped",
            );
        }
        let ratios: Vec<f64> = ours_turns
            .iter()
            .zip(peer_turns)
            .map(|(ours, peer)| ours.ops_per_s / peer.ops_per_s)
            .collect();
        let over =
            |turns: &[Turn], number: fn(&Turn) -> f64| median(turns.iter().map(number).collect());
        let Subject { workload, concurrency, pipeline, .. } = *subject;
        let floor = floor(workload, concurrency, pipeline, peer.name);
        let (ratio_low, ratio_high) = interval(&ratios);
        let measured = Measured {
            ours_ops_per_s: over(ours_turns, |turn| turn.ops_per_s),
            peer_ops_per_s: over(peer_turns, |turn| turn.ops_per_s),
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(0.0, f64::max),
            ratio_median: median(ratios),
            ratio_low,
            ratio_high,
            floor,
            holds: floor.map(|floor| ratio_low >= floor),
            ours_p99_us: over(ours_turns, |turn| turn.p99_us),
            peer_p99_us: over(peer_turns, |turn| turn.p99_us),
            ours_durable_by: ours_turns[0].durable_by.clone(),
            peer_durable_by: peer_turns[0].durable_by.clone(),
            equal_durability,
            rounds: rounds.kept,
            rounds_dropped: rounds.dropped,
            probe_us: rounds.probe.as_secs_f64() * 1e6,
            ours: Detail::of(ours_turns),
            theirs: Detail::of(peer_turns),
        };
        Row {
            subject: subject.clone(),
            peer: peer.name,
            outcome: Outcome::Measured(Box::new(measured)),
        }
    }

    /// The row of one peer, of what both have counted.
    pub fn counted(subject: &Subject, rounds: &Rounds, peer: &Score, unit: &'static str) -> Row {
        let turns = match (&rounds.scores[0].turns, &peer.turns) {
            (Ok(ours), Ok(theirs)) => ours.iter().zip(theirs),
            (Err(reason), _) | (_, Err(reason)) => {
                return Row::skipped(subject, peer.name, reason.clone());
            }
        };
        let counts: Vec<(f64, f64)> = turns
            .clone()
            .filter_map(|(ours, theirs)| Some((ours.counted?, theirs.counted?)))
            .collect();
        if counts.is_empty() {
            return Row::skipped(subject, peer.name, "nothing was counted");
        }
        let ratios: Vec<f64> = counts.iter().map(|(ours, theirs)| ours / theirs).collect();
        let (ratio_low, ratio_high) = interval(&ratios);
        let ceiling = ceiling(subject.workload, peer.name);
        let below = ceiling.map(|ceiling| ratio_high <= ceiling);
        let within = turns
            .filter_map(|(ours, _)| Some(ours.counted? <= ours.counted_max?))
            .reduce(|one, other| one && other);
        let ours_count_max =
            rounds.scores[0].turns.iter().flatten().filter_map(|turn| turn.counted_max);
        let counted = Counted {
            unit,
            ours_count: median(counts.iter().map(|(ours, _)| *ours).collect()),
            peer_count: median(counts.iter().map(|(_, theirs)| *theirs).collect()),
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(0.0, f64::max),
            ratio_median: median(ratios),
            ratio_low,
            ratio_high,
            ceiling,
            ours_count_max: ours_count_max.reduce(f64::max),
            holds: match (below, within) {
                (None, None) => None,
                _ => Some(below.unwrap_or(true) && within.unwrap_or(true)),
            },
            rounds: counts.len(),
        };
        Row {
            subject: subject.clone(),
            peer: peer.name,
            outcome: Outcome::Counted(Box::new(counted)),
        }
    }

    /// The row as one line of JSON.
    ///
    /// # Panics
    ///
    /// Never: a row has no keys that JSON could not hold.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a row is plain fields")
    }

    /// The row as one line of the table.
    pub fn line(&self) -> String {
        let Subject { workload, concurrency, pipeline, .. } = &self.subject;
        let pipeline = pipeline.map(|depth| format!("x{depth}")).unwrap_or_default();
        let what =
            format!("{workload:<7} {:<8} {:<18}", format!("{concurrency}{pipeline}"), self.peer);
        match &self.outcome {
            Outcome::Skipped { skipped } => format!("{what} skipped: {skipped}"),
            Outcome::Counted(row) => format!(
                "{what} {:>9.1} {:>9.1} {:>7.3} {:>6.3}-{:<6.3} {}{}",
                row.ours_count,
                row.peer_count,
                row.ratio_median,
                row.ratio_min,
                row.ratio_max,
                row.unit,
                match row.holds {
                    Some(true) => "; within its bound",
                    Some(false) => "; OVER ITS BOUND",
                    None => "",
                }
            ),
            Outcome::Measured(row) => format!(
                "{what} {:>9.0} {:>9.0} {:>7.2} {:>6.2}-{:<6.2} {:>9.0} {:>9.0}  {} / {}{}{}{}",
                row.ours_ops_per_s,
                row.peer_ops_per_s,
                row.ratio_median,
                row.ratio_min,
                row.ratio_max,
                row.ours_p99_us,
                row.peer_p99_us,
                row.ours_durable_by,
                row.peer_durable_by,
                match (row.floor, row.holds) {
                    (Some(floor), Some(true)) => format!("; {:.2} >= {floor}", row.ratio_low),
                    (Some(floor), _) => format!("; {:.2} < {floor}: SHORT", row.ratio_low),
                    _ => String::new(),
                },
                if row.equal_durability { "" } else { "; NOT COMPARABLE" },
                match row.rounds_dropped {
                    0 => String::new(),
                    dropped => format!("; {dropped} rounds dropped"),
                },
            ),
        }
    }
}

/// The headings of the table.
pub fn heading() -> String {
    format!(
        "{:<7} {:<8} {:<18} {:>9} {:>9} {:>7} {:>13} {:>9} {:>9}  durable by",
        "what", "threads", "peer", "ours/s", "peer/s", "ratio", "min-max", "our p99", "its p99"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SUBJECT: Subject =
        Subject { workload: "put", concurrency: 8, pipeline: None, value_bytes: 256 };

    fn score(name: &'static str, numbers: &[f64]) -> Score {
        let turn = |ops: &f64| Turn {
            ops_per_s: *ops,
            p99_us: 5.0,
            durable_by: "sync".into(),
            ..Turn::default()
        };
        Score { name, turns: Ok(numbers.iter().map(turn).collect()) }
    }

    fn rounds(scores: Vec<Score>, kept: usize) -> Rounds {
        Rounds { scores, kept, dropped: 1, probe: Duration::from_micros(110) }
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        // The machine was half as fast in the second round, for both.
        let scores = vec![score("us", &[100.0, 50.0, 90.0]), score("them", &[50.0, 25.0, 30.0])];
        let rounds = rounds(scores, 3);
        let row = Row::new(&SUBJECT, &rounds, &rounds.scores[1], true);
        let value: serde_json::Value = serde_json::from_str(&row.json()).unwrap();
        assert_eq!(value["ratio_median"], 2.0);
        assert_eq!(value["ratio_min"], 2.0);
        assert_eq!(value["ratio_max"], 3.0);
        assert_eq!(value["ours_ops_per_s"], 90.0);
        assert_eq!(value["workload"], "put");
        assert_eq!(value["peer"], "them");
        assert_eq!(value["rounds_dropped"], 1);
        assert!(row.line().contains("2.00-3.00"));
    }

    #[test]
    fn a_peer_that_failed_is_a_row_with_the_reason() {
        let failed = Score { name: "them", turns: Err("the disk is full".into()) };
        let rounds = rounds(vec![score("us", &[1.0]), failed], 1);
        let row = Row::new(&SUBJECT, &rounds, &rounds.scores[1], true);
        let value: serde_json::Value = serde_json::from_str(&row.json()).unwrap();
        assert_eq!(value["skipped"], "the disk is full");
        assert!(value.get("ratio_median").is_none());
    }

    #[test]
    fn counts_are_held_to_their_bounds() {
        let counts = |name, counts: &[f64], max: Option<f64>| {
            let turn =
                |count: &f64| Turn { counted: Some(*count), counted_max: max, ..Turn::default() };
            Score { name, turns: Ok(counts.iter().map(turn).collect()) }
        };
        let subject = Subject { workload: "index-memory", ..SUBJECT };
        let said = |ours: Score, theirs: Score| {
            let rounds = rounds(vec![ours, theirs], 2);
            let row = Row::counted(&subject, &rounds, &rounds.scores[1], "bytes");
            serde_json::from_str::<serde_json::Value>(&row.json()).unwrap()
        };
        let row = said(counts("us", &[1.0, 2.0], None), counts("raft-engine", &[20.0, 10.0], None));
        assert_eq!((&row["ratio_max"], &row["ceiling"]), (&0.2.into(), &0.25.into()));
        assert_eq!((&row["ours_count"], &row["holds"]), (&1.5.into(), &true.into()));
        // One round over is one too many: too few rounds to leave any out.
        let row = said(counts("us", &[1.0, 3.0], None), counts("raft-engine", &[20.0, 10.0], None));
        assert_eq!(row["holds"], false);
        let row = said(counts("us", &[1.0, 3.0], Some(2.0)), counts("other", &[20.0; 2], None));
        assert_eq!((&row["ours_count_max"], &row["holds"]), (&2.0.into(), &false.into()));
        let row = said(counts("us", &[1.0], None), counts("other", &[20.0], None));
        assert!(row.get("holds").is_none() && row.get("ceiling").is_none());
    }

    #[test]
    fn no_round_left_is_said_aloud() {
        let rounds = rounds(vec![score("us", &[]), score("them", &[])], 0);
        let row = Row::new(&SUBJECT, &rounds, &rounds.scores[1], true);
        assert!(row.line().contains("unsteady"));
    }
}
