//! A network that loses, delays, doubles, reorders and garbles, and that can be cut.
//!
//! Messages are bytes. A link goes one way, from one replica to another, and keeps the order of what
//! it carries unless reordering is on. Whether a message arrives is decided when it is sent; a cut also
//! loses what is under way, which is asked again on arrival ([`Network::is_cut`]).
//!
//! | cut | who hears whom |
//! |---|---|
//! | [`Cut::Split`] | two sides, each only itself |
//! | [`Cut::Pair`] | two replicas do not hear each other; both hear the others |
//! | [`Cut::OneWay`] | one is heard by nobody, or hears nobody |
//! | [`Cut::Bridge`] | two sides, and one replica that hears both |

use std::collections::{BTreeMap, BTreeSet};

use strandline_replication::ReplicaId;
use strandline_wal::disk::simulated::Random;

use crate::time::Time;

/// What the network does to messages. Chances are in parts of a thousand, spans in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Chance that a message is lost.
    pub loss: u32,
    /// Chance that it arrives twice.
    pub duplicates: u32,
    /// Chance that a bit of it is inverted.
    pub garbling: u32,
    /// Shortest delay.
    pub delay_min: u64,
    /// Longest delay.
    pub delay_max: u64,
    /// Chance that a message takes up to `spike_max` longer.
    pub spikes: u32,
    /// The longest extra delay.
    pub spike_max: u64,
    /// Whether messages overtake each other on a link.
    pub reorders: bool,
}

impl Weather {
    /// A quiet local network.
    pub const FAIR: Weather = Weather {
        loss: 0,
        duplicates: 0,
        garbling: 0,
        delay_min: 100,
        delay_max: 500,
        spikes: 0,
        spike_max: 0,
        reorders: false,
    };
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When it arrives.
    pub at: Time,
    /// What arrives.
    pub bytes: Vec<u8>,
}

/// A way of cutting the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Two sides.
    Split,
    /// Two replicas from each other.
    Pair,
    /// One replica in one direction.
    OneWay,
    /// Two sides with one replica that reaches both.
    Bridge,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages handed over.
    pub sent: u64,
    /// Messages lost, at a cut or by chance.
    pub lost: u64,
    /// Messages that arrive twice.
    pub doubled: u64,
    /// Messages with an inverted bit.
    pub garbled: u64,
    /// Cuts made.
    pub cuts: u64,
}

/// The network between the replicas.
#[derive(Debug)]
pub struct Network {
    /// What it does now.
    pub weather: Weather,
    /// What it has done.
    pub counters: Counters,
    /// Links that carry nothing, as (from, to).
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    /// When the last message of a link arrives, so that order is kept.
    last: BTreeMap<(ReplicaId, ReplicaId), Time>,
    random: Random,
}

impl Network {
    /// A network in this weather.
    pub fn new(weather: Weather, random: Random) -> Self {
        let (cut, last) = (BTreeSet::new(), BTreeMap::new());
        Self { weather, counters: Counters::default(), cut, last, random }
    }

    /// When, and as what, the bytes arrive: not at all, once or twice.
    pub fn send(
        &mut self,
        now: Time,
        from: ReplicaId,
        to: ReplicaId,
        mut bytes: Vec<u8>,
    ) -> Vec<Delivery> {
        self.counters.sent += 1;
        if self.is_cut(from, to) || self.random.chance(self.weather.loss) {
            self.counters.lost += 1;
            return Vec::new();
        }
        if !bytes.is_empty() && self.random.chance(self.weather.garbling) {
            self.counters.garbled += 1;
            let at = self.random.index(bytes.len());
            bytes[at] ^= 1 << self.random.below(8);
        }
        let mut deliveries = Vec::with_capacity(1);
        if self.random.chance(self.weather.duplicates) {
            self.counters.doubled += 1;
            deliveries.push(Delivery { at: self.arrival(now, from, to), bytes: bytes.clone() });
        }
        deliveries.push(Delivery { at: self.arrival(now, from, to), bytes });
        deliveries
    }

    fn arrival(&mut self, now: Time, from: ReplicaId, to: ReplicaId) -> Time {
        let weather = &self.weather;
        let between = weather.delay_max.saturating_sub(weather.delay_min);
        let mut delay = weather.delay_min + self.random.below(between + 1);
        if self.random.chance(weather.spikes) {
            delay += self.random.below(weather.spike_max + 1);
        }
        let mut at = now.after(delay);
        if !weather.reorders {
            let last = self.last.entry((from, to)).or_default();
            at = at.max(*last);
            *last = at;
        }
        at
    }

