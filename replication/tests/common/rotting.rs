//! Clusters whose states are damaged, and what their states are made of.

use std::path::{Path, PathBuf};

use strandline_replication::{Event, Options, Refusal, Role};
use strandline_wal::disk::simulated::Random;

use super::{Cluster, options, voters};

/// Three, with small tables, of which there are some, and short logs.
pub fn cluster(seed: u64) -> Cluster {
    cluster_of(&[1, 2, 3], seed)
}

/// As [`cluster`], of these.
pub fn cluster_of(ids: &[u64], seed: u64) -> Cluster {
    let mut cluster = Cluster::empty(seed);
    for id in ids {
        let mut options = options(*id, &voters(ids), seed);
        options.db.engine.memtable_size = 16 << 10;
        options.db.engine.table_size = 16 << 10;
        cluster.add(Options { retention_bytes_max: 64 << 10, ..options });
        cluster.node(*id).rots = true;
    }
    cluster
}

pub fn write(cluster: &mut Cluster, count: u32) {
    let leader = cluster.elect();
    for at in 0..count {
        // Nothing that could be compressed, so that there are several tables.
        let mut random = Random::new(cluster.token);
        let key: Vec<u8> = (0..100).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        cluster.propose(leader, &[&key, &at.to_le_bytes()]);
        cluster.round();
    }
}

/// Enough for the log not to begin with the first entry any more.
pub fn fill(cluster: &mut Cluster) {
    write(cluster, 200);
    cluster.converge();
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    assert!(ids.into_iter().all(|id| cluster.replica(id).status().first.0 > 1));
}

pub fn follower(cluster: &Cluster) -> u64 {
    let leader = cluster.leader().unwrap();
    cluster.nodes.keys().copied().find(|id| *id != leader).unwrap()
}

/// The tables that make up the state of a replica that is open.
pub fn tables(cluster: &Cluster, id: u64) -> Vec<(PathBuf, u64)> {
    let db = cluster.replica(id).db();
    let files = db.checkpoint().files().into_iter().skip(1);
    files.map(|file| (db.find_file(&file.name).unwrap(), file.len)).collect()
}

/// The same, the manifest, and what names it.
pub fn files(cluster: &Cluster, id: u64) -> Vec<(PathBuf, u64)> {
    let mut files = tables(cluster, id);
    let all = cluster.nodes[&id].disk.files().into_iter();
    let is_manifest = |path: &Path| {
        let name = path.file_name().unwrap().display().to_string();
        name.starts_with("MANIFEST") || name == "CURRENT"
    };
    let manifests = all.filter(|file| is_manifest(&file.path));
    files.extend(manifests.map(|file| (file.path, file.len)));
    files
}

pub fn is_damaged(cluster: &Cluster, id: u64) -> bool {
    cluster.replica(id).status().state_damage.is_some()
}

pub fn replaced(cluster: &Cluster, id: u64) -> u64 {
    cluster.replica(id).status().states_replaced
}

/// A reader meets what is damaged, sooner or later.
pub fn read_all(cluster: &Cluster, id: u64) {
    let _ = cluster.replica(id).db().digest();
}

/// Everybody has the same, and the state of this one is sound.
pub fn check_sound(cluster: &mut Cluster, id: u64, context: &str) {
    cluster.elect();
    cluster.converge();
    assert!(cluster.replica(id).db().verify().unwrap().is_clean(), "{context}");
}

/// This leader has met damage: it takes nothing more, and another one leads.
pub fn hands_over(cluster: &mut Cluster, id: u64) {
    cluster.step(id, Event::Tick);
    assert!(is_damaged(cluster, id));
    let token = cluster.propose(id, &[b"too late"]);
    assert_eq!(cluster.refusal(id, token), Some(Refusal::NotLeader { leader: None }));
    cluster.until("another leads", |cluster| {
        cluster.replica(id).status().role != Role::Leader && cluster.leader().is_some()
    });
}
