//! What a demo shows at its end: a table for people, an object for programs.

use std::fmt::Write;
use std::time::Duration;

use super::load::{Check, Ledger};

/// The result of a demo.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// How many nodes there were.
    pub(crate) nodes: u32,
    /// How long was written before the kill, in seconds.
    pub(crate) seconds: u64,
    /// Writes acknowledged per second before the kill.
    pub(crate) writes_per_s: u64,
    /// From the kill to the server's being ready again.
    pub(crate) ready_after: Duration,
    /// From the kill to the next acknowledged write.
    pub(crate) resumed_after: Duration,
    /// Writes acknowledged, before and after the kill.
    pub(crate) acknowledged: u64,
    /// Writes refused with an error.
    pub(crate) refused: u64,
    /// What reading back found.
    pub(crate) check: Check,
}

impl Report {
    /// Adds what was written.
    pub(crate) fn take_ledgers(&mut self, ledgers: &[Ledger]) {
        self.acknowledged += ledgers.iter().map(Ledger::acknowledged).sum::<u64>();
        self.refused += ledgers.iter().map(Ledger::refused).sum::<u64>();
    }

    /// Adds what was read back.
    pub(crate) fn take_check(&mut self, check: &Check) {
        self.check.right += check.right;
        self.check.lost += check.lost;
        self.check.wrong += check.wrong;
    }

    /// Whether every acknowledged write was read back, and there were some.
    pub(crate) fn is_good(&self) -> bool {
        let Check { right, lost, wrong } = self.check;
        lost == 0 && wrong == 0 && right == self.acknowledged && right > 0
    }

    /// For programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "nodes": self.nodes,
            "seconds": self.seconds,
            "acknowledged": self.acknowledged,
            "lost": self.check.lost,
            "wrong": self.check.wrong,
            "refused": self.refused,
            "writes_per_s": self.writes_per_s,
            "ready_after_ms": milliseconds(self.ready_after),
            "writes_resumed_after_ms": milliseconds(self.resumed_after),
        })
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let rows = [
            ("writes per second", grouped(self.writes_per_s)),
            ("acknowledged", grouped(self.acknowledged)),
            ("read back and right", grouped(self.check.right)),
            ("lost", grouped(self.check.lost)),
            ("wrong", grouped(self.check.wrong)),
            ("refused", grouped(self.refused)),
            ("writes resumed after", format!("{} ms", milliseconds(self.resumed_after))),
        ];
        let width = rows.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in rows {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {name:<22} {value:>width$}");
        }
        let verdict = match self.is_good() {
            true => "kill -9 in full load: lost: 0, every acknowledged write was read back",
            false => "NOT every acknowledged write was read back: this is a bug, please report it",
        };
        let _ = writeln!(text, "{verdict}");
        text
    }
}

/// A rate, rounded down.
pub(crate) fn per_second(count: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1000) / millis
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A number with its digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let texts = [0, 12, 123, 1234, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "12", "123", "1 234", "1 234 567"]);
    }

    #[test]
    fn one_lost_write_is_bad_and_so_is_having_shown_nothing() {
        let mut report = Report { acknowledged: 5, ..Report::default() };
        report.take_check(&Check { right: 5, lost: 0, wrong: 0 });
        assert!(report.is_good());
        assert_eq!(report.json()["lost"], 0);
        report.take_check(&Check { right: 0, lost: 1, wrong: 0 });
        assert!(!report.is_good());
        assert!(!Report::default().is_good(), "nothing was acknowledged");
    }
}
