//! What the disks of a cluster do, and what becomes of them.

use strandline_replication::Event;
use strandline_wal::disk::SimulatedDisk;

use super::Cluster;

impl Cluster {
    /// Puts an empty disk under a node.
    pub fn replace_disk(&mut self, id: u64) {
        self.crash(id, true);
        let node = self.node(id);
        node.disk = SimulatedDisk::new(id + 1000);
        node.options.seed += 1;
        self.open(id).unwrap();
    }

    /// Lets durable writes end.
    pub fn turn_disks(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().filter(|id| *id != self.hangs).collect();
        for id in ids {
            let mut ended = false;
            for _ in 0..self.nodes[&id].disk.in_flight().len() {
                let speed = if self.slow == id { self.disk_speed / 10 } else { self.disk_speed };
                if self.random.chance(speed) {
                    ended |= self.nodes[&id].disk.complete_one().is_some();
                }
            }
            if ended {
                self.step(id, Event::LogMoved);
            }
        }
    }
}
