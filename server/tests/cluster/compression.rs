//! Nodes whose logs are compressed, beside one whose log is not.

use crate::harness::Cluster;

const COUNT: usize = 20;

/// Large beside the block that any group takes on the disk, however many of those a slow machine
/// writes for elections; below the 64 KiB that a line may have.
fn value(name: &str, number: usize) -> String {
    format!("{name}-{number}-").repeat(4500)
}

fn fill(cluster: &Cluster, place: usize, name: &str) {
    let mut client = cluster.client(place);
    for number in 0..COUNT {
        client.await_answer(&format!("set {name}:{number} {}", value(name, number)), "OK");
    }
}

/// Whether more went into the log of a node in this life than was written to its disk.
fn is_compressed(cluster: &Cluster, place: usize) -> bool {
    let info = cluster.client(place).ask("info persistence");
    let figure = |name: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().parse().unwrap()
    };
    figure("log_written") < figure("log_payload")
}

#[test]
fn some_logs_are_compressed_and_all_nodes_hold_the_same() {
    let lines = |place| if place < 2 { "log-compression = \"lz4\"" } else { "" };
    let mut cluster = Cluster::start_with(3, lines);
    let leader = cluster.leader();
    fill(&cluster, leader, "first");
    assert_eq!(
        cluster.client(leader).ask("config get log-compression").contains("lz4"),
        leader < 2
    );
    let mut client = cluster.client(leader);
    client.await_answer("set all 1", "OK");
    client.await_answer("wait 2 0", "2");
    for place in 0..3 {
        assert_eq!(is_compressed(&cluster, place), place < 2, "node {place}");
    }

    // Each in turn is away, and is sent from files of who was killed meanwhile what it lacks.
    for away in 0..3 {
        let others: Vec<usize> = (0..3).filter(|place| *place != away).collect();
        cluster.kill(away);
        let leader = cluster.leader_among(&others);
        fill(&cluster, leader, &format!("without-{away}"));
        others.iter().for_each(|place| cluster.kill(*place));
        (0..3).for_each(|place| cluster.restart(place));
        let leader = cluster.leader();
        let mut client = cluster.client(leader);
        client.await_answer("set all 2", "OK");
        client.await_answer("wait 2 0", "2");
    }
    for place in 0..3 {
        let mut client = cluster.client(place);
        for name in ["first", "without-0", "without-1", "without-2"] {
            for number in 0..COUNT {
                client.await_answer(&format!("get {name}:{number}"), &value(name, number));
            }
        }
        client.await_answer("dbsize", "81");
    }
}
