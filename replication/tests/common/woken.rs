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
    // It does not notice that time passes.
    cluster.isolate(first);
    cluster.paused = first;
    cluster.until("another leader", |cluster| cluster.leader() != Some(first));
    let second = cluster.leader().unwrap();
    let token = cluster.propose(second, &[PRECIOUS]);
    cluster.until("acknowledged", |cluster| cluster.acknowledged.contains(&token));
    let replaced = (1..=3).find(|id| ![first, second].contains(id)).unwrap();
    cluster.crash(second, true);
    // Nothing tells of the second leader any more.
    cluster.queue.clear();
    cluster.replace_disk(replaced);
    cluster.heal();
    cluster.propose(first, &[b"in its place"]);
    // Its clock is slow to say that it has long heard nobody.
    for _ in 0..6 {
        cluster.step(first, Event::Tick);
        cluster.rounds(4);
    }
    cluster.paused = 0;
    cluster.rounds(30);
    cluster.open(second).unwrap();
    cluster.elect();
    cluster
}
