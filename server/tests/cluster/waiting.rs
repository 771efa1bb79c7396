//! How many nodes have a write, asked of any node: the answer is the leader's, and true.

use std::time::Instant;

use crate::harness::Cluster;

#[test]
fn any_node_says_how_many_others_have_what_its_client_wrote() {
    let mut cluster = Cluster::start(3);
    for place in 0..3 {
        let mut client = cluster.client(place);
        for round in 0..5 {
            client.await_answer(&format!("set k{place} {round}"), "OK");
            assert_eq!(client.ask("wait 2 0"), "2", "node {place}");
            assert_eq!(client.ask("waitaof 1 2 0"), "1 2", "node {place}");
        }
    }

    // A follower that stands still has nothing of what comes now: one is the truth, on both others.
    let leader = cluster.leader();
    let followers: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    let (asked, still) = (followers[0], followers[1]);
    cluster.signal(still, "-STOP");
    for place in [asked, leader] {
        let mut client = cluster.client(place);
        client.await_answer("set more 1", "OK");
        assert_eq!(client.ask("wait 1 0"), "1", "node {place}");
        let began = Instant::now();
        assert_eq!(client.ask("wait 2 300"), "1", "node {place}");
        assert!(began.elapsed().as_millis() >= 300);
        assert_eq!(client.ask("waitaof 1 2 50"), "1 1", "node {place}");
    }
    cluster.signal(still, "-CONT");
    let mut client = cluster.client(asked);
    assert_eq!(client.ask("wait 2 0"), "2");

    // Who was asked by a client that had written before the leader died asks the next one.
    client.await_answer("set last 1", "OK");
    cluster.kill(leader);
    cluster.leader_among(&followers);
    assert_eq!(client.ask("wait 1 0"), "1");

    // Nobody leads: that is said, and no number. On a loaded machine the one that is asked may have come to
    // lead meanwhile; then it knows.
    for _ in 0..100 {
        let leader = cluster.leader_among(&followers);
        let other = followers[usize::from(followers[0] == leader)];
        let mut client = cluster.client(other);
        client.await_answer("set last 2", "OK");
        assert_eq!(client.ask("wait 2 50"), "1");
        cluster.signal(leader, "-STOP");
        let answer = client.ask("wait 1 1000");
        cluster.signal(leader, "-CONT");
        if answer.starts_with("-CLUSTERDOWN") {
            return;
        }
        assert_eq!(answer, "1");
    }
    panic!("always another leads");
}
