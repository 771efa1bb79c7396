//! A leader wakes that all had elected, and others have another one since.

use strandline_replication::Event;

use super::Cluster;

/// Acknowledged by the second leader and by the follower that loses its disk.
pub const PRECIOUS: &[u8] = b"precious";

/// The first leader is paused, the others elect the second and acknowledge an entry. One of the two loses its disk and
/// the other is away when the first wakes, and believes that it leads. Later all are there.
pub fn leader_meets_replaced_disk(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(3, seed);
    let first = cluster.elect();
    cluster.rounds(20);
    let second = cluster.pause_leader();
    let token = cluster.propose(second, &[PRECIOUS]);
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
    let replaced = (1..=3).find(|id| ![first, second].contains(id)).unwrap();
    cluster.crash(second, true);
    // Nothing tells of the second leader any more.
    cluster.queue.clear();
    cluster.replace_disk(replaced);
    cluster.heal();
    cluster.propose(first, &[b"in its place"]);
    cluster.wake_slowly(first);
    cluster.paused = 0;
    cluster.rounds(30);
    cluster.open(second).unwrap();
    cluster.elect();
    cluster
}

impl Cluster {
    /// The leader is cut off and does not notice that time passes; returns the leader that the others elect.
    pub fn pause_leader(&mut self) -> u64 {
        let first = self.leader().unwrap();
        self.isolate(first);
        self.paused = first;
        self.until("another leader", |cluster| cluster.leader() != Some(first));
        self.leader().unwrap()
    }

    /// A leader that was paused hears others again; its clock is slow to say that it has long heard nobody.
    pub fn wake_slowly(&mut self, id: u64) {
        for _ in 0..6 {
            self.step(id, Event::Tick);
            self.rounds(4);
        }
    }
}
