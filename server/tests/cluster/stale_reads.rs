//! Reads on a follower after `READONLY`, on real processes: answered there while its state is proven to be
//! young enough, and never beyond that.

use std::time::Instant;

use crate::harness::Cluster;
use crate::process::PATIENCE;

/// A node that follows.
fn follower(cluster: &Cluster) -> usize {
    let leader = cluster.leader();
    let place = (0..3).find(|place| *place != leader).unwrap();
    let mut client = cluster.client(place);
    client.await_word("info replication", "master_link_status:up");
    place
}

fn count_of(info: &str, name: &str) -> i64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|number| number.trim().parse().ok()).unwrap()
}

#[test]
fn a_follower_answers_alone_within_the_bound_and_not_beyond_it() {
    let mut cluster = Cluster::start(3);
    let at = follower(&cluster);
    let mut strict = cluster.client(at);
    strict.await_answer("set colour blue", "OK");
    assert_eq!(strict.ask("get colour"), "blue");
    assert_eq!(count_of(&strict.ask("info replication"), "stale_reads"), 0, "nobody has asked");

    // Long enough for a machine that stands still in between.
    strict.ask("config set stale-read-max-ms 600000");
    let told = strict.ask("config get stale-read-max-ms");
    assert_eq!(told, "stale-read-max-ms 600000");
    let mut loose = cluster.client(at);
    assert_eq!(loose.ask("readonly"), "OK");
    loose.await_answer("get colour", "blue");
    let began = Instant::now();
    let info = loop {
        loose.await_answer("get colour", "blue");
        let info = strict.ask("info replication");
        if count_of(&info, "stale_reads") > 0 {
            break info;
        }
        assert!(began.elapsed() < PATIENCE, "{info}");
    };
    assert_eq!(count_of(&info, "stale_read_max_ms"), 600_000);
    assert!(count_of(&strict.ask("info replication"), "staleness_ms") >= 0);

    // Alone: as of now nothing can be said, and what was proven is young enough for who takes it.
    (0..3).filter(|place| *place != at).for_each(|place| cluster.kill(place));
    strict.await_word("get colour", "CLUSTERDOWN");
    assert_eq!(loose.ask("get colour"), "blue");
    // It ends with the bound, and with the wish.
    strict.ask("config set stale-read-max-ms 1");
    assert!(loose.ask("get colour").contains("CLUSTERDOWN"));
    strict.ask("config set stale-read-max-ms 600000");
    assert_eq!(loose.ask("get colour"), "blue");
    assert_eq!(loose.ask("readwrite"), "OK");
    assert!(loose.ask("get colour").contains("CLUSTERDOWN"));
    loose.ask("readonly");
    assert_eq!(loose.ask("get colour"), "blue");
    strict.ask("config set stale-read-max-ms 0");
    assert!(loose.ask("get colour").contains("CLUSTERDOWN"));
}
