//! How many nodes have a write, asked of any node: the answer is the leader's, and true.

use std::time::Instant;

use crate::harness::Cluster;

#[test]
fn any_node_says_how_many_others_have_what_its_client_wrote() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let followers: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    for place in 0..3 {
        let mut client = cluster.client(place);
        for round in 0..5 {
            assert_eq!(client.ask(&format!("set k{place} {round}")), "OK");
            assert_eq!(client.ask("wait 2 0"), "2", "node {place}");
            assert_eq!(client.ask("waitaof 1 2 0"), "1 2", "node {place}");
        }
    }

    // A follower that stands still has nothing of what comes now: one is the truth, on both others.
    let (asked, still) = (followers[0], followers[1]);
    cluster.signal(still, "-STOP");
    for place in [asked, leader] {
        let mut client = cluster.client(place);
        assert_eq!(client.ask("set more 1"), "OK");
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
    assert_eq!(client.ask("set last 1"), "OK");
    cluster.kill(leader);
    let leader = cluster.leader_among(&followers);
    let other = followers[usize::from(followers[0] == leader)];
    assert_eq!(client.ask("wait 1 0"), "1");
    let mut client = cluster.client(other);
    assert_eq!(client.ask("set last 2"), "OK");
    assert_eq!(client.ask("wait 2 50"), "1");

    // Nobody leads: that is said, and no number.
    cluster.signal(leader, "-STOP");
    let answer = client.ask("wait 1 1000");
    assert!(answer.starts_with("-CLUSTERDOWN"), "{answer}");
    cluster.signal(leader, "-CONT");
}
