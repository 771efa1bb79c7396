//! What runs amounted to.

use crate::time::SECOND;

macro_rules! figures {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// How much of what there was.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Figures {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Figures {
            /// Adds those of another run.
            pub fn add(&mut self, other: &Figures) {
                $(self.$field += other.$field;)*
            }

            /// All of them by name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)*]
            }
        }
    };
}

figures! {
    /// Runs.
    seeds,
    /// Virtual time in microseconds.
    simulated_us,
    /// Virtual time of second runs, which are compared with the first and not counted elsewhere.
    repeated_us,
    /// Things that happened.
    events,
    /// Nodes that lost power, in blackouts too.
    power_cuts,
    /// Processes killed.
    kills,
    /// Processes closed in good order.
    restarts,
    /// Cuts of the network.
    partitions,
    /// Messages handed to the network.
    messages,
    /// Messages that were refused by who received them.
    messages_refused,
    /// Operations of disks that were made to fail.
    failed_operations,
    /// Replicas that stopped with an error.
    stops,
    /// Disks that were full for a while.
    full_disks,
    /// Disks that rotted or had a write go astray.
    damages,
    /// Damaged states that were replaced by a leader's.
    states_replaced,
    /// Replicas that were not let in again because of their disk.
    lost_replicas,
    /// Disks replaced by empty ones.
    wipes,
    /// Changes of membership asked for.
    membership_changes,
    /// Terms that had a leader.
    elections,
    /// Commands executed, once each.
    executed,
    /// Snapshots installed, as told by replicas that began from one.
    snapshots,
    /// Sessions opened.
    sessions,
    /// Writes acknowledged.
    acknowledged,
    /// Writes refused for good.
    refused,
    /// Writes whose outcome was never learnt.
    unknown,
    /// Attempts beyond the first of a request.
    retries,
    /// Reads answered.
    reads,
    /// Reads that a replica answered alone, from a state that may be stale.
    stale_reads,
    /// Reads that a leader answered by its lease.
    lease_reads,
    /// Whole states compared with the model.
    states_compared,
    /// Calls decided by the check for linearizability.
    operations_checked,
    /// Registers decided.
    registers_checked,
    /// Registers given up.
    inconclusive,
}

impl Figures {
    /// Virtual time in hours, with two decimals.
    pub fn simulated_hours(&self) -> String {
        let hundredths = self.simulated_us / (36 * SECOND);
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    }

    /// How many times faster than real time all of it was, if it took so many microseconds.
    pub fn speed(&self, took_us: u64) -> u64 {
        (self.simulated_us + self.repeated_us) / took_us.max(1)
    }

    /// Registers given up, in parts of a hundred thousand.
    pub fn inconclusive_share(&self) -> u64 {
        let all = self.registers_checked + self.inconclusive;
        (self.inconclusive * 100_000).checked_div(all).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_add_up() {
        let mut sum = Figures { simulated_us: 3600 * SECOND, ..Figures::default() };
        sum.add(&Figures { simulated_us: 1800 * SECOND, inconclusive: 1, ..Figures::default() });
        assert_eq!(sum.simulated_hours(), "1.50");
        sum.registers_checked = 999;
        assert_eq!(sum.inconclusive_share(), 100);
        assert!(sum.all().contains(&("inconclusive", 1)));
    }
}