    /// Whether the link carries nothing.
    pub fn is_cut(&self, from: ReplicaId, to: ReplicaId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Cuts links between these replicas, drawn at random, in addition to what is cut already.
    /// `favoured`, the leader say, is rather cut off than any other.
    pub fn cut(&mut self, cut: Cut, replicas: &[ReplicaId], favoured: Option<ReplicaId>) {
        if replicas.len() < 2 {
            return;
        }
        self.counters.cuts += 1;
        let mut order = replicas.to_vec();
        for at in (1..order.len()).rev() {
            order.swap(at, self.random.index(at + 1));
        }
        if let Some(at) = favoured.and_then(|id| order.iter().position(|other| *other == id))
            && self.random.chance(500)
        {
            order.swap(0, at);
        }
        match cut {
            Cut::Split => {
                let (left, right) = order.split_at(1 + self.random.index(order.len() - 1));
                self.cut_between(left, right);
            }
            Cut::Pair => self.cut_between(&order[..1], &order[1..2]),
            Cut::OneWay => {
                let outward = self.random.chance(500);
                for other in &order[1..] {
                    let link = if outward { (order[0], *other) } else { (*other, order[0]) };
                    self.cut.insert(link);
                }
            }
            Cut::Bridge => {
                let sides = &order[1..];
                let (left, right) = sides.split_at(sides.len() / 2);
                self.cut_between(left, right);
            }
        }
    }

    /// Cuts one replica off from the others.
    pub fn cut_off(&mut self, id: ReplicaId, replicas: &[ReplicaId]) {
        self.counters.cuts += 1;
        let others: Vec<ReplicaId> =
            replicas.iter().copied().filter(|other| *other != id).collect();
        self.cut_between(&[id], &others);
    }

    fn cut_between(&mut self, left: &[ReplicaId], right: &[ReplicaId]) {
        for one in left {
            for other in right {
                self.cut.insert((*one, *other));
                self.cut.insert((*other, *one));
            }
        }
    }

    /// Joins everything again.
    pub fn join(&mut self) {
        self.cut.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u64) -> Vec<ReplicaId> {
        (1..=count).map(ReplicaId).collect()
    }

    #[test]
    fn a_fair_network_keeps_order_and_loses_nothing() {
        let mut network = Network::new(Weather::FAIR, Random::new(1));
        let mut last = Time(0);
        for number in 0..100 {
            let sent = network.send(Time(number), ReplicaId(1), ReplicaId(2), vec![7]);
            assert_eq!(sent.len(), 1);
            assert!(sent[0].at >= last && sent[0].at >= Time(number + 100));
            last = sent[0].at;
        }
        assert_eq!(network.counters, Counters { sent: 100, ..Counters::default() });
    }

    #[test]
    fn foul_weather_loses_doubles_garbles_and_reorders() {
        let weather =
            Weather { loss: 300, duplicates: 300, garbling: 300, reorders: true, ..Weather::FAIR };
        let mut network = Network::new(weather, Random::new(2));
        let mut arrivals = Vec::new();
        for _ in 0..1000 {
            arrivals.extend(network.send(Time(0), ReplicaId(1), ReplicaId(2), vec![0; 4]));
        }
        let counters = network.counters;
        assert!((200..400).contains(&counters.lost), "{counters:?}");
        assert!((100..300).contains(&counters.doubled), "{counters:?}");
        assert!((100..300).contains(&counters.garbled), "{counters:?}");
        assert!(arrivals.windows(2).any(|pair| pair[0].at > pair[1].at));
        assert!(arrivals.iter().any(|delivery| delivery.bytes != [0; 4]));
    }

    #[test]
    fn each_cut_cuts_what_it_says() {
        let links = |network: &Network, ids: &[ReplicaId]| {
            let pairs = ids.iter().flat_map(|one| ids.iter().map(move |other| (*one, *other)));
            pairs.filter(|(one, other)| network.is_cut(*one, *other)).count()
        };
        for seed in 0..50 {
            let mut network = Network::new(Weather::FAIR, Random::new(seed));
            network.cut(Cut::Pair, &ids(5), None);
            assert_eq!(links(&network, &ids(5)), 2);
            network.join();
            network.cut(Cut::OneWay, &ids(5), Some(ReplicaId(3)));
            assert_eq!(links(&network, &ids(5)), 4);
            network.join();
            network.cut(Cut::Bridge, &ids(5), None);
            assert_eq!(links(&network, &ids(5)), 8);
            network.join();
            network.cut(Cut::Split, &ids(5), None);
            assert!([8, 12].contains(&links(&network, &ids(5))));
            let one = ids(5).into_iter().find(|id| network.is_cut(*id, ReplicaId(1)));
            assert!(
                one.is_none_or(|id| network.send(Time(0), id, ReplicaId(1), vec![]).is_empty())
            );
            network.join();
            assert_eq!(links(&network, &ids(5)), 0);
        }
    }
}
